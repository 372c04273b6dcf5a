"""Reading video: the right frame at the right time, and one sentence about what cannot be read."""

from pathlib import Path

import ffmpeg
import imageio_ffmpeg
import numpy as np
import pytest

from handloom.errors import MediaError
from handloom.stages.media.key_frames import SmallFrame, SmallVideo
from handloom.stages.media.video import Video, frames_once, probe

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()


def encode(
    path: Path, frames: int = 60, fps: int = 30, codec: str = "libx264", **more: str
) -> Path:
    """A video whose lower half shows each frame's number in bits, and a bright upper left."""
    pictures = np.full((frames, 64, 96, 3), 60, np.uint8)
    pictures[:, :32, :48] = 250
    for bit in range(12):
        on = (np.arange(frames) >> bit & 1).astype(bool)
        pictures[on, 32:, 8 * bit : 8 * bit + 8] = 200
    source = ffmpeg.input("pipe:", format="rawvideo", pix_fmt="rgb24", s="96x64", r=fps)
    source.output(str(path), vcodec=codec, pix_fmt="yuv420p", **more).overwrite_output().run(
        cmd=FFMPEG, input=pictures.tobytes(), quiet=True
    )
    return path


def shown(frames_thwc: np.ndarray) -> list[int]:
    """The numbers that the frames show."""
    bits = frames_thwc[:, 36:60].reshape(-1, 24, 12, 8, 3)[:, :, :, 2:6].mean((1, 3, 4)) > 130
    return [int(row @ (1 << np.arange(12))) for row in bits]


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.mp4", "libx264"),
        ("a.webm", "libvpx-vp9"),
        ("a.mkv", "libx264"),
        ("a.avi", "mpeg4"),
        ("av1.mkv", "libaom-av1"),
    ],
)
def test_the_frame_on_screen_at_a_time(tmp_path: Path, name: str, codec: str) -> None:
    fast = {"cpu-used": "8"} if codec == "libaom-av1" else {}
    path = encode(tmp_path / name, codec=codec, **fast)
    facts = probe(path)
    assert (facts.width, facts.height, round(facts.fps)) == (96, 64, 30)
    assert abs(facts.duration_s - 2.0) < 0.05
    times_s = np.array([0.0, 0.01, 0.51, 1.0, 1.99])
    assert shown(Video(path).frames_at(times_s)) == [0, 0, 15, 30, 59]


