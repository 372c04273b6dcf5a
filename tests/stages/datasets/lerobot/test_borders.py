"""An episode's part of a shared video is a border; row i shows frame i where the counts agree."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from handloom.errors import MediaError
from handloom.stages.datasets.lerobot import adapter as lerobot
from tests.helpers.lerobot_files import AUTO, CAMERAS, write_v2, write_v3
from tests.helpers.numbered_clips import number_shown, picture

FPS, ROWS = 10, 20


def write_numbered(
    path: Path, count: int, times_s: Sequence[float] | None = None, fps: int = FPS
) -> None:
    """A video whose frame i shows i, at i / fps or at the given times."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "18"})
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for i in range(count):
            frame = av.VideoFrame.from_ndarray(picture(i), "rgb24")
            frame.pts = round((i / fps if times_s is None else times_s[i]) * 1000)
            frame.time_base = Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def shared_video(
    root: Path,
    from_s: Sequence[float],
    to_s: Sequence[float] | None = None,
    frames: int = 0,
    clock: float = 1.0,
    times_s: Sequence[float] | None = None,
) -> Path:
    """Episodes of ROWS rows in one video; `clock` is how much slower than FPS their rows run."""
    count = len(from_s)
    write_v3(root, [[0] * ROWS] * count)
    path = root / "meta/episodes/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    for which, values in (("from", from_s), ("to", to_s)):
        name = f"videos/{CAMERAS[0]}/{which}_timestamp"
        table = table.drop_columns([name] if name in table.column_names else [])
        if values is not None:
            table = table.append_column(name, pa.array(values, pa.float64()))
    pq.write_table(table, path)
    stamp(root / "data/chunk-000/file-000.parquet", clock)
    video = root / f"videos/{CAMERAS[0]}/chunk-000/file-000.mp4"
    write_numbered(video, frames or count * ROWS, times_s)
    return root


def stamp(path: Path, clock: float) -> None:
    """Let the rows of a table run by another clock."""
    table = pq.read_table(path)
    stamps = np.array(table["timestamp"]) * clock
    table = table.drop_columns("timestamp").append_column("timestamp", pa.array(stamps))
    pq.write_table(table, path)


def shown(root: Path) -> list[list[int] | str]:
    """Of each episode the numbers of its rows' frames, or why it is refused."""
    found: list[list[int] | str] = []
    for source in lerobot.episodes(root, AUTO):
        try:
            images = lerobot.load(root, source, AUTO).views[CAMERAS[0]]
            found.append([number_shown(images[i]) for i in range(len(images))])
        except MediaError as error:
            found.append(str(error))
    return found


def frames_of(episode: int) -> list[int]:
    return list(range(ROWS * episode, ROWS * (episode + 1)))


@pytest.mark.parametrize("clock", [0.9, 1.0, 1.06, 3.0])
@pytest.mark.parametrize("ends", [True, False])
def test_row_i_is_frame_i_by_whatever_clock(tmp_path: Path, clock: float, ends: bool) -> None:
    to_s = [2.0, 4.0, 6.0] if ends else None
    root = shared_video(tmp_path, [0.0, 2.0, 4.0], to_s, clock=clock)
    assert shown(root) == [frames_of(i) for i in range(3)]


def test_a_video_in_real_time_gives_its_rows_their_own_frames(tmp_path: Path) -> None:
    times_s = np.cumsum([0.0, *np.random.default_rng(0).uniform(0.07, 0.14, 2 * ROWS - 1)])
    border_s = float(times_s[ROWS])
    root = shared_video(tmp_path, [0.0, border_s], [border_s, 99.0], times_s=list(times_s))
    assert shown(root)[0] == frames_of(0)
    last = shown(shared_video(tmp_path / "open", [0.0, border_s], times_s=list(times_s)))
    assert last == [frames_of(0), frames_of(1)]


