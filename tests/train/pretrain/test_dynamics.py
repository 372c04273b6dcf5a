"""Laws of the part of validation that sees what changes, and whether captions matter."""

from dataclasses import asdict

import pytest
import torch

from handloom.train.model.gpt import to_sequence
from handloom.train.model.sampling import predict_each_frame
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_model_that_heeds_captions_loses_by_wrong_ones(job: PretrainTask) -> None:
    swapped = validate.evaluate(job)["all"].dynamics.swapped
    assert swapped is not None
    assert swapped.clips == len(job.val)
    assert swapped.nats > 0.1
    assert swapped.right_preferred > 0.9
    said = results.dynamics_lines(asdict(validate.evaluate(job)["all"].dynamics))
    assert "captions matter" in said[-1]


@pytest.mark.slow
def test_own_codes_within_a_frame_are_scored_where_codes_changed(job: PretrainTask) -> None:
    found = results.frame_by_frame(job, clips=12)["all"]
    codes = torch.stack([torch.as_tensor(job.val[i]["tokens"].astype("int64")) for i in range(12)])
    changed = codes[:, :, 1:] != codes[:, :, :-1]
    with torch.no_grad():
        text = job.text([job.val[i]["caption"] for i in range(12)])
        own = predict_each_frame(job.model, to_sequence(codes), text)
    right = own.view(12, -1) == to_sequence(codes[:, :, 1:])
    where = to_sequence(changed.long()).bool()
    assert found.changed == pytest.approx(float(right[where].float().mean()))
    assert found.temporally_teacher_forced == pytest.approx(float(right.float().mean()))


@pytest.mark.parametrize(("predicted", "words"), [(24.5, "it beats"), (21.0, "it does not beat")])
def test_the_verdict_on_pictures_follows_from_both_numbers(predicted: float, words: str) -> None:
    rows = {"predicted": {"psnr_db": predicted}, "last given repeated": {"psnr_db": 22.5}}
    assert words in results.pixel_lines({"all": rows, "test": rows})[-1]


@pytest.mark.slow
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
    assert "ignores captions" in results.dynamics_lines(asdict(dynamics))[-1]


def test_clips_of_one_caption_are_not_swapped() -> None:
    elsewhere = [{"caption": "stay", "dataset": "a"}, {"caption": "go", "dataset": "b"}]
    assert validate.other_caption(elsewhere, 0, 2) is None  # type: ignore[arg-type]
    same = [{"caption": "stay"}] * 3
    assert validate.other_caption(same, 0, 3) is None  # type: ignore[arg-type]
    others = [{"caption": "stay"}, {"caption": "stay"}, {"caption": "go"}]
    assert validate.other_caption(others, 0, 3) == "go"  # type: ignore[arg-type]
    assert validate.other_caption(others, 2, 3) == "stay"  # type: ignore[arg-type]
