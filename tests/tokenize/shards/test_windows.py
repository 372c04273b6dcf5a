"""Laws of windows of clips and episodes: what stands in each, how often it comes, in which order.

An episode's codes number the pictures of its source, so that a window says which ones it shows.
"""

import pickle
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from handloom.errors import UserError
from handloom.stages.episodes.trajectories import Trajectory, resample
from handloom.tokenize.shards import Mixture, Sample, ShardDataset, write_manifest, write_shards
from handloom.tokenize.shards.window_scan import Cut
from handloom.tokenize.shards.windows import ClipWindows

TOKENIZER = {"name": "t", "weights_sha256": "ab" * 32, "codebook_size": 4096}
GRID = (2, 3)


def numbered(pictures: Any, views: int = 1) -> np.ndarray:
    """Codes uint16 [V, T, 2, 3]: in each picture its number, plus 1,000 for each view."""
    numbers = np.asarray(pictures)[None, :] + 1000 * np.arange(views)[:, None]
    return np.broadcast_to(numbers[..., None, None], (*numbers.shape, *GRID)).astype(np.uint16)


def robot(name: str, steps: int, hz: float, views: tuple[str, ...] = ("a",)) -> Sample:
    """An episode of a robot recorded at `hz`, as it is stored at 10 Hz."""
    source = Trajectory(
        hz, "joints", np.zeros((steps, 2)), np.zeros((steps, 2)), np.zeros(steps, bool)
    )
    _, taken = resample(source, 10.0)
    meta = {
        "caption": "do it", "split": "train", "dataset": "robot", "views": list(views), "fps": 10.0,
        "source_hz": hz, "action_kind": "joints",
        "frame_times_s": (np.arange(len(taken)) / 10).tolist(),
    }  # fmt: skip
    state = np.zeros((len(taken), 2), np.float32)
    return Sample(name, numbered(taken, len(views)), meta, {"state": state, "action": state})


def clip(name: str, frames: int, seconds: float) -> Sample:
    """A clip of a person, with frames in the middle of equal slices."""
    times_s = ((np.arange(frames) + 0.5) * seconds / frames).round(3).tolist()
    meta = {"caption": name, "split": "train", "views": ["main"], "frame_times_s": times_s}
    return Sample(name, numbered(range(frames)), meta)


def written(root: Path, samples: list[Sample], **facts: Any) -> ShardDataset:
    infos = write_shards(root, "train", samples, samples_per_shard=3)
    write_manifest(root, {"train": infos}, TOKENIZER, **facts)
    return ShardDataset(root)


def every(windows: ClipWindows) -> list[dict[str, Any]]:
    return [windows[i] for i in range(len(windows))]


def shown(sample: dict[str, Any]) -> list[int]:
    """Numbers of the pictures of a window of one view."""
    assert sample["tokens"].shape[2:] == GRID
    return [int(number) for number in sample["tokens"][0, :, 0, 0]]


@pytest.mark.parametrize("hz", [3.0, 5.0, 7.5, 10.0, 30.0])
@pytest.mark.parametrize("spacing_s", [0.4, 0.5, 1.0])
def test_frames_are_distinct_pictures_nearest_to_their_moments(
    tmp_path: Path, hz: float, spacing_s: float
) -> None:
    lengths = (60, 1, 21, 120)
    data = written(tmp_path, [robot(f"e{i}", n, hz) for i, n in enumerate(lengths)])
    windows = ClipWindows(data, Cut(4, spacing_s))
    apart_s = 1 / min(hz, 10.0)
    firsts = Counter[tuple[str, int]]()
    for sample in every(windows):
        pictures = shown(sample)
        assert len(set(pictures)) == 4
        moments = pictures[0] / hz + spacing_s * np.arange(4)
        # a source faster than 10 Hz is itself known at steps of 10 Hz only
        late = np.abs(np.array(pictures) / hz - moments).max()
        assert late <= apart_s / 2 + (1 / hz if hz > 10 else 0) + 1e-5
        firsts[sample["clip_id"], pictures[0]] += 1
        assert sample["spacing_s"] == spacing_s
    assert set(firsts.values()) == {1}
    last = np.floor(3 * spacing_s * min(hz, 10.0) + 0.5)  # in pictures after the first one
    stored = [resample(_still(n, hz), 10.0)[1] for n in lengths]
    expected = sum(max(0, len(np.unique(taken)) - last) for taken in stored)
    assert len(windows) == expected > 0