def test_layout_2_with_the_clock_of_a_recorder(tmp_path: Path) -> None:
    root = write_v2(tmp_path, [[0] * ROWS])
    stamp(root / "data/chunk-000/episode_000000.parquet", 1.06)
    video = root / f"videos/chunk-000/{CAMERAS[0]}/episode_000000.mp4"
    write_numbered(video, ROWS)
    assert shown(root) == [frames_of(0)]
    write_numbered(video, ROWS - 2)  # the recorder lost the last ones: rows keep their own
    (numbers,) = shown(root)
    assert np.abs(np.subtract(numbers, frames_of(0))).max() <= 2
    assert "frames_and_rows_differ" in flags(root)
    write_numbered(video, ROWS - 6)
    assert "has 14 frames in 1.400 s for this episode, its table 20 rows at 10" in shown(root)[0]


def flags(root: Path) -> tuple[str, ...]:
    source = next(iter(lerobot.episodes(root, AUTO)))
    return lerobot.load(root, source, AUTO).flags


@pytest.mark.parametrize(
    ("from_s", "to_s", "said"),
    [
        ([0.0, 1.7], [2.0, 3.7], [(0, "of which episode 1 has"), (1, "of which episode 0 has")]),
        ([0.0, 2.0], [2.3, 4.0], [(0, "of which episode 1 has"), (1, "of which episode 0 has")]),
        ([0.0, 2.4], [2.0, 4.4], [(1, "but the video ends at 4.000 s")]),
        ([0.0, 9.0], [2.0, 11.0], [(1, "but the video ends at 4.000 s")]),
        ([0.0, 4.0], [2.0, 2.0], [(1, "which is no part of a video")]),
        ([0.0, 2.0], [2.0, 2.0], [(1, "which is no part of a video")]),
        ([-1.0, 2.0], [1.0, 4.0], [(0, "which is no part of a video")]),
        ([float("nan"), 2.0], [2.0, 4.0], [(0, "which is no part of a video")]),
        ([0.0, 2.6], [2.0, 4.0], [(1, "which begins at frame 26, the episodes before it")]),
        ([0.3, 2.3], [2.3, 4.3], [(0, "which begins at frame 3, the"), (1, "but the video ends")]),
        ([0.0, 0.0], None, [(0, "of which episode 1 has"), (1, "of which episode 0 has")]),
    ],
)  # fmt: skip
def test_claims_that_do_not_fit_are_refused(
    tmp_path: Path, from_s: list[float], to_s: list[float] | None, said: list[tuple[int, str]]
) -> None:
    found = shown(shared_video(tmp_path, from_s, to_s))
    for episode, message in said:
        assert message in found[episode]
        assert f"videos/{CAMERAS[0]}/chunk-000/file-000.mp4" in found[episode]
    for episode in {0, 1} - {episode for episode, _ in said}:
        assert found[episode] == frames_of(episode)


@pytest.mark.parametrize("short", [1, 2, 3, 7])
@pytest.mark.parametrize("clock", [1.0, 1.06])
def test_no_row_shows_a_frame_of_the_next_episode(tmp_path: Path, short: int, clock: float) -> None:
    # The first episode lost its last frames; the second one follows at once.
    border_s = (ROWS - short) / FPS
    root = shared_video(
        tmp_path, [0.0, border_s], [border_s, border_s + 2], 2 * ROWS - short, clock
    )
    first, second = shown(root)
    assert second == list(range(ROWS - short, 2 * ROWS - short))
    if short > 2:
        assert "20 rows at 10 a second" in str(first)
    else:
        assert max(first) < ROWS - short
        assert np.abs(np.subtract(first, frames_of(0))).max() <= short


def test_a_missing_camera_says_how_to_leave_it_out(tmp_path: Path) -> None:
    root = shared_video(tmp_path, [0.0])
    (root / f"videos/{CAMERAS[0]}/chunk-000/file-000.mp4").unlink()
    assert f"leave the camera out with --ingest.views {CAMERAS[1]}" in shown(root)[0]
