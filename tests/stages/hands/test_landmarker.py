"""Laws of looking for hands: places are the picture's, looks are spent where they can tell."""

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
from handloom.stages.hands.landmarker import cut, find_hands
from handloom.stages.hands.recheck import LookOptions, look_again, shows_hand
from handloom.stages.hands.rows import Hand
from handloom.stages.miniatures.people import scene
from handloom.stages.miniatures.people.hand import draw_hand
from tests.helpers.folders import CHECKOUT

Frame = npt.NDArray[np.uint8]
OPTIONS = LookOptions()


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


def first_look(frames: Sequence[Frame]) -> list[list[Hand]]:
    return [
        find_hands(
            frame, n, OPTIONS.max_hands, OPTIONS.detection_confidence, OPTIONS.presence_confidence
        )
        for n, frame in enumerate(frames)
    ]


def two_looks(frames: Sequence[Frame], options: LookOptions = OPTIONS) -> list[list[Hand]]:
    return look_again(frames, first_look(frames), options)


def centre(hand: Hand) -> npt.NDArray[np.float64]:
    left, top, right, bottom = hand["box_xyxy"]
    return np.array([left + right, top + bottom]) / 2


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
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
def test_a_hand_has_one_place_however_it_is_looked_at(
    hand: Frame, window: landmarker.Window | None, half_turn: bool
) -> None:
    (plain,) = find_hands(hand, 3, 1, 0.3, 0.3)
    (other,) = find_hands(hand, 3, 1, 0.3, 0.3, window, half_turn)
    assert other["frame"] == 3
    assert np.abs(centre(plain) - centre(other)).max() < 0.05
    there = np.array(plain["landmarks_xyz"]).reshape(21, 3)[:, :2]
    again = np.array(other["landmarks_xyz"]).reshape(21, 3)[:, :2]
    assert np.abs(there - again).mean() < 0.04


def test_a_mirrored_picture_has_mirrored_hands(hand: Frame) -> None:
    (one,) = find_hands(hand, 0, 1, 0.3, 0.3)
    (other,) = find_hands(hand[:, ::-1], 0, 1, 0.3, 0.3)
    assert np.abs(centre(one) - (1 - centre(other)[0], centre(other)[1])).max() < 0.05


def test_a_box_holds_its_landmarks(hand: Frame) -> None:
    (found,) = find_hands(hand, 0, 1, 0.3, 0.3)
    points = np.array(found["landmarks_xyz"]).reshape(21, 3)[:, :2]
    assert found["box_xyxy"] == [*points.min(0), *points.max(0)]


def test_a_window_beyond_the_picture_is_black_there() -> None:
    frame = np.full((4, 6, 3), 9, np.uint8)
    view = cut(frame, (-2, 1, 7, 6))
    assert view.shape == (5, 9, 3)
    assert (view[:3, 2:8] == 9).all()
    assert view.sum() == 3 * 6 * 3 * 9


@pytest.mark.parametrize("bottom", [540, 560])
def test_a_hand_cut_by_the_lower_edge_is_found_by_the_second_look(hand: Frame, bottom: int) -> None:
    clip = [hand, hand, fingers_at_the_lower_edge(bottom), hand, hand]
    assert [bool(hands) for hands in first_look(clip)] == [True, True, False, True, True]
    assert all(map(shows_hand, two_looks(clip)))


def test_a_clear_yes_costs_no_further_look(hand: Frame, looks: list[tuple[int, ...]]) -> None:
    found = first_look([hand] * 5)
    looks.clear()
    rated = look_again([hand] * 5, found, OPTIONS)
    assert not looks
    assert [[h["confidence"] for h in hands] for hands in rated] == [[1.0]] * 5


@pytest.mark.parametrize(("count", "more"), [(1, 2), (3, 3), (6, 2), (8, 0), (16, 0)])
def test_a_clear_no_costs_a_few_looks_whatever_its_length(
    bare: Frame, looks: list[tuple[int, ...]], count: int, more: int
) -> None:
    rated = look_again([bare] * count, [[] for _ in range(count)], OPTIONS)
    assert len(looks) == more
    assert rated == [[]] * count


def test_without_blind_looks_a_clear_no_costs_nothing(
    bare: Frame, looks: list[tuple[int, ...]]
) -> None:
    assert look_again([bare] * 3, [[]] * 3, LookOptions(blind_looks=0)) == [[]] * 3
    assert not looks


def test_a_still_of_a_hand_is_trusted(hand: Frame) -> None:
    ((found,),) = two_looks([hand])
    assert found["confidence"] == 1.0


def test_a_hand_that_no_other_look_confirms_is_kept_without_trust(hand: Frame, bare: Frame) -> None:
    """The first look says that there is a hand on a bare table."""
    ((phantom,),) = first_look([hand])
    ((rated,),) = look_again([bare], [[phantom]], LookOptions(blind_looks=0))
    assert rated == {**phantom, "confidence": 0.0}
    assert not shows_hand([rated])


def test_frames_of_a_mixed_clip_without_a_hand_stay_without(hand: Frame, bare: Frame) -> None:
    rated = two_looks([hand, bare, hand, bare, hand])
    assert [shows_hand(hands) for hands in rated] == [True, False, True, False, True]


def test_the_same_hands_come_out_whatever_was_looked_at_before(hand: Frame, bare: Frame) -> None:
    clips = [[hand, bare, fingers_at_the_lower_edge(560)], [bare, bare], [hand], [bare, hand] * 3]
    once = [two_looks(clip) for clip in clips]
    backwards = [two_looks(clip) for clip in reversed(clips)]
    assert backwards[::-1] == once


def test_what_was_found_is_left_alone(hand: Frame, bare: Frame) -> None:
    found = first_look([hand, bare])
    before = [[dict(h) for h in hands] for hands in found]
    rated = look_again([hand, bare], found, OPTIONS)
    assert found == before
    for given, hands in zip(found, rated, strict=True):
        assert [{**h, "confidence": 0.0} for h in hands[: len(given)]] == given


def test_a_clip_without_frames_has_no_hands() -> None:
    assert look_again([], [], OPTIONS) == []


def test_a_process_that_used_landmarkers_ends_without_an_exception() -> None:
    code = (
        "import numpy as np\n"
        "from handloom.stages.hands.stage import Hands\n"
        "from handloom.stages.hands.recheck import first_look\n"
        "stage = Hands()\n"
        "stage.setup()\n"
        "print(first_look(np.zeros((64, 64, 3), np.uint8), 0, stage.look))\n"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (0, "[]\n")
    logged = re.compile(r"[IWE]\d{4} |INFO: |WARNING: ")  # by MediaPipe's native library
    assert [line for line in run.stderr.splitlines() if not logged.match(line)] == []
