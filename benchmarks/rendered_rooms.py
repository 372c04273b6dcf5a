"""Footage that is rendered: a hand at a table in a room, whose things others may share."""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import cv2
import numpy as np

WIDTH, HEIGHT = 320, 240
ROOM_CLIPS = 10
FIXED = 4  # clips of a room that one fixed camera films
SKINS = ((226, 172, 140), (198, 140, 106), (152, 102, 74), (110, 72, 52))
Frame = np.ndarray
Film = Callable[[float], Frame]  # seconds of the footage -> uint8 [240, 320, 3]


def texture(rng: np.random.Generator, height: int, width: int, rough: float) -> np.ndarray:
    """Noise of several octaves, float32 [H, W], about -1 to 1."""
    total = np.zeros((height, width), np.float32)
    for octave in range(2, 7):
        cells = rng.standard_normal((2**octave, 2**octave)).astype(np.float32)
        total += cv2.resize(cells, (width, height), interpolation=cv2.INTER_CUBIC) * rough**octave
    return total / np.abs(total).max()


@lru_cache(maxsize=4)
def room(seed: int) -> np.ndarray:
    """A wall, a table and things on it, float32 [480, 640, 3]; larger than what a camera sees."""
    rng = np.random.default_rng((1, seed))
    canvas = np.empty((480, 640, 3), np.float32)
    horizon = int(rng.integers(60, 260))
    for part in (slice(0, horizon), slice(horizon, 480)):
        tint = rng.integers(60, 220, 3).astype(np.float32)
        grain = texture(rng, 480, 640, float(rng.uniform(0.5, 0.95)))[part, :, None]
        canvas[part] = tint * (1 + 0.35 * float(rng.uniform(0.2, 1)) * grain)
    for _ in range(int(rng.integers(4, 16))):
        centre = (int(rng.integers(0, 640)), int(rng.integers(0, 480)))
        paint_thing(canvas, rng, centre, float(rng.uniform(15, 70)))
    return cv2.GaussianBlur(canvas, (0, 0), float(rng.uniform(0.5, 2.0)))


def paint_thing(
    canvas: np.ndarray, rng: np.random.Generator, at: tuple[int, int], size: float
) -> None:
    """A box, plate or blob in one colour with a lighter side."""
    color = rng.integers(20, 250, 3).astype(float).tolist()
    axes = int(size * rng.uniform(0.5, 1)) + 2, int(size * rng.uniform(0.5, 1)) + 2
    turn = float(rng.uniform(0, 180))
    if rng.random() < 0.5:
        corners = cv2.boxPoints((at, (2 * axes[0], 2 * axes[1]), turn)).astype(np.int32)
        cv2.fillConvexPoly(canvas, corners, color, cv2.LINE_AA)
    else:
        cv2.ellipse(canvas, at, axes, turn, 0, 360, color, -1, cv2.LINE_AA)
    lit = [min(255.0, 1.25 * c) for c in color]
    inner = axes[0] // 2 + 1, axes[1] // 2 + 1
    cv2.ellipse(canvas, (at[0] - 3, at[1] - 3), inner, turn, 0, 360, lit, -1, cv2.LINE_AA)


def wander(rng: np.random.Generator, speed: float) -> Callable[[float], np.ndarray]:
    """A smooth path: float [2] at each second, about -1 to 1."""
    frequency = rng.uniform(0.15, 0.6, (2, 3)) * speed
    phase, weight = rng.uniform(0, 2 * np.pi, (2, 3)), rng.dirichlet((1, 1, 1), 2)
    return lambda at_s: (weight * np.sin(2 * np.pi * frequency * at_s + phase)).sum(1)


def rendered(number: int) -> tuple[Film, bool]:
    """The footage of one rendered clip, and whether its camera moves."""
    rng = np.random.default_rng((2, number))
    moves = number % ROOM_CLIPS >= FIXED
    shares = number // ROOM_CLIPS % 2 == 0
    place = number // ROOM_CLIPS if shares else 1_000_000 + number
    sway, walk = (float(rng.uniform(10, 60)), wander(rng, 1.0)) if moves else (0.0, wander(rng, 0))
    zoom = float(rng.uniform(1.0, 1.25)) if moves else 1.1
    reach, tempo = wander(rng, float(rng.uniform(0.4, 1.4))), float(rng.uniform(0.85, 1.15))
    home = rng.uniform((0.2, 0.3), (0.8, 0.8)) * (WIDTH, HEIGHT)
    span = rng.uniform(0.15, 0.4, 2) * (WIDTH, HEIGHT)
    skin = np.array(SKINS[int(rng.integers(4))], float)
    sleeve = rng.integers(20, 240, 3).astype(float).tolist()
    props = [
        (int(rng.integers(1 << 30)), rng.uniform(0.1, 0.9, 2)) for _ in range(rng.integers(1, 5))
    ]

    def at(second: float) -> Frame:
        shift = walk(second) * sway if moves else (0.0, 0.0)
        matrix = np.array([[1, 0, 320 + shift[0]], [0, 1, 240 + shift[1]]]) / 1.0
        matrix[:, :2] *= zoom
        matrix[:, 2] -= zoom * np.array([WIDTH, HEIGHT]) / 2
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        canvas = cv2.warpAffine(
            room(place), matrix, (WIDTH, HEIGHT), flags=flags, borderMode=cv2.BORDER_REFLECT
        )
        grasp = home + reach(second) * span - np.asarray(shift)
        for index, (seed, corner) in enumerate(props):
            spot = grasp if index == 0 else corner * (WIDTH, HEIGHT) - np.asarray(shift)
            paint_thing(canvas, np.random.default_rng(seed), (int(spot[0]), int(spot[1])), 26)
        paint_hand(canvas, grasp, skin, sleeve, math.sin(second * tempo))
        return np.clip(canvas * tempo, 0, 255).astype(np.uint8)

    return at, moves


def paint_hand(
    canvas: np.ndarray, grasp: np.ndarray, skin: np.ndarray, sleeve: Any, grip: float
) -> None:
    """A forearm from the lower edge, a palm and five fingers that open and close."""

    def line(a: np.ndarray, b: np.ndarray, color: Any, thick: int) -> None:
        ends = [(int(p[0] * 8), int(p[1] * 8)) for p in (a, b)]
        cv2.line(canvas, *ends, color, thick, cv2.LINE_AA, shift=3)

    wrist = np.add(grasp, (0, 45))
    elbow, cuff = np.add(wrist, (30, 160)), np.add(wrist, (4, 22))
    line(elbow, cuff, sleeve, 40)
    line(cuff, wrist, skin.tolist(), 30)
    cv2.ellipse(
        canvas, (int(wrist[0]), int(wrist[1] - 18)), (21, 26), 0, 0, 360, (skin * 0.96).tolist(), -1
    )
    for finger in range(5):
        angle = (finger - 2) * (0.30 + 0.10 * grip) - 0.1
        tip = wrist + (52 - 6 * abs(finger - 1.5)) * np.array([math.sin(angle), -math.cos(angle)])
        line(np.subtract(wrist, (0, 22)), tip, (skin * (1.0 - 0.03 * finger)).tolist(), 8)