def _still(steps: int, hz: float) -> Trajectory:
    zeros = np.zeros((steps, 2))
    return Trajectory(hz, "joints", zeros, zeros, np.zeros(steps, bool))


def test_repeated_pictures_of_a_slow_robot_are_never_neighbours(tmp_path: Path) -> None:
    episode = robot("e", 40, 3.0)
    equal = (episode.codes_vtij[0, 1:] == episode.codes_vtij[0, :-1]).all(axis=(1, 2))
    assert equal.mean() > 0.65  # as of RT-1 at 10 Hz
    windows = ClipWindows(written(tmp_path, [episode]), Cut(5))
    assert len(windows) > 20
    for sample in every(windows):
        assert all(np.diff(shown(sample)) >= 1)


def test_clips_of_one_length_are_windows_as_they_are(tmp_path: Path) -> None:
    data = written(tmp_path, [clip(f"c{i}", 5, 2 + i) for i in range(10)])
    windows = ClipWindows(data, Cut(5))
    assert windows.whole
    for mine, theirs in zip(
        windows.batches(4, seed=1), islice(data.batches(4, seed=1), 9), strict=False
    ):
        assert mine["clip_id"] == theirs["clip_id"]
        np.testing.assert_array_equal(mine["tokens"], theirs["tokens"])
    shorter = ClipWindows(data, Cut(3))
    assert Counter(tuple(shown(s)) for s in every(shorter)) == dict.fromkeys(
        [(0, 1, 2), (1, 2, 3), (2, 3, 4)], 10
    )
    assert every(shorter)[1]["frame_times_s"] == data[0]["frame_times_s"][1:4]


def test_a_stated_spacing_takes_clips_that_have_it(tmp_path: Path) -> None:
    seconds = {"fine": 2.5, "near": 2.3, "sparse": 9.0}
    data = written(tmp_path, [clip(name, 5, s) for name, s in seconds.items()])
    windows = ClipWindows(data, Cut(3, 0.5))
    assert Counter(s["clip_id"] for s in every(windows)) == {"fine": 3, "near": 3}
    counts = windows.counts
    assert (counts.clips, counts.used, counts.too_sparse, counts.too_short) == (3, 2, 1, 0)
    assert counts.sparsest_s == pytest.approx(1.8)


def test_clips_sampled_at_a_fixed_rate_are_read_at_a_spacing(tmp_path: Path) -> None:
    samples = [clip(f"c{n}", n, n * 0.25) for n in (3, 9, 12)]
    data = written(tmp_path, samples, frames={"spacing_s": 0.25})
    found = [(s["clip_id"], *shown(s)) for s in every(ClipWindows(data, Cut(5)))]
    assert found == [("c9", 0, 2, 4, 6, 8), *(("c12", *range(n, n + 9, 2)) for n in range(4))]
    assert {s["spacing_s"] for s in every(ClipWindows(data, Cut(5)))} == {0.5}


def test_views_are_samples_of_their_own_or_stand_together(tmp_path: Path) -> None:
    data = written(
        tmp_path,
        [
            robot("two", 12, 5.0, ("a", "b")),
            robot("one", 12, 5.0, ("b",)),
            robot("other", 12, 5.0, ("c",)),
        ],
    )
    apart = ClipWindows(data, Cut(2))
    assert apart.views == ("a", "b", "c")
    assert {s["tokens"].shape for s in every(apart)} == {(1, 2, *GRID)}
    of_b = ClipWindows(data, Cut(2, views=("b",)))
    assert Counter(s["clip_id"] for s in every(of_b)).keys() == {"two", "one"}
    assert all(s["views"] == ["b"] for s in every(of_b))
    both = ClipWindows(data, Cut(2, views=("b", "a"), joint=True))
    assert both.counts.without_views == 2
    for sample in every(both):
        assert sample["views"] == ["b", "a"]
        np.testing.assert_array_equal(sample["tokens"][0], sample["tokens"][1] + 1000)
    one = ClipWindows(data, Cut(2, views=("a",)))
    assert len(apart) == 4 * len(one)  # a and b of the first, b, c


