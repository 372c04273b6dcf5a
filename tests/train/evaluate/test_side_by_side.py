from pathlib import Path

import numpy as np
import pytest

from handloom.errors import UserError
from handloom.train.evaluate import side_by_side
from handloom.train.evaluate.rollout import CalvinAdapter, run
from handloom.train.evaluate.rollout_config import RolloutEval
from handloom.train.policy.policy import Policy
from handloom.train.tabletop import chains, protocol, tasks
from handloom.train.tabletop.spread import SpreadOut
from tests.train.evaluate.test_rollout import write_policy

STEPS = 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_policy(tmp_path_factory.mktemp("policy") / "export", views=("static",))


def test_attempts_side_by_side_go_where_attempts_alone_go(folder: Path) -> None:
    tried = chains.single_tasks(5, 1, ("touch_red_block", "touch_pink_block"))
    words = {task: texts[0] for task, texts in tasks.TRAINING.items()}
    together = side_by_side.evaluate(
        lambda: Policy.from_checkpoint(folder), tried, words, STEPS, at_once=3
    )
    setup = protocol.tabletop(True, words, "touch")
    ends: dict[int, np.ndarray] = {}

    def note(step: protocol.RolloutStep) -> None:
        ends[step.chain] = step.obs["robot_obs"]

    alone = SpreadOut(CalvinAdapter(Policy.from_checkpoint(folder)))
    protocol.evaluate(setup, alone, tried, STEPS, note)
    starts = [setup.start(chain)[0] for chain in tried]
    for number, attempt in enumerate(together):
        end = attempt.env.world.robot_obs()
        assert attempt.task == tried[number].tasks[0]
        np.testing.assert_allclose(end, ends[number], atol=1e-4)
        assert np.abs(end[:3] - starts[number][:3]).max() > 1e-3  # it moved


def test_one_command_scores_them(folder: Path, tmp_path: Path) -> None:
    found = run(
        RolloutEval(checkpoint=folder, single=True, tasks=tuple(tasks.TOUCHES), chains=6,
                    steps_per_task=STEPS, at_once=4, videos=0, out=tmp_path)
    )  # fmt: skip
    assert sum(row["tried"] for row in found["tasks"].values()) == 6
    assert found["touched_another"] + sum(found["lengths"]) <= 6
    assert (tmp_path / "rollout.json").is_file()


def test_what_cannot_be_filmed_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="--videos 0"):
        RolloutEval(checkpoint=folder, single=True, at_once=4)