def test_one_after_the_other_or_alone_pictures_are_the_same(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4", frames=90, g="12")
    times_s = np.linspace(2.1, 2.9, 7)
    ours = Video(path).frames_at(times_s)
    np.testing.assert_array_equal(ours, np.stack(list(frames_once(path, times_s))))


def test_neighbouring_requests_do_not_depend_on_each_other(tmp_path: Path) -> None:
    opened = Video(encode(tmp_path / "a.mp4", frames=90, g="30"))
    later, earlier = opened.frames_at(np.array([2.5])), opened.frames_at(np.array([0.5]))
    assert shown(later) + shown(earlier) == [75, 15]


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotation_is_undone(tmp_path: Path, degrees: int) -> None:
    plain = encode(tmp_path / "plain.mp4", frames=10)
    turned = tmp_path / "turned.mp4"
    ffmpeg.input(str(plain), display_rotation=degrees).output(str(turned), c="copy").run(
        cmd=FFMPEG, quiet=True
    )
    assert probe(turned).rotation == degrees
    for frames in (
        Video(turned).frames_at(np.array([0.0])),
        np.stack(list(frames_once(turned, np.array([0.0])))),
    ):
        expected = np.rot90(Video(plain).frames_at(np.array([0.0]))[0], k=degrees // 90)
        np.testing.assert_array_equal(frames[0], expected)


def test_pixels_become_square(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4", frames=4, vf="setsar=2/1")
    ours = Video(path).frames_at(np.array([0.0]))
    assert ours.shape == (1, 64, 192, 3)
    np.testing.assert_array_equal(ours, np.stack(list(frames_once(path, np.array([0.0])))))


def test_a_file_without_a_duration_is_measured(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.webm", codec="libvpx-vp9", live="1")
    assert abs(probe(path).duration_s - 2.0) < 0.05


def test_a_time_beyond_the_end_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"no frame at 3\.00 s, the picture ends at 2\.0"):
        Video(encode(tmp_path / "a.mp4")).frames_at(np.array([1.0, 3.0]))


def test_a_file_cut_off_in_the_middle_gives_its_first_half(tmp_path: Path) -> None:
    whole = encode(tmp_path / "a.mp4", frames=90, g="10", movflags="faststart").read_bytes()
    path = tmp_path / "cut.mp4"
    path.write_bytes(whole[: len(whole) * 2 // 3])
    assert shown(Video(path).frames_at(np.array([0.5]))) == [15]
    with pytest.raises(MediaError, match=r"cut\.mp4"):
        Video(path).frames_at(np.array([2.9]))


def test_what_is_no_video_is_said_in_words(tmp_path: Path) -> None:
    whole = encode(tmp_path / "a.mp4").read_bytes()
    audio = tmp_path / "audio.mp4"
    ffmpeg.input("sine=duration=1", f="lavfi").output(str(audio)).run(cmd=FFMPEG, quiet=True)
    still = tmp_path / "still.mp4"
    ffmpeg.input(str(tmp_path / "a.mp4")).output(str(still), vframes=1, f="image2").run(
        cmd=FFMPEG, quiet=True
    )
    cases = {
        "empty.mp4": (b"", "not a readable video file"),
        "text.mp4": (b"<html>404</html>" * 99, "not a readable video file"),
        "no_index.mp4": (whole[: len(whole) // 2], "not a readable video file"),
        "audio.mp4": (audio.read_bytes(), "holds no video stream"),
        "still.mp4": (still.read_bytes(), "still picture"),
    }
    for name, (data, why) in cases.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(MediaError, match=f"^{name}: .*{why}") as caught:
            probe(tmp_path / name)
        assert str(tmp_path) not in str(caught.value)


def number(frame: SmallFrame) -> int:
    """The number that a small frame shows."""
    return shown(frame.picture_hwc[None])[0]


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.mp4", "libx264"),
        ("a.mp4", "libx265"),
        ("a.webm", "libvpx-vp9"),
        ("a.mkv", "libx264"),
        ("a.avi", "mpeg4"),
        ("a.flv", "libx264"),
        ("a.ts", "libx264"),
    ],
)
def test_small_frames_are_those_of_their_time(tmp_path: Path, name: str, codec: str) -> None:
    small = SmallVideo(encode(tmp_path / name, frames=90, codec=codec, g="20"), 64)
    late = float(small.frame_at(0.0).time_s)  # AVI counts from when the first frame is decoded
    for wanted_s in (0.0, 0.52, 1.5, 2.9):
        frame = small.frame_at(wanted_s)
        assert abs(frame.time_s - wanted_s) < 4 / 30 + late  # unreferenced frames are left out
        assert number(frame) == round(30 * (frame.time_s - late))


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
def test_key_frames_are_found(tmp_path: Path, name: str) -> None:
    path = encode(tmp_path / name, frames=90, g="20", keyint_min="20", sc_threshold="0")
    small = SmallVideo(path, 64)
    keys_s = small.keys_around(0.0, 3.0)
    np.testing.assert_allclose(keys_s, np.arange(5) * 20 / 30, atol=0.002)


def test_keys_around_a_span_reach_one_further_on_both_sides(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4", frames=300, g="20", keyint_min="20", sc_threshold="0")
    for start_s, end_s in ((0.0, 10.0), (0.0, 0.1), (3.0, 5.5), (2.0, 4.0), (9.9, 10.0)):
        keys_s, all_s = SmallVideo(path, 64).keys_around(start_s, end_s), np.arange(15) * 20 / 30
        before, after = all_s[all_s < start_s - 1e-4], all_s[all_s >= end_s - 1e-4]
        wanted = [t for t in all_s if start_s - 1e-4 <= t < end_s - 1e-4]
        assert set(np.round([*before[-1:], *wanted, *after[:1]], 3)) <= set(np.round(keys_s, 3))


def test_a_file_without_an_index_is_scanned_for_key_frames(tmp_path: Path) -> None:
    more = {"frames": 90, "codec": "libvpx-vp9", "g": "20"}
    indexed = SmallVideo(encode(tmp_path / "a.webm", **more), 64)
    live = SmallVideo(encode(tmp_path / "live.webm", live="1", **more), 64)
    keys_s = indexed.keys_around(0.0, 3.0)
    np.testing.assert_allclose(live.keys_around(0.0, 3.0), keys_s)


def test_small_frames_do_not_depend_on_what_was_asked_before(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4", frames=150, g="40")
    times_s = np.random.default_rng(0).uniform(0, 5, 40)
    walked = SmallVideo(path, 64)
    for time_s in times_s:
        kept, fresh = walked.frame_at(time_s), SmallVideo(path, 64).frame_at(time_s)
        assert kept.time_s == fresh.time_s
        np.testing.assert_array_equal(kept.picture_hwc, fresh.picture_hwc)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotation_is_undone_in_small_frames(tmp_path: Path, degrees: int) -> None:
    plain = encode(tmp_path / "plain.mp4", frames=10)
    turned = tmp_path / "turned.mp4"
    ffmpeg.input(str(plain), display_rotation=degrees).output(str(turned), c="copy").run(
        cmd=FFMPEG, quiet=True
    )
    expected = np.rot90(SmallVideo(plain, 32).frame_at(0.0).picture_hwc, k=degrees // 90)
    np.testing.assert_array_equal(SmallVideo(turned, 32).frame_at(0.0).picture_hwc, expected)


def test_small_frames_have_square_pixels_and_the_wanted_size(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4", frames=4, vf="setsar=2/1")
    for short_side, shape in ((32, (32, 96, 3)), (512, (64, 192, 3))):
        assert SmallVideo(path, short_side).frame_at(0.0).picture_hwc.shape == shape


def test_small_frames_look_like_large_ones(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4")
    small = SmallVideo(path, 32).frame_at(1.0)
    halved = Video(path).frames_at(np.array([small.time_s]))[0].astype(float)
    halved = halved.reshape(32, 2, 48, 2, 3).mean((1, 3))
    assert np.abs(halved - small.picture_hwc).mean() < 2


def test_a_broken_tail_is_said_in_words_and_the_rest_is_still_read(tmp_path: Path) -> None:
    whole = encode(tmp_path / "a.mp4", frames=90, g="10", movflags="faststart").read_bytes()
    path = tmp_path / "cut.mp4"
    path.write_bytes(whole[: len(whole) * 2 // 3])
    small = SmallVideo(path, 64)
    assert len(small.keys_around(0.0, 3.0)) < 9  # those that cannot be read are left out
    for _ in range(2):
        with pytest.raises(MediaError, match=r"^cut\.mp4: "):
            small.frame_at(2.9)
        assert number(small.frame_at(0.5)) == 15
