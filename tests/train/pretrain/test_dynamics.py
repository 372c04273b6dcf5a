"""Laws of the part of validation that sees what changes, and whether captions matter."""

from pathlib import Path

import pytest
import torch

from handloom.train.pretrain import results, validate
from handloom.train.pretrain.task import PretrainTask
from handloom.train.trainer.run import Run
from handloom.train.trainer.start import train
from tests.helpers.stage1_runs import small_run, write_clips

pytestmark = [pytest.mark.filterwarnings("ignore:torch.distributed is disabled"), pytest.mark.long]


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> PretrainTask:
    """A finished run on clips whose later frames follow from the caption."""
    root = tmp_path_factory.mktemp("captions")
    folder = write_clips(root / "clips", (160, 24))
    config = small_run(folder, root / "out", steps=120, val_every=120, batch_size=8, lr=3e-3)
    train(config)
    task: PretrainTask = Run(config).task
    return task


def test_changed_and_stayed_codes_together_are_the_later_frames(job: PretrainTask) -> None:
    found = validate.evaluate(job)["all"]
    changes, dynamics = [], found.dynamics
    for i in range(len(job.val)):
        codes = job.val[i]["tokens"]
        changes.append(codes[:, 1:] != codes[:, :-1])
    share = sum(c.mean() for c in changes) / len(changes)
    assert dynamics.changed_share == pytest.approx(share, abs=1e-6)
    assert dynamics.changed is not None
    assert dynamics.stayed is not None
    for name in ("cross_entropy", "accuracy"):
        both = (getattr(dynamics.changed, name), getattr(dynamics.stayed, name))
        mixed = share * both[0] + (1 - share) * both[1]
        assert getattr(found.later, name) == pytest.approx(mixed, rel=1e-4)


def test_a_model_that_heeds_captions_loses_by_wrong_ones(job: PretrainTask) -> None:
    swapped = validate.evaluate(job)["all"].dynamics.swapped
    assert swapped is not None
    assert swapped.clips == len(job.val)
    assert swapped.nats > 0.1
    assert swapped.right_preferred > 0.9


def test_a_model_without_its_captions_is_said_to_ignore_them(job: PretrainTask) -> None:
    weights = {name: value.clone() for name, value in job.trained.state_dict().items()}
    with torch.no_grad():
        job.trained.text_out.weight.zero_()
    try:
        dynamics = validate.evaluate(job)["all"].dynamics
    finally:
        job.trained.load_state_dict(weights)
    assert dynamics.swapped is not None
    assert dynamics.swapped.nats == pytest.approx(0, abs=1e-6)
    plain = {"changed_share": 0.1, "changed": None, "stayed": None}
    counted = {"clips": 24, "nats": dynamics.swapped.nats, "right_preferred": 0.5}
    assert any(
        "ignores captions" in line for line in results._dynamics_lines(plain | {"swapped": counted})
    )


def test_clips_of_one_caption_are_not_swapped(tmp_path: Path) -> None:
    same = [{"caption": "stay"}] * 3
    assert validate.other_caption(same, 0, 3) is None  # type: ignore[arg-type]
    others = [{"caption": "stay"}, {"caption": "stay"}, {"caption": "go"}]
    assert validate.other_caption(others, 0, 3) == "go"  # type: ignore[arg-type]
    assert validate.other_caption(others, 2, 3) == "stay"  # type: ignore[arg-type]
