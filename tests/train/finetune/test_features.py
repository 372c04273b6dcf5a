"""Stored features: whole parts, shared work, and a bound on their size."""

from pathlib import Path

import numpy as np
import pytest
import torch

from handloom.errors import RunError, UserError
from handloom.train.finetune import features
from handloom.train.finetune.config import FinetuneConfig
from handloom.train.trainer.distributed import World
from handloom.train.trainer.run import Run
from handloom.train.trainer.start import train
from tests.helpers.robot_shards import write_robot_shards
from tests.helpers.stage1_runs import losses, small_run, write_clips
from tests.train.finetune.test_finetune import small_finetune

SIZE_MX = (3, 4)
HERE = World(torch.device("cpu"))


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "PART_BYTES", 64 * 2 * 12)  # 64 windows a part


class Counted:
    """Features that say which window they are of, and how many were asked for."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.calls, self.fails_at = list[list[int]](), fails_at

    def __call__(self, numbers: np.ndarray) -> torch.Tensor:
        if self.fails_at is not None and self.fails_at in numbers:
            raise RuntimeError("killed")
        self.calls.append(numbers.tolist())
        return torch.from_numpy(numbers)[:, None, None].expand(-1, *SIZE_MX).float()


def expected(numbers: np.ndarray) -> np.ndarray:
    return np.broadcast_to(numbers[:, None, None], (len(numbers), *SIZE_MX))


def test_what_is_read_is_what_was_computed(small_parts: None, tmp_path: Path) -> None:
    numbers = 3 * np.arange(150)
    stored = features.Stored(tmp_path / "train", numbers, SIZE_MX)
    stored.write(HERE, Counted())
    assert [np.load(path).shape[0] for path in stored.parts] == [64, 64, 22]
    asked = np.array([0, 447, 192, 3, 192])
    found, missing = stored.read(asked)
    assert missing == []
    np.testing.assert_array_equal(found, expected(asked))
    found, missing = stored.read(np.array([6, 7, 450, 9]))
    assert missing == [1, 2]
    np.testing.assert_array_equal(found, expected(np.array([6, 0, 0, 9])))


def test_whole_parts_stay_after_a_kill(small_parts: None, tmp_path: Path) -> None:
    numbers = np.arange(150)
    with pytest.raises(RuntimeError, match="killed"):
        features.Stored(tmp_path / "a", numbers, SIZE_MX).write(HERE, Counted(fails_at=100))
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["00000.npy"]
    again = Counted()
    stored = features.Stored(tmp_path / "a", numbers, SIZE_MX)
    stored.write(HERE, again)
    assert min(map(min, again.calls)) == 64
    np.testing.assert_array_equal(stored.read(numbers)[0], expected(numbers))
    stored.write(HERE, Counted(fails_at=0))  # nothing is left to compute


def test_processes_share_the_parts_and_compute_equally_often(
    small_parts: None, tmp_path: Path
) -> None:
    numbers = np.arange(150)
    counted = [Counted() for _ in range(3)]
    for rank, one in enumerate(counted):  # each on a disk of its own, so that all find none
        world = World(torch.device("cpu"), rank, 3)
        features.Stored(tmp_path / str(rank), numbers, SIZE_MX).write(world, one)
    assert {len(one.calls) for one in counted} == {2}
    done = {number for one in counted for call in one.calls for number in call}
    assert done == set(range(150))
    assert [len(list((tmp_path / str(rank)).iterdir())) for rank in range(3)] == [1, 1, 1]


def test_a_disk_that_is_too_small_is_said_before_anything_is_written(tmp_path: Path) -> None:
    stored = features.Stored(tmp_path / "a", np.arange(10**5), (10**5, 10**4))
    with pytest.raises(RunError, match=r"need 200,000\.0 GB .* --features-gb"):
        stored.write(HERE, Counted())
    assert not list((tmp_path / "a").iterdir())


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> FinetuneConfig:
    root = tmp_path_factory.mktemp("bound")
    train(small_run(write_clips(root / "clips", side=4), root / "stage1", size="nano", steps=2))
    shards = write_robot_shards(root / "shards")
    return small_finetune(shards, root / "all", mode="frozen+cached", stage1=root / "stage1")


def bytes_of(config: FinetuneConfig) -> int:
    return sum(path.stat().st_size for path in (config.out / "features").glob("train*/*.npy"))


@pytest.mark.parametrize("share", [0.0, 0.4])
def test_a_bound_holds_and_what_is_not_stored_is_computed(
    share: float, config: FinetuneConfig, tmp_path: Path
) -> None:
    train(config)
    bound_gb = share * bytes_of(config) / 1e9
    bounded = small_finetune(
        Path(config.shards[0]), tmp_path, mode="frozen+cached", stage1=config.stage1,
        features_gb=bound_gb,
    )  # fmt: skip
    train(bounded)
    assert np.allclose(losses(tmp_path), losses(config.out), rtol=2e-3)  # float16 in both
    assert bytes_of(bounded) <= bound_gb * 1e9 + 128  # a header
    assert (bytes_of(bounded) > 0) is (share > 0)
    job = Run(bounded).task
    assert len(list((tmp_path / "features").glob("val*/*.npy"))) == 1
    assert len(job.val) > 16  # only the windows that are scored


def test_a_size_that_is_none_is_refused(config: FinetuneConfig, tmp_path: Path) -> None:
    bad = small_finetune(Path(config.shards[0]), tmp_path, features_gb=-1.0)
    with pytest.raises(UserError, match=r"--features-gb -1\.0 is no size"):
        train(bad)
