import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from handloom.cli import main
from handloom.errors import UserError
from handloom.stages.datasets.calvin import adapter as calvin
from handloom.tokenize import vqgan
from handloom.train.evaluate.rollout import CalvinAdapter
from handloom.train.evaluate.rollout import run as evaluate
from handloom.train.evaluate.rollout_config import RolloutEval
from handloom.train.finetune import export
from handloom.train.finetune.config import HeadOptions
from handloom.train.finetune.model import RobotModel, RobotShape
from handloom.train.finetune.space import Space
from handloom.train.model import text
from handloom.train.model.shape import Shape
from handloom.train.policy.policy import Policy
from handloom.train.tabletop.env import TabletopEnv
from handloom.train.tabletop.spread import state_of


def write_policy(
    folder: Path, views: tuple[str, ...] = ("static", "gripper"), kind: str = "ee_delta"
) -> Path:
    """A policy that has learned nothing, on the bundled tokenizer's small pictures."""
    encoder, facts = text.load("seeded", 8), vqgan.describe("bundled-128")
    space = Space(kind, 10.0, (0.0,) * 7, (1.0,) * 7, (0.0,) * 7, (0.01,) * 7)
    trunk = Shape(1, 16, 1, codebook_size=facts["codebook_size"], views=len(views), frames=3,
                  rows=8, cols=8, text_length=8, text_width=encoder.width)  # fmt: skip
    head = HeadOptions(width=32, layers=1, latent=2, vae_width=32, vae_blocks=1)
    shape = RobotShape(trunk, views, 2, 4, space.state_width, 7, space.grippers, head)
    export.save(folder, RobotModel(shape), {
        "space": space.to_dict(),
        "stride": 2,
        "tokenizer": {**facts, "model": "bundled-128"},
        "text_encoder": {"name": "seeded", "length": 8,
                         "weights_sha256": encoder.weights_sha256},
    })  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def policy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_policy(tmp_path_factory.mktemp("policy") / "export")


def test_a_policy_acts_on_the_tabletop(policy_folder: Path, tmp_path: Path) -> None:
    found = evaluate(
        RolloutEval(checkpoint=policy_folder, chains=2, single=True, tasks=("open_drawer",),
                    steps_per_task=12, videos=1, out=tmp_path)
    )  # fmt: skip
    assert found == json.loads((tmp_path / "rollout.json").read_text())
    assert found["tasks"]["open_drawer"]["tried"] == 2
    assert found["act_ms"]["p50"] > 0
    with av.open(str(tmp_path / "chain-000.mp4")) as film:
        frames = list(film.decode(video=0))
    assert len(frames) == 5  # of 13 observations every third one
    assert not (tmp_path / "chain-001.mp4").exists()


def test_the_ends_of_the_scale(tmp_path: Path) -> None:
    rates = {
        actor: evaluate(
            RolloutEval(actor=actor, chains=3, videos=0, steps_per_task=150, out=tmp_path / actor)
        )["average_length"]
        for actor in ("oracle", "random")
    }
    assert rates["oracle"] > 4
    assert rates["random"] < 1


def test_what_the_robot_reports_is_what_curation_reads() -> None:
    random = np.random.default_rng(0)
    robot_obs = random.uniform(-6, 6, (50, 15))
    robot_obs[:, 14] = random.choice([-1.0, 1.0], 50)
    assert np.allclose(
        [state_of(one) for one in robot_obs], calvin.convert_states(robot_obs), atol=1e-6
    )


def test_a_policy_is_shown_its_own_views(tmp_path: Path) -> None:
    policy = Policy.from_checkpoint(write_policy(tmp_path / "one", views=("gripper",)))
    obs = TabletopEnv().reset()
    assert CalvinAdapter(policy).act(obs, "open the drawer").shape == (2, 7)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "nobody": ({}, "give --checkpoint"),
    "two": ({"checkpoint": Path("x"), "actor": "oracle"}, "give --checkpoint"),
    "oracle in calvin": ({"actor": "oracle", "calvin": Path("x")}, "for the tabletop"),
    "no chain": ({"actor": "random", "chains": 0}, "--chains 0"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_goes_together(case: str) -> None:
    options, words = REFUSED[case]
    with pytest.raises(UserError, match=words):
        RolloutEval(**options)


@pytest.mark.parametrize(
    ("options", "words"),
    [(["--tasks", "dance"], "no task 'dance'"), (["--tasks", "open_drawer"], "or pass --single")],
)
def test_unknown_tasks(
    options: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["eval", "rollout", "--actor", "random", "--out", str(tmp_path / "o"), *options]
    assert main(command) == 2
    assert words in capsys.readouterr().err


def test_calvin_that_is_not_installed_is_said(
    policy_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["eval", "rollout", "--checkpoint", str(policy_folder), "--calvin", str(tmp_path)]
    assert main([*command, "--out", str(tmp_path / "o")]) == 2
    assert "git clone" in capsys.readouterr().err


def test_a_policy_of_another_robot_is_refused(tmp_path: Path) -> None:
    policy = Policy.from_checkpoint(write_policy(tmp_path / "a", kind="joints"))
    with pytest.raises(UserError, match="joints"):
        CalvinAdapter(policy)
    policy = Policy.from_checkpoint(write_policy(tmp_path / "b", views=("static", "top")))
    with pytest.raises(UserError, match="static, top"):
        CalvinAdapter(policy)


def test_sample_tabletop_writes_what_calvin_reads(tmp_path: Path) -> None:
    command = ["sample", "tabletop", "--out", str(tmp_path), "--clips", "5",
               "--tasks", "turn_on_led"]  # fmt: skip
    assert main(command) == 0
    listed = list(calvin.ADAPTER.episodes(tmp_path, calvin.EpisodeOptions()))
    assert [one.split for one in listed] == ["train"] * 4 + ["val"]
    assert not any(one.reason for one in listed)
