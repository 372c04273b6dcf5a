"""Laws of detecting hands: places are the picture's, the detector runs where it can tell."""

import re
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from handloom.stages.hands import landmarker
from handloom.stages.hands.landmarker import crop, detect_hands
from handloom.stages.hands.recheck import DetectOptions, detect, recheck, shows_hand
from handloom.stages.hands.rows import CONFIRMED, Hand
from handloom.stages.miniatures.people import scene
from handloom.stages.miniatures.people.hand import draw_hand
from tests.helpers.folders import CHECKOUT

Frame = npt.NDArray[np.uint8]
OPTIONS = DetectOptions()


def picture(*grasps: tuple[float, float]) -> Frame:
    """A table, 240 x 320, with a hand at each place."""
    skin, sleeve = scene.SKINS[0], scene.SLEEVES[0]
    look = scene.Appearance(scene.TABLES[0], scene.WALLS[0], skin, sleeve, False, 1)
    canvas = scene.background(look)
    for grasp in grasps:
        draw_hand(canvas, grasp, 0.2, skin, sleeve)
    return np.clip(canvas, 0, 255).astype(np.uint8)


def fingers_at_the_lower_edge(bottom: int) -> Frame:
    """A close-up in which the hand is cut off below the fingers."""
    large = np.asarray(Image.fromarray(picture((160, 150))).resize((960, 720)))
    return np.ascontiguousarray(large[bottom - 400 : bottom, 310:710])


def first_pass(frames: Sequence[Frame]) -> list[list[Hand]]:
    return [detect(frame, n, OPTIONS) for n, frame in enumerate(frames)]


def both_passes(frames: Sequence[Frame]) -> list[list[Hand]]:
    return recheck(frames, first_pass(frames), OPTIONS)


