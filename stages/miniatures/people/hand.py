"""A rendered hand that opens and grips: capsules along its bones, lit as one surface."""

import math
from dataclasses import dataclass

import numpy as np

from handloom.stages.miniatures.people.raster import (
    WIDTH,
    Box,
    Color,
    Floats,
    Point,
    blend,
    crop,
    draw_shadow,
    shade,
)

HAND_PX = 88.0  # wrist to the tip of the middle finger
# A right hand from behind, fingers up, in units of its length, the wrist at the origin. Per finger:
# x and y of its base, its length, its lean to the right (rad), its radius.
FINGERS = (
    (-0.175, -0.50, 0.44, -0.16, 0.066),
    (-0.055, -0.54, 0.48, -0.04, 0.069),
    (0.065, -0.52, 0.45, 0.08, 0.066),
    (0.175, -0.46, 0.36, 0.22, 0.057),
)
GRASP = (-0.10, -0.80)  # between the fingertips: the middle of a held object


@dataclass(frozen=True)
class Bone:
    """A capsule whose radius changes from end to end, `rise` above the table."""

    ax: float
    ay: float
    bx: float
    by: float
    ar: float
    br: float
    rise: float = 0.0

    @property
    def box(self) -> Box:
        """Bounding box of the bone with its soft edge."""
        reach = max(self.ar, self.br) + 1.5
        (left, right), (top, bottom) = sorted((self.ax, self.bx)), sorted((self.ay, self.by))
        return left - reach, top - reach, right + reach, bottom + reach


def _finger(
    x: float, y: float, length: float, lean: float, radius: float, grip: float
) -> list[Bone]:
    """Two segments of a finger; a grip foreshortens them and bends the tip towards the thumb."""
    first, second = 0.54 * length * (1 - 0.12 * grip), 0.46 * length * (1 - 0.35 * grip)
    bend = lean - 0.30 * grip - 0.35 * lean * grip
    kx, ky = x + first * math.sin(lean), y - first * math.cos(lean)
    tx, ty = kx + second * math.sin(bend), ky - second * math.cos(bend)
    return [
        Bone(x, y + 0.08, kx, ky, 1.08 * radius, 0.98 * radius, 0.02),
        Bone(kx, ky, tx, ty, 0.98 * radius, 0.80 * radius, 0.01),
    ]


def hand_bones(grip: float) -> list[Bone]:
    """Bones of a right hand, open at `grip` 0 and around an object at 1, in hand lengths."""
    palm = [Bone(0.45 * x, -0.06, x, y, 0.13, 0.085) for x, y, *_ in FINGERS]
    swing = -0.62 + 0.20 * grip  # lean of the thumb
    kx, ky = -0.16 + 0.24 * math.sin(swing), -0.20 - 0.24 * math.cos(swing)
    tx, ty = kx + 0.20 * math.sin(swing + 0.25 + 0.3 * grip), ky - 0.20 * math.cos(swing + 0.25)
    thumb = [
        Bone(-0.08, -0.12, kx, ky, 0.105, 0.072, 0.01),
        Bone(kx, ky, tx, ty, 0.072, 0.058, 0.01),
    ]
    return palm + thumb + [bone for shape in FINGERS for bone in _finger(*shape, grip)]


def _relief(bones: list[Bone], across: Floats, down: Floats) -> tuple[Floats, Floats]:
    """Height map of the bones' common surface, and its signed distance, positive inside."""
    height = np.zeros((down.shape[0], across.shape[1]), np.float32)
    inside = np.full_like(height, -9.0)
    for b in bones:
        dx, dy = b.bx - b.ax, b.by - b.ay
        box = b.box
        xs = slice(*np.searchsorted(across[0], box[0::2]))
        ys = slice(*np.searchsorted(down[:, 0], box[1::2]))
        at = (ys, xs)
        x, y = across[:, xs] - np.float32(b.ax), down[ys] - np.float32(b.ay)
        # The nearest point of the bone's axis as a share of its length, and the distance squared.
        share = np.clip((x * dx + y * dy) / (dx * dx + dy * dy), 0, 1)
        far2 = (x - share * dx) ** 2 + (y - share * dy) ** 2
        radius = b.ar + share * (b.br - b.ar)
        top = np.sqrt(np.maximum(radius * radius - far2, 0)) + b.rise
        height[at] = np.maximum(height[at], top)
        inside[at] = np.maximum(inside[at], radius - np.sqrt(far2))
    return height, inside


def _place_bones(bones: list[Bone], size: float, angle: float, mirror: bool) -> list[Bone]:
    """Bones rotated, mirrored for a left hand, and scaled from hand lengths to pixels."""
    cos, sin, side = math.cos(angle) * size, math.sin(angle) * size, -1 if mirror else 1

    def at(x: float, y: float) -> Point:
        return side * x * cos - y * sin, side * x * sin + y * cos

    return [
        Bone(*at(b.ax, b.ay), *at(b.bx, b.by), b.ar * size, b.br * size, b.rise * size)
        for b in bones
    ]


def _draw_relief(canvas: Floats, x: float, y: float, bones: list[Bone], rgb: Color) -> None:
    boxes = np.array([b.box for b in bones])
    cropped = crop(canvas, x, y, (*boxes[:, :2].min(0), *boxes[:, 2:].max(0)))
    if cropped is None:
        return
    patch, across, down = cropped
    height, inside = _relief(bones, across, down)
    soft = height.copy()  # rounds the creases between bones
    for axis in (0, 1):
        soft[1:-1, 1:-1] += np.roll(height, 1, axis)[1:-1, 1:-1]
        soft[1:-1, 1:-1] += np.roll(height, -1, axis)[1:-1, 1:-1]
    soft[1:-1, 1:-1] = (soft[1:-1, 1:-1] + height[1:-1, 1:-1]) / 6
    slope_y, slope_x = np.gradient(soft)
    # Lambert's law: the surface normal times the direction of the light, over ambient light.
    norm = np.sqrt(slope_x**2 + slope_y**2 + 1)
    light = 0.36 + 0.72 * np.maximum((0.35 * slope_x + 0.5 * slope_y + 0.8) / norm, 0)
    blend(patch, inside + 0.5, shade(rgb, light))


def draw_hand(
    canvas: Floats, grasp: Point, grip: float, skin: Color, sleeve: Color, mirror: bool = False,
    size: float = 1.0,
) -> None:  # fmt: skip
    """Draw a hand whose grasp is at `grasp` (pixels), with its forearm from the lower edge.

    `size` is a factor of HAND_PX.
    """
    elbow_x = 0.45 * grasp[0] + (0.55 * WIDTH * (0.22 if mirror else 0.82))
    angle = math.atan2(grasp[0] - elbow_x, 330.0 - grasp[1])
    size *= HAND_PX * (0.86 + 0.14 * (grasp[1] - 70) / 90)
    bones = _place_bones(hand_bones(grip), size, angle, mirror)
    (hook,) = _place_bones([Bone(*GRASP, *GRASP, 0, 0)], size, angle, mirror)
    x, y = grasp[0] - hook.ax, grasp[1] - hook.ay
    arm = _place_bones([Bone(0, -0.05, 0.03, 1.1, 0.155, 0.25)], size, 1.3 * angle, mirror)
    cuff = _place_bones([Bone(0.03, 0.62, 0.05, 2.4, 0.25, 0.34)], size, 1.3 * angle, mirror)
    draw_shadow(canvas, x + 8, y - 0.2 * size, 0.55 * size, 0.22)
    _draw_relief(canvas, x, y, arm + bones, skin)
    _draw_relief(canvas, x, y, cuff, sleeve)
