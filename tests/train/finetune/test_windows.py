"""Laws of windows: their order, their masks, and what stands where."""

from collections import Counter
from dataclasses import fields, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from handloom.errors import UserError
from handloom.tokenize.shards import ShardDataset, read_manifest
from handloom.train.finetune.space import Space
from handloom.train.finetune.windows.folder import WindowOptions
from handloom.train.finetune.windows.subsets import PerTask
from handloom.train.finetune.windows.windows import WindowBatch, Windows
from tests.helpers.robot_shards import Recorded, wander, write_robot_shards

OPTIONS = WindowOptions(history=3, stride=4, chunk=5)


def opened(*folders: Path, split: str = "train", **options: Any) -> Windows:
    """The windows of some folders."""
    space = Space.of({str(folder): read_manifest(folder) for folder in folders})
    data = [ShardDataset(folder, split) for folder in folders]
    return Windows(data, space, **{"options": OPTIONS, **options})


def assert_same(one: WindowBatch, other: WindowBatch) -> None:
    """Check every field."""
    for field in fields(WindowBatch):
        np.testing.assert_array_equal(getattr(one, field.name), getattr(other, field.name))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two folders of episodes of different lengths; the second has a view more."""
    root = tmp_path_factory.mktemp("robots")
    three = ("static", "gripper", "side")
    train = [wander(i, steps=9 + 4 * i, idle=(0, 8)) for i in range(7)]
    more = [wander(i, steps=15 + i, views=three, name="more") for i in range(20, 25)]
    return [
        write_robot_shards(root / "one", {"train": train, "val": [wander(9)]}, per_shard=3),
        write_robot_shards(root / "two", {"train": more}, dataset="other"),
    ]


def expected(episode: Recorded, t: int, views: tuple[str, ...]) -> dict[str, Any]:
    """A window by its definition, number by number."""
    steps, (rows, cols) = len(episode.state), episode.codes_vtrc.shape[2:]
    frames = [t - 8, t - 4, t, t + 4]
    codes = np.zeros((4, len(views), rows, cols), np.uint16)
    seen = np.zeros((4, len(views)), bool)
    for f, frame in enumerate(frames):
        for v, view in enumerate(views):
            if view in episode.views:
                nearest = min(max(frame, 0), steps - 1)
                codes[f, v] = episode.codes_vtrc[episode.views.index(view), nearest]
                seen[f, v] = 0 <= frame < steps
    state = [episode.state[max(frame, 0)] for frame in frames[:3]]
    chunk = range(t, t + 5)
    return {
        "codes": codes,
        "visible": seen,
        "state": np.stack(state),
        "state_known": [frame >= 0 for frame in frames[:3]],
        "action": np.stack([episode.action[min(step, steps - 1)] for step in chunk]),
        "action_valid": [step < steps and step not in episode.idle for step in chunk],
        "caption": episode.caption,
        "task": episode.task,
        "clip_id": episode.clip_id,
        "step": t,
    }


@pytest.mark.parametrize("layout", ["samples", "packed"])
@pytest.mark.parametrize("views", [("static", "gripper"), ("gripper",), ("gripper", "static")])
def test_every_window_is_what_its_definition_says(
    tmp_path: Path, views: tuple[str, ...], layout: Any
) -> None:
    idle = (0, 1, 2, 3, 4, 5, 6, 11, 23)  # the chunks of steps 0 to 2 are idle
    every = [wander(i, steps=24, idle=idle) for i in range(4)]
    folder = write_robot_shards(tmp_path, {"train": every}, per_shard=3, layout=layout)
    windows = opened(folder, views=views)
    starts = [(episode, t) for episode in every for t in range(3, 23)]
    assert len(windows) == len(starts)
    for i, (episode, t) in enumerate(starts):
        batch = windows.read(np.array([i]))
        for name, value in expected(episode, t, views).items():
            np.testing.assert_array_equal(getattr(batch, name)[0], value, err_msg=f"{name} {t}")


def test_a_view_that_an_episode_lacks_is_masked(folders: list[Path]) -> None:
    windows = opened(*folders)
    assert windows.views == ("static", "gripper", "side")
    batch = windows.read(np.arange(len(windows)))
    lacks = np.array(batch.dataset) == "robot"
    assert 0 < lacks.sum() < len(lacks)
    assert not batch.visible[lacks][:, :, 2].any()
    assert not batch.codes[lacks][:, :, 2].any()
    assert batch.visible[~lacks][:, 2].all()  # the frame of step t itself


def test_episodes_with_none_of_the_views_are_left_out_and_counted(tmp_path: Path) -> None:
    every = [wander(0, views=("a", "b")), wander(1, views=("a",)), wander(2, views=("b",))]
    windows = opened(write_robot_shards(tmp_path, {"train": every}), views=("b",))
    assert set(windows.read(np.arange(len(windows))).clip_id) == {"robot-0000", "robot-0002"}
    assert (windows.episodes, windows.without_views) == (2, 1)


def test_views_are_found_by_name(tmp_path: Path) -> None:
    episode = wander(0)
    turned = replace(
        wander(1), codes_vtrc=wander(1).codes_vtrc[::-1].copy(), views=("gripper", "static")
    )
    windows = opened(write_robot_shards(tmp_path, {"train": [episode, turned]}))
    whole = windows.read(np.arange(len(windows)))
    assert (whole.codes[:, :, 0] != 2).all()  # 2 is the background of the gripper's view
    assert (whole.codes[:, :, 1] != 1).all()


@pytest.mark.parametrize("count", [1, 2])
def test_global_batches_are_the_same_for_any_world(folders: list[Path], count: int) -> None:
    windows = opened(*folders[:count])
    alone = list(islice(windows.batches(12, seed=5), 30))
    for world in (2, 3, 4):
        ranks = [windows.batches(12, 5, rank, world) for rank in range(world)]
        for whole in alone:
            parts = [next(rank) for rank in ranks]
            assert {part.position for part in parts} == {whole.position}
            joined = np.concatenate([part.number for part in parts])
            np.testing.assert_array_equal(joined, whole.number)
            assert [name for part in parts for name in part.clip_id] == whole.clip_id
            codes = np.concatenate([part.codes for part in parts])
            np.testing.assert_array_equal(codes, whole.codes)


def test_a_stream_goes_on_from_any_position(folders: list[Path]) -> None:
    windows = opened(*folders, weights=[1, 3])
    every = list(islice(windows.batches(8, seed=2), 60))
    for step in (1, 17, 59):
        again = next(windows.batches(8, seed=2, start=8 * step))
        assert_same(again, every[step])
    assert_same(windows.read(every[9].number), replace(every[9], position=8))


def test_an_epoch_holds_every_window_once_in_an_order_of_the_seed(folders: list[Path]) -> None:
    windows = opened(folders[0])
    count = len(windows)
    epochs = [next(windows.batches(count, seed, start=s * count)) for seed, s in ((0, 0), (0, 1))]
    other = next(windows.batches(count, 1))
    orders = [tuple(batch.number.tolist()) for batch in (*epochs, other)]
    assert all(sorted(order) == list(range(count)) for order in orders)
    assert len(set(orders)) == 3


def test_folders_are_mixed_by_weight(folders: list[Path]) -> None:
    batch = next(opened(*folders, weights=[1, 3]).batches(4096, seed=0))
    assert Counter(batch.dataset) == {"robot": 1024, "other": 3072}
    windows = opened(*folders)
    share = len(opened(folders[0])) / len(windows)
    batch = next(windows.batches(4096, seed=0))
    assert Counter(batch.dataset)["robot"] == pytest.approx(4096 * share, abs=1)


def test_a_subset_is_nested_and_depends_on_nothing_but_the_episodes(tmp_path: Path) -> None:
    every = [wander(i, steps=6) for i in range(40)]
    for name, per_shard, recorded in (("a", 40, every), ("b", 7, every[::-1])):
        write_robot_shards(tmp_path / name, {"train": recorded}, per_shard=per_shard)

    def chosen(name: str, count: int, seed: int = 0) -> Counter[tuple[str, str]]:
        windows = opened(tmp_path / name, per_task=count, subset_seed=seed)
        batch = windows.read(np.arange(len(windows)))
        return Counter(set(zip(batch.task, batch.clip_id, strict=True)))

    few, many = chosen("a", 3), chosen("a", 9)
    assert Counter(task for task, _ in few) == dict.fromkeys({e.task for e in every}, 3)
    assert few < many
    assert chosen("b", 3) == few != chosen("a", 3, seed=1)
    assert len(chosen("a", 14)) == 40  # tasks of 14, 13 and 13


def test_the_whole_of_several_folders_is_cut_to_a_subset(folders: list[Path]) -> None:
    windows = opened(*folders, per_task=2)
    batch = windows.read(np.arange(len(windows)))
    pairs = set(zip(batch.task, batch.clip_id, strict=True))
    assert set(Counter(task for task, _ in pairs).values()) == {2}
    assert windows.episodes == len(pairs)
    with pytest.raises(UserError, match="1 or more"):
        PerTask(0)


def test_without_a_name_of_its_own_the_caption_is_the_task(tmp_path: Path) -> None:
    folder = write_robot_shards(tmp_path, {"train": [replace(wander(1), task="")]})
    assert opened(folder).read(np.array([0])).task == [wander(1).caption]


def test_a_fingerprint_tells_what_the_batches_depend_on(folders: list[Path]) -> None:
    kinds = [
        {}, {"views": ("static",)}, {"weights": [1, 5]}, {"per_task": 2},
        {"per_task": 2, "subset_seed": 1}, {"options": WindowOptions()},
    ]  # fmt: skip
    prints = [tuple(opened(*folders, **kind).fingerprint()) for kind in kinds]
    assert len(set(prints)) == len(kinds)
    assert opened(*folders).fingerprint() == list(prints[0])


@pytest.mark.parametrize("name", ["state", "action"])
def test_a_number_that_is_not_finite_is_named(tmp_path: Path, name: str) -> None:
    good = write_robot_shards(tmp_path / "good", (2, 1))
    array = getattr(wander(5), name).copy()
    array[7, 3] = np.nan
    broken = {"train": [wander(4), replace(wander(5), **{name: array})]}
    folder = write_robot_shards(tmp_path / "broken", broken)
    space = Space.of({"good": read_manifest(good)})
    with pytest.raises(UserError, match=f"robot-0005: {name} 3 of step 7 is nan"):
        Windows([ShardDataset(folder)], space, WindowOptions())


def test_episodes_of_another_kind_are_named(folders: list[Path], tmp_path: Path) -> None:
    other = write_robot_shards(tmp_path / "other", (1, 1), arms=2, name="two")
    space = Space.of({"one": read_manifest(folders[0])})
    with pytest.raises(UserError, match=r"two-0000 has ee_delta at 10 Hz with states of 14"):
        Windows([ShardDataset(other)], space, WindowOptions())


def test_what_cannot_be_asked_for(folders: list[Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"wrist.*static, gripper"):
        opened(folders[0], views=("wrist",))
    with pytest.raises(UserError, match="each once"):
        opened(folders[0], views=("static", "static"))
    with pytest.raises(UserError, match="multiple of the ranks"):
        next(opened(folders[0]).batches(5, 0, 0, 2))
    with pytest.raises(UserError, match="different sizes"):
        opened(folders[0], write_robot_shards(tmp_path / "large", (1, 1), rows=8, cols=8))
    with pytest.raises(UserError, match="chunk is 0"):
        WindowOptions(chunk=0)
    with pytest.raises(UserError, match="no window"):
        opened(write_robot_shards(tmp_path / "no-val", (1, 0)), split="val")
    with pytest.raises(UserError, match="no window"):
        opened(*folders, views=("side",))