def centre(hand: Hand) -> npt.NDArray[np.float64]:
    left, top, right, bottom = hand["box_xyxy"]
    return np.array([left + right, top + bottom]) / 2


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of the pictures that the detector was given."""
    seen: list[tuple[int, ...]] = []
    load = landmarker.load

    class Counted:
        def __init__(self, *options: Any) -> None:
            self.landmarker = load(*options)

        def detect(self, image: Any) -> Any:
            seen.append(image.numpy_view().shape)
            return self.landmarker.detect(image)

    monkeypatch.setattr(landmarker, "load", Counted)
    return seen


@pytest.fixture(scope="module")
def hand() -> Frame:
    return picture((160, 150))


@pytest.fixture(scope="module")
def bare() -> Frame:
    return picture()


@pytest.mark.parametrize(
    ("window", "half_turn"),
    [
        (None, True),
        ((80, 80, 280, 240), False),
        ((-80, -60, 400, 300), False),
        ((60, 60, 330, 260), True),
    ],
)
def test_a_hand_has_one_place_however_it_is_searched(
    hand: Frame, window: landmarker.Window | None, half_turn: bool
) -> None:
    (plain,) = detect_hands(hand, 3, 1, 0.3, 0.3)
    (other,) = detect_hands(hand, 3, 1, 0.3, 0.3, window, half_turn)
    assert other["frame"] == 3
    assert np.abs(centre(plain) - centre(other)).max() < 0.05
    there = np.array(plain["landmarks_xyz"]).reshape(21, 3)[:, :2]
    again = np.array(other["landmarks_xyz"]).reshape(21, 3)[:, :2]
    assert np.abs(there - again).mean() < 0.04


def test_a_mirrored_picture_has_mirrored_hands(hand: Frame) -> None:
    (one,) = detect_hands(hand, 0, 1, 0.3, 0.3)
    (other,) = detect_hands(hand[:, ::-1], 0, 1, 0.3, 0.3)
    assert np.abs(centre(one) - (1 - centre(other)[0], centre(other)[1])).max() < 0.05


def test_points_in_metres_are_a_hand_s_size_and_turn_with_the_picture(hand: Frame) -> None:
    """On the miniature's hand both sets of points agree in direction up to the camera's view."""
    (upright,) = detect_hands(hand, 0, 1, 0.3, 0.3)
    (turned,) = detect_hands(hand, 0, 1, 0.3, 0.3, half_turn=True)
    width_height = np.array(hand.shape[1::-1])
    for found in (upright, turned):
        metres = np.array(found["world_xyz"]).reshape(21, 3)
        pixels = np.array(found["landmarks_xyz"]).reshape(21, 3)[:, :2] * width_height
        assert 0.08 < np.ptp(metres, axis=0).max() < 0.3
        in_picture, in_metres = (p - p.mean(0) for p in (pixels, metres[:, :2]))
        cosine = (in_picture * in_metres).sum() / np.sqrt(
            (in_picture**2).sum() * (in_metres**2).sum()
        )
        assert cosine > 0.9


def test_a_box_holds_its_landmarks(hand: Frame) -> None:
    (found,) = detect_hands(hand, 0, 1, 0.3, 0.3)
    points = np.array(found["landmarks_xyz"]).reshape(21, 3)[:, :2]
    assert found["box_xyxy"] == [*points.min(0), *points.max(0)]


def test_a_window_beyond_the_picture_is_black_there() -> None:
    frame = np.full((4, 6, 3), 9, np.uint8)
    view = crop(frame, (-2, 1, 7, 6))
    assert view.shape == (5, 9, 3)
    assert (view[:3, 2:8] == 9).all()
    assert view.sum() == 3 * 6 * 3 * 9


@pytest.mark.parametrize("bottom", [540, 560])
def test_a_hand_cut_by_the_lower_edge_shows_in_the_second_pass(hand: Frame, bottom: int) -> None:
    clip = [hand, hand, fingers_at_the_lower_edge(bottom), hand, hand]
    assert [bool(hands) for hands in first_pass(clip)] == [True, True, False, True, True]
    assert all(map(shows_hand, both_passes(clip)))


def test_a_clear_yes_costs_no_further_detection(hand: Frame, runs: list[tuple[int, ...]]) -> None:
    detected = first_pass([hand] * 5)
    runs.clear()
    rated = recheck([hand] * 5, detected, OPTIONS)
    assert not runs
    assert [[h["confidence"] for h in hands] for hands in rated] == [[1.0]] * 5


@pytest.mark.parametrize(("count", "more"), [(1, 3), (3, 0), (8, 0)])
def test_a_clear_no_costs_nothing_but_for_a_still(
    bare: Frame, runs: list[tuple[int, ...]], count: int, more: int
) -> None:
    rated = recheck([bare] * count, [[] for _ in range(count)], OPTIONS)
    assert len(runs) == more
    assert rated == [[]] * count


def test_a_still_of_a_hand_is_confident(hand: Frame) -> None:
    ((found,),) = both_passes([hand])
    assert found["confidence"] == 1.0


def test_a_lone_hand_needs_another_search(
    hand: Frame, bare: Frame, runs: list[tuple[int, ...]]
) -> None:
    detected = first_pass([bare, hand, bare, bare, bare])
    runs.clear()
    rated = recheck([bare, hand, bare, bare, bare], detected, OPTIONS)
    height, width, _ = hand.shape
    assert runs[:4] == [hand.shape] * 4
    assert runs[4] == (1.5 * height, 1.5 * width, 3)
    assert [h["confidence"] for h in rated[1]] == [1.0]


def test_a_lone_hand_that_no_other_search_shows_is_half_confident(hand: Frame, bare: Frame) -> None:
    """The first pass says that there is a hand on a bare table."""
    ((found,),) = first_pass([hand])
    phantom = Hand(**{**found, "frame": 1})
    rated = recheck([bare] * 5, [[], [phantom], [], [], []], OPTIONS)
    assert rated == [[], [{**phantom, "confidence": CONFIRMED}], [], [], []]


def test_weak_hands_do_not_confirm_each_other(hand: Frame, bare: Frame) -> None:
    ((found,),) = first_pass([hand])
    weak = [[Hand(**{**found, "frame": n, "confidence": 0.0})] for n in range(6)]
    rated = recheck([bare] * 6, weak, OPTIONS)
    assert [[h["confidence"] for h in hands] for hands in rated] == [[0.0]] * 6


def test_weak_hands_count_as_much_as_the_clip_shows_others(hand: Frame, bare: Frame) -> None:
    ((found,),) = first_pass([hand])
    hands = [[Hand(**{**found, "frame": n, "confidence": CONFIRMED * (n < 4)})] for n in range(8)]
    rated = recheck([bare] * 8, hands, OPTIONS)
    assert [[h["confidence"] for h in hands] for hands in rated] == [[1.0]] * 4 + [[0.5]] * 4


def test_frames_of_a_mixed_clip_without_a_hand_stay_without(hand: Frame, bare: Frame) -> None:
    rated = both_passes([hand, bare, hand, bare, hand])
    assert [shows_hand(hands) for hands in rated] == [True, False, True, False, True]


def test_the_same_hands_come_out_whatever_was_searched_before(hand: Frame, bare: Frame) -> None:
    clips = [[hand, bare, fingers_at_the_lower_edge(560)], [bare, bare], [hand], [bare, hand] * 3]
    once = [both_passes(clip) for clip in clips]
    backwards = [both_passes(clip) for clip in reversed(clips)]
    assert backwards[::-1] == once


def test_hands_of_the_first_pass_are_left_alone(hand: Frame, bare: Frame) -> None:
    detected = first_pass([hand, bare])
    before = [[dict(h) for h in hands] for hands in detected]
    rated = recheck([hand, bare], detected, OPTIONS)
    assert detected == before
    for given, hands in zip(detected, rated, strict=True):
        rated = [{**h, "confidence": g["confidence"]} for h, g in zip(hands, given, strict=False)]
        assert rated == given


def test_a_clip_without_frames_has_no_hands() -> None:
    assert recheck([], [], OPTIONS) == []


def test_a_process_that_used_landmarkers_ends_without_an_exception() -> None:
    code = (
        "import numpy as np\n"
        "from handloom.stages.hands.stage import Hands\n"
        "from handloom.stages.hands.recheck import detect\n"
        "stage = Hands()\n"
        "stage.setup()\n"
        "print(detect(np.zeros((64, 64, 3), np.uint8), 0, stage.look))\n"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (0, "[]\n")
    logged = re.compile(r"[IWE]\d{4} |INFO: |WARNING: ")  # by MediaPipe's native library
    assert [line for line in run.stderr.splitlines() if not logged.match(line)] == []
