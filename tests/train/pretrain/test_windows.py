"""Stage 1 on people and robots together: what a run reads, tells and refuses."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from handloom.errors import UserError
from handloom.train.generate import prompts
from handloom.train.generate.config import GenerateConfig
from handloom.train.model import export, text
from handloom.train.pretrain import data, validate
from handloom.train.pretrain.config import PretrainConfig
from handloom.train.trainer.run import Run
from handloom.train.trainer.start import train
from tests.helpers.robot_shards import wander, write_robot_shards
from tests.helpers.stage1_runs import TOKENIZER, small_run, trace, write_clips

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Clips of people; robots of one view and of two, whose episodes differ in length."""
    root = tmp_path_factory.mktemp("mixed")
    lengths = (4, 12, 17, 30, 23, 19)
    one = [wander(i, n, views=("static",), rows=6, cols=6) for i, n in enumerate(lengths)]
    two = [wander(i, 20 + i, rows=6, cols=6, name="two") for i in range(8, 13)]
    return {
        "people": write_clips(root / "people"),
        "one": write_robot_shards(root / "one", {"train": one, "val": one[3:]}, dataset="one"),
        "two": write_robot_shards(root / "two", {"train": two[:3], "val": two[3:]}, dataset="two"),
    }


@pytest.fixture
def config(folders: dict[str, Path], tmp_path: Path) -> PretrainConfig:
    config = small_run(folders["people"], tmp_path / "out", size="nano", batch_size=4)
    return replace(config, shards=tuple(map(str, folders.values())))


@pytest.mark.long
def test_people_and_robots_train_in_one_run_and_are_scored_apart(
    config: PretrainConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    train(config)
    said = capsys.readouterr().out
    # 3 frames half a second apart reach over 11 steps
    assert "one/train: 51 windows of 5 clips; 1 too short for 3 frames 0.5 s apart" in said
    assert "two/train: 114 windows of 3 clips" in said
    summary = json.loads((config.out / "summary.json").read_text())
    assert summary["val_by_dataset"].keys() == {"all", "test", "one", "two"}
    shape = json.loads((config.out / "export" / "config.json").read_text())["shape"]
    assert (shape["views"], shape["frames"], shape["rows"]) == (1, 3, 6)

    again = replace(config, out=config.out.with_name("again"))
    train(replace(again, steps=12))
    assert trace(again.out) == trace(config.out)


def test_weights_and_windows_decide_what_comes(config: PretrainConfig) -> None:
    def shares(**changes: Any) -> dict[str, int]:
        job = Run(replace(config, **changes))
        read = next(job.task.train.batches(4096, 0, fields=("meta",)))["meta"]
        names, counts = np.unique([meta["dataset"] for meta in read], return_counts=True)
        return dict(zip(names.tolist(), counts.tolist(), strict=True))

    people, one, two = config.shards
    weighed = shares(shards=(f"{people}=2", f"{one}=1", f"{two}=1"))
    assert weighed == {"test": 2048, "one": 1024, "two": 1024}
    total = 24 + 51 + 114
    expected = {"test": 24 / total, "one": 51 / total, "two": 114 / total}
    for name, count in shares().items():
        assert count == pytest.approx(4096 * expected[name], abs=1)


def test_validation_shows_all_folders_and_many_clips(config: PretrainConfig) -> None:
    job = Run(replace(config, val_clips=30)).task
    held = [job.val[i] for i in range(30)]
    assert [s["dataset"] for s in held[:6]] == ["test", "one", "two"] * 2
    assert len({s["clip_id"] for s in held if s["dataset"] == "one"}) == 3
    assert {v.clips for v in validate.evaluate(job).values()} == {30, 6, 12}
    every = Counter(job.val[i]["clip_id"] for i in range(len(job.val)))
    assert [every[f"robot-{i:04d}"] for i in (3, 4, 5)] == [30 - 10, 23 - 10, 19 - 10]
    assert [every[f"two-{i:04d}"] for i in (11, 12)] == [2 * (31 - 10), 2 * (32 - 10)]
    assert sum(every[f"test-val{i:03d}"] for i in range(6)) == len(every) - 5 == 6


def test_views_together(config: PretrainConfig, folders: dict[str, Path]) -> None:
    both = replace(config, shards=(str(folders["two"]),), views=("gripper", "static"), frames=2)
    job = Run(replace(both, joint_views=True)).task
    assert (job.shape.views, job.shape.frames) == (2, 2)
    assert job.train[0]["views"] == ["gripper", "static"]
    assert len(Run(both).task.train) == 2 * len(job.train)


@pytest.mark.long
def test_a_model_continues_windows_of_the_clips_that_it_is_shown(
    config: PretrainConfig, tmp_path: Path
) -> None:
    train(replace(config, steps=2, val_every=0, spacing_input=True))
    model, facts = export.load(config.out)
    encoder = text.load_again(facts["text_encoder"])
    assert encoder.length == model.shape.text_length == 9
    shards = (config.shards[2],)
    asked = GenerateConfig(checkpoint=config.out, shards=shards, clip="two-0009", out=tmp_path)
    wanted = data.Wanted.from_facts(facts)
    tokenizer: Any = None  # of pictures alone
    (prompt,) = prompts.find(asked, model.shape, TOKENIZER, tokenizer, encoder, wanted)
    assert prompt.sample is not None
    assert prompt.sample["tokens"].shape == (1, 3, 6, 6)
    many = replace(asked, clip=None, clips=4)
    found = prompts.find(many, model.shape, TOKENIZER, tokenizer, encoder, wanted)
    assert [p.given_VfRC.shape for p in found] == [(1, 1, 6, 6)] * 4


def test_what_does_not_fit_is_refused_before_anything_is_written(
    config: PretrainConfig, folders: dict[str, Path], tmp_path: Path
) -> None:
    people, one, two = config.shards

    def refused(sentence: str, **changes: Any) -> None:
        with pytest.raises(UserError, match=sentence):
            train(replace(config, **changes))
        assert not config.out.exists()

    refused("one/train: each of its 6 clips is too short for 3 frames 2 s apart: the longest one "
            "has 30 different pictures, and 41 are needed",
            shards=(one,), frames=3, spacing_s=2.0)  # fmt: skip
    refused("people/train has no clip with any of the views static: its views are main",
            views=("static",))  # fmt: skip
    refused("one/train has no clip with all of the views static, gripper", joint_views=True,
            views=("static", "gripper"), shards=(two, one))  # fmt: skip
    refused("holds no 3 different pictures 0.01 s apart: .* Raise --spacing-s to 0.1 or more",
            spacing_s=0.01, frames=3, shards=(one,))  # fmt: skip
    refused("a spacing of -1.0 s is asked for", spacing_s=-1.0)
    refused("windows of 0 frames", frames=0)
    refused("the views asked for are none", joint_views=True)
    other = write_robot_shards(
        tmp_path / "other", tokenizer={**TOKENIZER, "weights_sha256": "c" * 64}
    )
    refused(r"other: vqgan-f16-64 \(cccccccccccc\).*`handloom curate .* --tokens.model",
            shards=(people, str(other)))  # fmt: skip
    small = write_robot_shards(tmp_path / "small", (3, 1), dataset="small")
    refused(r"small: \[4, 4\]; .*`handloom curate .* --out ", shards=(people, str(small)))
    refused("weight of nan, expected a number above 0", shards=(f"{people}=nan", two))
