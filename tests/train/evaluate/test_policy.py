"""`handloom eval policy`: its numbers are those of the truth, its files whole, its errors clear."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from handloom.errors import UserError
from handloom.tokenize import vqgan
from handloom.tokenize.shards import ShardDataset
from handloom.train.evaluate import policy_motion, policy_pictures
from handloom.train.evaluate.policy import Evaluation
from handloom.train.evaluate.policy import run as evaluate
from handloom.train.evaluate.policy_config import PolicyEval
from handloom.train.evaluate.policy_scores import Outputs, scores, scores_by_group
from handloom.train.finetune.config import FinetuneConfig, HeadOptions
from handloom.train.finetune.inputs import Inputs
from handloom.train.finetune.space import Space
from handloom.train.policy.policy import Chunk, Execution, Policy
from handloom.train.trainer.start import train
from tests.helpers.robot_shards import wander, write_robot_shards

M, N, K, A = 6, 3, 5, 7
SPACE = Space(
    "ee_delta", 10.0, (0.0,) * 7, (1.0,) * 7,
    (0.01, 0.0, 0.0, 0.0, 0.0, 0.1, 0.5), (0.01, 0.02, 0.03, 0.1, 0.1, 0.2, 0.5),
)  # fmt: skip


@pytest.fixture(scope="module")
def facts(tiny_vqgan: Path) -> dict[str, Any]:
    """Of a tokenizer of 4 x 4 codes a frame."""
    return vqgan.describe(str(tiny_vqgan), resolution=16)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory, facts: dict[str, Any]) -> Path:
    every = [wander(i, steps=16) for i in (*range(8), 31, 33, 34)]  # the last three move a lot
    folder = tmp_path_factory.mktemp("data") / "shards"
    return write_robot_shards(folder, {"train": every[:8], "val": every[8:]}, tokenizer=facts)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, shards: Path) -> Path:
    out = tmp_path_factory.mktemp("run")
    head = HeadOptions(width=32, layers=1, latent=4, vae_width=32, vae_blocks=1)
    train(
        FinetuneConfig(
            shards=(str(shards),), out=out, size="nano", head=head, steps=6, batch_size=8, warmup=2,
            stride=3, chunk=5, text_length=8, threads=1, tensorboard=False,
        )
    )  # fmt: skip
    return out


def config(run: Path, shards: Path, out: Path, **changes: Any) -> PolicyEval:
    options = {"clips": 0, "threads": 1, "samples": 3} | changes
    return PolicyEval(checkpoint=run, shards=(str(shards),), out=out, **options)


# What the numbers mean


@pytest.fixture
def outputs() -> Outputs:
    """Of a model that always says the truth."""
    random = np.random.default_rng(0)
    true = random.normal(0, 1, (M, K, A)).astype(np.float32)
    true[..., 6] = random.random((M, K)) > 0.5
    return Outputs(
        true=true,
        counts=np.ones((M, K), np.bool_),
        before=random.normal(0, 1, (M, 2, A)).astype(np.float32),
        before_known=np.ones((M, 2), np.bool_),
        prior_mean=true.copy(),
        samples=np.stack([true] * N),
        posterior=true.copy(),
        latent_mean=random.normal(0, 1, (M, 4)).astype(np.float32),
        kl=np.full(M, 2.5, np.float32),
        video=np.ones((M, 2), np.float32),
        dataset=["a", "a", "a", "b", "b", "b"],
        task=["push", "push", "lift", "push", "lift", "lift"],
    )


def of(outputs: Outputs, smoothing: float = 0.0) -> dict[str, Any]:
    return scores(outputs, SPACE, ("static", "wrist"), smoothing)


def test_the_truth_has_no_error(outputs: Outputs) -> None:
    found = of(outputs)
    for name in ("prior mean", "prior samples", "best of 3 samples", "posterior"):
        row = found["chunks"][name]
        assert row["arm_l1_std"] == row["position_l1_mm"] == row["rotation_l1_deg"] == 0
        assert row["gripper_accuracy"] == 1
        assert found["by_step_ahead"][name] == [0] * K
    assert found["jerk_m_s3"]["predicted"] == found["jerk_m_s3"]["true"] > 0
    assert found["latent"]["sample_spread_std"] == 0
    assert found["latent"]["active_dimensions"] == 4
    assert found["latent"]["kl_nats"] == 2.5


def test_errors_are_in_physical_units(outputs: Outputs) -> None:
    off = outputs.prior_mean + np.array([1, 0, 0, 0, 0, 2, 0], np.float32)
    off[..., 6] = np.where(np.arange(K) < 2, 1 - off[..., 6], off[..., 6])
    row = of(replace(outputs, prior_mean=off))["chunks"]["prior mean"]
    # One std of x is 10 mm, two stds of the rotation about z are 0.4 rad; of three numbers each.
    assert row["position_l1_mm"] == pytest.approx(10 / 3, rel=1e-4)
    assert row["rotation_l1_deg"] == pytest.approx(np.degrees(0.4) / 3, rel=1e-4)
    assert row["arm_l1_std"] == pytest.approx(3 / 6, rel=1e-4)
    assert row["l1_physical"][:6] == pytest.approx([0.01, 0, 0, 0, 0, 0.4], abs=1e-6)
    assert row["gripper_accuracy"] == pytest.approx(1 - 2 / K)


def test_errors_by_step_ahead(outputs: Outputs) -> None:
    off = outputs.prior_mean + np.arange(K, dtype=np.float32)[:, None]
    found = of(replace(outputs, prior_mean=off))
    assert found["by_step_ahead"]["prior mean"] == pytest.approx(list(range(K)), abs=1e-5)
    assert found["chunks"]["prior mean"]["arm_l1_std"] == pytest.approx((K - 1) / 2, rel=1e-5)


def test_what_does_not_count_changes_nothing(outputs: Outputs) -> None:
    counts = outputs.counts.copy()
    counts[1, 3:] = counts[2] = False
    wild = outputs.prior_mean.copy()
    wild[~counts] = 1e3
    some, all_wild = (replace(outputs, counts=counts, prior_mean=p) for p in (outputs.true, wild))
    assert of(some) == of(all_wild)
    assert of(replace(some, prior_mean=outputs.true + 1)) != of(some)


def test_one_good_sample_is_the_best_of_them(outputs: Outputs) -> None:
    far = outputs.true[..., :6] + 1
    samples = np.stack([outputs.true] * N)
    samples[:, :, :, :6] = far
    samples[1, : M // 2] = outputs.true[: M // 2]
    samples[2, M // 2 :] = outputs.true[M // 2 :]
    rows = of(replace(outputs, samples=samples))["chunks"]
    assert rows["best of 3 samples"]["arm_l1_std"] == 0
    assert rows["prior samples"]["arm_l1_std"] == pytest.approx(2 / 3, rel=1e-5)


def test_holding_repeats_the_action_before(outputs: Outputs) -> None:
    steady = np.repeat(outputs.before[:, -1:], K, axis=1)
    assert of(replace(outputs, true=steady))["chunks"]["hold"]["arm_l1_std"] == 0
    none = np.zeros_like(outputs.before_known)
    rows = of(replace(outputs, before_known=none))["chunks"]
    assert rows["hold"] == rows["mean action"]
    arms = np.abs(outputs.true[..., :6]).mean()
    assert rows["mean action"]["arm_l1_std"] == pytest.approx(arms, rel=1e-4)


def test_smoothing_takes_jerk_away(outputs: Outputs) -> None:
    jerks = of(outputs, smoothing=1.0)["jerk_m_s3"]
    assert jerks["smoothed"] < jerks["predicted"]
    assert of(outputs, smoothing=0.0)["jerk_m_s3"]["smoothed"] == jerks["predicted"]


def test_without_a_latent_there_are_no_samples(outputs: Outputs) -> None:
    plain = replace(
        outputs, samples=outputs.samples[:0], posterior=outputs.posterior[:, :0],
        latent_mean=outputs.latent_mean[:, :0],
    )  # fmt: skip
    found = of(plain)
    assert list(found["chunks"]) == ["prior mean", "mean action", "hold"]
    assert "latent" not in found
    json.dumps(found, allow_nan=False)


def test_tasks_and_datasets_add_up(outputs: Outputs) -> None:
    off = outputs.true.copy()
    off[3:, :, :6] += 1
    found = scores_by_group(replace(outputs, prior_mean=off), SPACE, ("static", "wrist"), 0.1)
    assert [found["datasets"][name]["windows"] for name in "ab"] == [3, 3]
    assert {name: list(tasks) for name, tasks in found["tasks"].items()} == {
        "a": ["lift", "push"], "b": ["lift", "push"],
    }  # fmt: skip
    errors = {n: row["chunks"]["prior mean"]["arm_l1_std"] for n, row in found["datasets"].items()}
    assert errors == {"a": 0, "b": pytest.approx(1)}
    assert found["tasks"]["b"]["lift"]["windows"] == 2
    assert found["all"]["chunks"]["prior mean"]["arm_l1_std"] == pytest.approx(0.5)


def test_known_and_unseen_instructions_are_scored_apart(outputs: Outputs) -> None:
    off = outputs.true.copy()
    off[4:, :, :6] += 1
    known = np.arange(6) < 4
    found = scores_by_group(
        replace(outputs, prior_mean=off, known=known), SPACE, ("static", "wrist"), 0.1
    )
    errors = {n: row["chunks"]["prior mean"]["arm_l1_std"] for n, row in found["phrases"].items()}
    assert errors == {"known": 0, "unseen": pytest.approx(1)}
    assert [row["windows"] for row in found["phrases"].values()] == [4, 2]
    assert "phrases" not in scores_by_group(outputs, SPACE, ("static", "wrist"), 0.1)


# A whole evaluation


def test_it_agrees_with_validation(run: Path, shards: Path, tmp_path: Path) -> None:
    found = evaluate(config(run, shards, tmp_path / "out"))
    val = json.loads((run / "summary.json").read_text())["val"]
    row = found["all"]
    assert row["windows"] == val["windows"]
    for name, other in (("prior mean", "prior_mean"), ("posterior", "posterior")):
        mine, theirs = row["chunks"][name], val[other]
        assert mine["arm_l1_std"] == pytest.approx(theirs["arm_l1"], rel=1e-3)
        assert mine["gripper_accuracy"] == pytest.approx(theirs["gripper_accuracy"], abs=1e-3)
    assert row["latent"]["kl_nats"] == pytest.approx(val["kl"], rel=1e-3)
    assert row["latent"]["active_dimensions"] == val["active_dimensions"]
    assert row["video_nats"] == pytest.approx(val["video"], rel=1e-3)
    assert json.loads((tmp_path / "out" / "scores.json").read_text()) == found


def test_draws_follow_the_seed_and_not_the_batch(run: Path, shards: Path, tmp_path: Path) -> None:
    changes: list[dict[str, Any]] = [{}, {"batch_size": 5}, {"seed": 1}]
    one, batched, seeded = (
        evaluate(config(run, shards, tmp_path / str(i), windows=20, **change))["all"]["chunks"]
        for i, change in enumerate(changes)
    )
    for name, row in one.items():
        assert batched[name]["arm_l1_std"] == pytest.approx(row["arm_l1_std"], rel=1e-4)
    assert seeded["prior mean"] == one["prior mean"]
    assert seeded["prior samples"] != one["prior samples"]


def test_pictures_videos_and_paths(
    run: Path, shards: Path, tiny_vqgan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import av

    asked = config(run, shards, tmp_path, clips=2, frames=3, tokenizer=str(tiny_vqgan))
    found = evaluate(asked)
    assert found["played"]["episodes"] == 2
    for kind in (policy_pictures.NEXT, policy_pictures.ALL):
        assert found["pictures"][kind]["all"]["frames"] == 2 * 2 * 3
        assert set(found["pictures"][kind]) == {"all", "static", "gripper"}
    for clip in found["played"]["by_episode"]:
        for view in ("static", "gripper"):
            with av.open(str(tmp_path / f"{clip}-{view}.mp4")) as video:
                assert sum(1 for _ in video.decode(video=0)) == 1 + 3
            with Image.open(tmp_path / f"{clip}-{view}.gif") as gif:
                assert gif.height > gif.width // 3
    with Image.open(tmp_path / "pictures.png") as picture:
        assert picture.width > 300
    drawn = (tmp_path / "actions.svg").read_text()
    panels = 3 * len(found["played"]["by_episode"])
    assert drawn.count("<polyline") == panels + drawn.count("<circle")  # where each chunk begins
    assert drawn.count("<circle") >= panels
    assert not list(tmp_path.glob("*.tmp"))
    assert "last given repeated" in capsys.readouterr().out


def test_without_its_tokenizer_actions_are_measured(
    run: Path, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = evaluate(config(run, shards, tmp_path, clips=1))
    assert "no pictures: " in capsys.readouterr().out
    assert "pictures" not in found
    assert {path.name for path in tmp_path.iterdir()} == {"scores.json", "actions.svg"}
    with pytest.raises(UserError, match="nowhere"):
        evaluate(config(run, shards, tmp_path, clips=1, tokenizer="/nowhere"))


def test_imagined_frames_stand_beside_the_true_ones(
    run: Path, shards: Path, tiny_vqgan: Path, tmp_path: Path
) -> None:
    job = Evaluation(config(run, shards, tmp_path, clips=1))
    batch = next(job.episodes())
    torch.nn.init.constant_(job.model.trunk.copy_gate.bias, 100)  # it repeats the newest frame
    tokenizer = vqgan.load(str(tiny_vqgan), resolution=16)
    tokenizer.network.codebook.data *= 500  # else all codes look alike
    one, _ = policy_pictures.imagine(job.model, batch, job.on_device(batch), tokenizer, 3, 4)
    (sample,) = [s for s in ShardDataset(shards, split="val") if s["clip_id"] == one.clip_id]
    # With a history of two the first frame given is a stride into the episode.
    assert np.array_equal(one.true, tokenizer.decode(sample["tokens"][0, 3:16:3]))
    assert np.array_equal(one.one, one.true[[0, 0, 1, 2, 3]])
    assert np.array_equal(one.free, one.true[[0, 0, 0, 0, 0]])
    assert len({frame.tobytes() for frame in one.true}) > 2  # things move, or this says nothing


# PlayedEpisode through


@pytest.fixture
def batch(run: Path, shards: Path, tmp_path: Path) -> Any:
    return next(Evaluation(config(run, shards, tmp_path, clips=1)).episodes())


def test_an_episode_is_all_its_windows(batch: Any) -> None:
    assert batch.step.tolist() == list(range(16))
    assert len(set(batch.clip_id)) == 1


def test_true_chunks_lead_where_the_demonstration_led(batch: Any) -> None:
    played = policy_motion.play(batch, batch.action, SPACE, Execution(smoothing=0.0), 3)
    assert np.array_equal(played.executed, played.true)
    found = policy_motion.scores([played], SPACE)["all"]
    assert found["drift_mm"] == found["position_l1_mm"] == 0
    assert found["jerk_executed_m_s3"] == found["jerk_true_m_s3"] > 0
    shifted = batch.action + np.eye(7, dtype=np.float32)[0] * 0.001
    played = policy_motion.play(batch, shifted, SPACE, Execution(smoothing=0.0), 3)
    found = policy_motion.scores([played], SPACE)["all"]
    assert found["drift_mm"] == pytest.approx(16, rel=1e-3)  # a millimetre a step


class Fed(Policy):
    """A policy that is told its chunks."""

    chunks: NDArray[np.float32]

    def _predict(self, inputs: Inputs) -> NDArray[np.float32]:
        return self.chunks[self._step]


def test_it_plays_as_the_policy_does(run: Path, tiny_vqgan: Path, batch: Any) -> None:
    how = Execution(execute_n=2, ensemble=0.3, smoothing=0.5)
    policy = Fed.from_checkpoint(run, execution=how, tokenizer=str(tiny_vqgan), threads=1)
    assert isinstance(policy, Fed)
    policy.chunks = batch.action + np.random.default_rng(0).normal(0, 0.01, batch.action.shape)
    policy.chunks = policy.chunks.astype(np.float32)
    black = {"static": np.zeros((16, 16, 3), np.uint8)}
    acted: list[Chunk] = [policy.act("", black, np.zeros(7)) for _ in range(8)]
    played = policy_motion.play(batch, policy.chunks, policy.space, how, 2)
    assert np.array_equal(played.executed, np.concatenate([one.execute for one in acted]))


# What does not go together


def other_shards(folder: Path, facts: dict[str, Any], **options: Any) -> Path:
    return write_robot_shards(folder, (3, 2), tokenizer=facts, steps=10, **options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"kind": "joints"}, r"hold joints at 10 Hz.*trained on ee_delta at 10 Hz"),
        ({"hz": 5.0}, r"hold ee_delta at 5 Hz.*trained on ee_delta at 10 Hz"),
        ({"arms": 2}, r"states of 14.*trained on .* states of 7"),
        ({"views": ("static", "top")}, r"views static, gripper, and .* static, top \(not gripper"),
        ({"rows": 8}, r"pictures of 4 x 4 codes, and --shards hold 8 x 4"),
    ],
)
def test_other_shards_are_refused(
    run: Path, facts: dict[str, Any], tmp_path: Path, options: dict[str, Any], said: str
) -> None:
    shards = other_shards(tmp_path / "shards", facts, **options)
    with pytest.raises(UserError, match=said):
        evaluate(config(run, shards, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_codes_of_another_tokenizer_are_refused(
    run: Path, facts: dict[str, Any], tmp_path: Path
) -> None:
    other = {**facts, "weights_sha256": "cd" * 32, "name": "another"}
    shards = other_shards(tmp_path / "shards", other)
    with pytest.raises(UserError, match=rf"{facts['weights_sha256'][:12]}.*another \(cdcdcdcd"):
        evaluate(config(run, shards, tmp_path / "out"))


def test_shards_without_trajectories_are_refused(
    run: Path, facts: dict[str, Any], tmp_path: Path
) -> None:
    shards = other_shards(tmp_path / "shards", facts, statistics=False)
    with pytest.raises(UserError, match=r"no trajectories.*ee_delta at 10 Hz"):
        evaluate(config(run, shards, tmp_path / "out"))


@pytest.mark.parametrize(
    ("option", "value"),
    [("windows", 0), ("samples", 0), ("clips", -1), ("frames", 0), ("batch_size", 0)],
)
def test_nothing_to_measure(option: str, value: int) -> None:
    with pytest.raises(UserError, match=f"--{option.replace('_', '-')} {value} .* or more"):
        config(Path("run"), Path("shards"), Path("out"), **{option: value})


def test_its_options_load_no_torch() -> None:
    code = "import sys, handloom.train.evaluate.policy_config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