def test_every_clip_is_used_or_counted(tmp_path: Path) -> None:
    data = written(
        tmp_path, [robot(f"e{n}", n, 3.0, ("b",) if n % 2 else ("a",)) for n in range(1, 20)]
    )
    counts = ClipWindows(data, Cut(5, views=("a",))).counts
    assert counts.clips == 19
    assert counts.used + counts.too_short + counts.too_sparse + counts.without_views == 19
    assert (counts.without_views, counts.too_short) == (10, 3)  # 7 pictures are needed
    # the last picture of the episode of six lies between two steps of 10 Hz
    assert (counts.longest, counts.needed) == (len(set(resample(_still(6, 3.0), 10.0)[1])), 7)
    sparse = ClipWindows(data, Cut(5, 0.1)).counts
    assert (sparse.windows, sparse.too_sparse, sparse.sparsest_s) == (0, 19, pytest.approx(1 / 3))


@pytest.fixture(params=["alone", "mixture"])
def stream(request: pytest.FixtureRequest, tmp_path: Path) -> ClipWindows | Mixture:
    robots = [robot(f"e{i}", 9 + 3 * i, (3.0, 5.0)[i % 2], ("a", "b")) for i in range(5)]
    windows = ClipWindows(written(tmp_path / "robots", robots), Cut(4))
    if request.param == "alone":
        return windows
    people = written(tmp_path / "people", [clip(f"c{i}", 4, 3) for i in range(11)])
    return Mixture({"r": windows, "p": ClipWindows(people, Cut(4))}, {"r": 3, "p": 1})


def ids(batch: dict[str, Any]) -> list[tuple[Any, ...]]:
    return list(zip(batch["clip_id"], map(bytes, batch["tokens"]), strict=True))


def test_batches_are_the_same_for_any_ranks_and_workers_and_go_on_from_anywhere(
    stream: ClipWindows | Mixture,
) -> None:
    whole = [ids(batch) for batch in islice(stream.batches(12, seed=4), 20)]
    for world in (1, 2, 3, 4):
        for workers in (1, 3):
            ranks = [
                [stream.batches(12, 4, r, world, worker=w, workers=workers) for w in range(workers)]
                for r in range(world)
            ]
            for step, expected in enumerate(whole):
                assert [i for rank in ranks for i in ids(next(rank[step % workers]))] == expected
    for step in (1, 7, 19):
        assert ids(next(stream.batches(12, 4, start=12 * step))) == whole[step]
    copied = pickle.loads(pickle.dumps(stream))
    assert ids(next(copied.batches(12, 4))) == whole[0]


def test_an_epoch_holds_each_window_once(stream: ClipWindows | Mixture) -> None:
    windows = stream if isinstance(stream, ClipWindows) else stream.datasets[0]
    assert isinstance(windows, ClipWindows)
    count = len(windows)
    expected = Counter((s["clip_id"], s["tokens"].tobytes()) for s in every(windows))
    assert sum(expected.values()) == count > 60
    for epoch in range(2):
        read = Counter(ids(next(windows.batches(count, 9, start=epoch * count))))
        assert read == expected


def test_what_cannot_be_asked_for(tmp_path: Path) -> None:
    windows = ClipWindows(written(tmp_path, [robot("e", 30, 3.0)]), Cut(3))
    with pytest.raises(UserError, match="hold no state"):
        next(windows.batches(2, 0, fields=("state",)))
    for wrong in ({"frames": 0}, {"spacing_s": 0.0}, {"spacing_s": float("nan")}, {"joint": True},
                  {"views": ("a", "a")}):  # fmt: skip
        with pytest.raises(UserError, match="asked for"):
            Cut(**{"frames": 3} | wrong)
    broken = robot("e", 30, 3.0, ("a", "b"))
    broken.meta["views"] = ["a"]
    with pytest.raises(UserError, match="e has codes of 2 views and names a;"):
        ClipWindows(written(tmp_path / "broken", [broken]), Cut(3))
