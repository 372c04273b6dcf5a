"""Quality: each number tells its kind of bad clip from a good one, at any size of picture."""

from pathlib import Path

import av
import cv2
import ffmpeg
import imageio_ffmpeg
import numpy as np
import pytest

from handloom.stages.quality.bars_and_stereo import detect_stereo, picture_box
from handloom.stages.quality.frames import change, measure_clip, measure_frame, small_luma

Frame = np.ndarray
STILL, BLURRED, STEREO, TITLE, BLANK = 0.05, 0.4, 0.45, 0.8, 0.03


def scene(seed: int, height: int = 360, width: int = 640) -> Frame:
    """Things of all sizes and colours on a shaded ground, none of it symmetric."""
    draw = np.random.default_rng(seed)
    shade = np.linspace(60, 190, width)[None, :, None] + np.linspace(-30, 30, height)[:, None, None]
    frame = np.repeat(shade, 3, axis=2).clip(0, 255).astype(np.uint8)
    for _ in range(80):
        middle = draw.integers(0, (width, height)).tolist()
        color = draw.integers(30, 256, 3).tolist()
        if draw.random() < 0.5:
            cv2.circle(frame, middle, int(draw.integers(6, height // 8)), color, -1, cv2.LINE_AA)
        else:
            corners = (middle + draw.integers(-height // 7, height // 7, (3, 2))).astype(np.int32)
            cv2.fillPoly(frame, [corners], color, cv2.LINE_AA)
    return frame


def lumas(*frames: Frame) -> list[Frame]:
    return [small_luma(frame) for frame in frames]


def smeared(frame: Frame, pixels: int, degrees: float) -> Frame:
    line = np.zeros((pixels, pixels), np.float32)
    line[pixels // 2] = 1
    turn = cv2.getRotationMatrix2D(((pixels - 1) / 2, (pixels - 1) / 2), degrees, 1)
    line = cv2.warpAffine(line, turn, (pixels, pixels))
    return cv2.filter2D(frame, -1, line / line.sum(), borderType=cv2.BORDER_REFLECT)


def noisy(frame: Frame, deviation: float, seed: int = 0) -> Frame:
    noise = np.random.default_rng(seed).normal(0, deviation, frame.shape)
    return (frame + noise).clip(0, 255).astype(np.uint8)


def sharpness(frame: Frame) -> float:
    return measure_frame(small_luma(frame)).sharpness


@pytest.mark.parametrize("seed", range(3))
def test_any_blur_is_told_from_a_sharp_picture(seed: int) -> None:
    frame = scene(seed)
    blurred = [cv2.GaussianBlur(frame, (0, 0), 5)]
    blurred += [smeared(frame, 25, degrees) for degrees in (0, 45, 90, 135)]
    assert sharpness(frame) > 0.6
    assert max(map(sharpness, blurred)) < BLURRED
    assert sharpness(noisy(blurred[0], 4)) < BLURRED


def test_sharpness_hardly_depends_on_the_size_or_the_contrast() -> None:
    frame = scene(0, 1080, 1920)
    sizes = [cv2.resize(frame, (w, w * 9 // 16), interpolation=cv2.INTER_AREA) for w in (455, 683)]
    faint = (frame * 0.2 + 100).astype(np.uint8)
    for other in (*sizes, faint):
        assert sharpness(other) == pytest.approx(sharpness(frame), abs=0.1)


def test_a_sharp_thing_before_a_soft_ground_is_sharp() -> None:
    ground = cv2.GaussianBlur(scene(1), (0, 0), 8)
    frame = ground.copy()
    frame[120:240, 260:400] = scene(2)[120:240, 260:400]
    assert sharpness(ground) < BLURRED < sharpness(frame)


@pytest.mark.parametrize("level", [0, 16, 128, 255])
def test_one_flat_colour_is_blank(level: int) -> None:
    quality = measure_frame(small_luma(noisy(np.full((360, 640, 3), level, np.uint8), 2)))
    assert quality.contrast < BLANK
    assert quality.flat_share > 0.95
    assert quality.brightness == pytest.approx(level / 255, abs=0.01)


def test_a_scene_is_neither_blank_nor_a_title_and_a_title_is_one() -> None:
    shown = measure_frame(small_luma(scene(0)))
    assert shown.contrast > 10 * BLANK
    assert shown.flat_share < TITLE / 2
    title = np.full((360, 640, 3), (250, 240, 200), np.uint8)
    for line in range(5):
        where = 40, 60 + 60 * line
        cv2.putText(
            title, "How to knead a dough", where, cv2.FONT_HERSHEY_SIMPLEX, 1.4, (0,) * 3, 2
        )
    assert measure_frame(small_luma(title)).flat_share > TITLE


def coded(path: Path, frames: list[Frame]) -> list[Frame]:
    """What is left of frames after strong compression with many key frames; every fifth."""
    height, width = frames[0].shape[:2]
    size = f"{width}x{height}"
    source = ffmpeg.input("pipe:", format="rawvideo", pix_fmt="rgb24", s=size, r=10)
    output = source.output(str(path), vcodec="libx264", preset="veryfast", crf=34, g=12)
    output.run(cmd=imageio_ffmpeg.get_ffmpeg_exe(), input=np.stack(frames).tobytes(), quiet=True)
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)][::5]


def test_a_coded_picture_is_still_and_a_small_hand_before_it_is_not(tmp_path: Path) -> None:
    still = [noisy(scene(3), 3, seed) for seed in range(30)]
    moving = [frame.copy() for frame in still]
    for index, frame in enumerate(moving):
        cv2.ellipse(frame, (100 + 8 * index, 200), (14, 20), 20, 0, 360, (205, 160, 130), -1)
    assert change(lumas(*coded(tmp_path / "still.mp4", still))) < STILL
    assert change(lumas(*coded(tmp_path / "moving.mp4", moving))) > 2 * STILL


def test_change_counts_over_the_whole_clip_in_any_order() -> None:
    frames = [cv2.convertScaleAbs(scene(4), alpha=1, beta=2 * step) for step in range(8)]
    there_and_back = frames + frames[::-1]
    assert change(lumas(*frames)) == change(lumas(*there_and_back))
    assert change(lumas(*frames)) > 2 * change(lumas(*frames[:3]))
    assert change(lumas(frames[0])) == 0


def within_bars(frame: Frame, x: float, y: float, level: int = 0) -> Frame:
    """The frame with bars: shares of the whole picture's width and height on each side."""
    height, width = frame.shape[:2]
    left, top = round(width * x / (1 - 2 * x)), round(height * y / (1 - 2 * y))
    return cv2.copyMakeBorder(frame, top, top, left, left, cv2.BORDER_CONSTANT, value=(level,) * 3)


@pytest.mark.parametrize(("x", "y"), [(0, 0.12), (0.125, 0), (0.34, 0), (0.1, 0.12), (0, 0.05)])
@pytest.mark.parametrize("level", [0, 16])
def test_bars_all_round_are_found(x: float, y: float, level: int) -> None:
    frames = [noisy(within_bars(scene(seed), x, y, level), 3) for seed in range(4)]
    quality = measure_clip(lumas(*frames))
    np.testing.assert_allclose(quality.picture_xyxy, (x, y, 1 - x, 1 - y), atol=0.015)
    assert quality.bar_share == pytest.approx(1 - (1 - 2 * x) * (1 - 2 * y), abs=0.05)


def test_subtitles_and_logos_do_not_hide_bars() -> None:
    frames = [within_bars(scene(seed), 0, 0.12) for seed in range(4)]
    for index, frame in enumerate(frames):
        text = "and now we add the flour " + "!" * index
        cv2.putText(frame, text, (60, 460), cv2.FONT_HERSHEY_SIMPLEX, 1.2, (255,) * 3, 3)
        cv2.circle(frame, (600, 25), 12, (255, 200, 0), -1)
    np.testing.assert_allclose(picture_box(lumas(*frames)), (0, 0.12, 1, 0.88), atol=0.015)


def test_a_dark_picture_between_bright_ones_does_not_widen_the_bars() -> None:
    frames = [within_bars(scene(0), 0.12, 0), np.zeros((360, 842, 3), np.uint8)]
    assert picture_box(lumas(*frames)) == picture_box(lumas(*frames[:1]))


def test_what_has_no_bars_keeps_its_whole_picture() -> None:
    bright, dark = scene(5), (scene(5) * 0.1).astype(np.uint8)
    wall = scene(6)
    wall[:120] = 8  # a dark wall behind a bright table
    y, x = np.mgrid[-1:1:360j, -1:1:640j]
    fisheye = (scene(7) * ((x / 0.8) ** 2 + y**2 < 1)[..., None]).astype(np.uint8)
    night = (scene(8) * np.sin(np.linspace(0, np.pi, 360))[:, None, None] ** 4).astype(np.uint8)
    for frame in (bright, dark, wall, fisheye, night, np.zeros_like(bright)):
        assert picture_box(lumas(frame, frame)) == (0, 0, 1, 1)


def other_eye(frame: Frame, most: float, seed: int) -> Frame:
    """The scene moved sideways by up to this share of the width, near things more, and brighter."""
    height, width = frame.shape[:2]
    near = np.random.default_rng(seed).random((3, 4)).astype(np.float32)
    moved = cv2.resize(near, (width, height), interpolation=cv2.INTER_LINEAR) * most * width
    y, x = np.mgrid[:height, :width].astype(np.float32)
    seen = cv2.remap(frame, x + moved, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    return cv2.convertScaleAbs(seen, alpha=1.08, beta=4)


@pytest.mark.parametrize("most", [0.0, 0.04, 0.08])
@pytest.mark.parametrize(("axis", "kind"), [(1, "side_by_side"), (0, "top_bottom")])
def test_a_picture_for_each_eye_is_found(most: float, axis: int, kind: str) -> None:
    frames = [np.concatenate([f, other_eye(f, most, 0)], axis) for f in (scene(1), scene(2))]
    found, score = detect_stereo(lumas(*frames))
    assert found == kind
    assert score > STEREO
    barred = measure_clip(lumas(*(within_bars(frame, 0, 0.12) for frame in frames)))
    assert barred.stereo == kind
    assert barred.stereo_score > STEREO


def test_a_symmetric_scene_is_not_stereo() -> None:
    half = scene(3)[:, :320]
    mirrored = np.concatenate([half, half[:, ::-1]], axis=1)
    belt = np.repeat(scene(4)[:, :1], 640, axis=1)  # edges that run through both halves
    for frame in (scene(5), mirrored, belt, np.zeros_like(half)):
        assert detect_stereo(lumas(frame))[1] < STEREO


def test_tiny_and_tall_frames_are_measured() -> None:
    for shape in ((32, 24), (24, 160), (640, 90)):
        frame = cv2.resize(scene(0), shape[::-1])
        assert 0 < measure_frame(small_luma(frame)).sharpness < 1
        assert measure_clip(lumas(frame, frame)).change == 0
