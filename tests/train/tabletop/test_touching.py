import numpy as np
import pytest

from handloom.errors import UserError
from handloom.train.evaluate.rollout import run
from handloom.train.evaluate.rollout_config import RolloutEval
from handloom.train.tabletop import chains, protocol, tasks, touching
from handloom.train.tabletop.controls import Blind, Deaf
from handloom.train.tabletop.env import TabletopEnv
from handloom.train.tabletop.oracle import Oracle
from handloom.train.tabletop.record import DemonstrationKey, make_demonstration
from handloom.train.tabletop.world import TableWorld

TOUCHES = tuple(tasks.TOUCHES)
SIX = ("open_drawer", "close_drawer", "move_slider_left", "move_slider_right",
       "turn_on_lightbulb", "turn_off_lightbulb")  # fmt: skip


def success(model, names, count=120):
    setup = protocol.tabletop(render=False, scene=tasks.scene_of(names[0]))
    result = protocol.evaluate(setup, model, chains.single_tasks(count, 0, names), 150)
    return result.average_length


def test_the_touch_needs_eyes_and_ears_and_the_six_tasks_of_the_sample_need_no_eyes():
    assert success(Oracle(), TOUCHES) == 1.0
    assert success(Blind(), TOUCHES) < 0.1
    assert 0.2 < success(Deaf(TOUCHES), TOUCHES) < 0.45
    assert success(Blind(), SIX, 60) == 1.0


def test_the_block_that_is_touched_first_decides():
    env = TabletopEnv(render=False, scene="touch")
    robot, scene = touching.start(np.random.default_rng(0))
    world = TableWorld.from_obs(robot, scene)
    for block in (1, 0):
        robot[:3] = [*world.blocks[block, :2], touching.TOP_Z + 0.5 * touching.ABOVE_M]
        if block == 1:
            env.reset(robot, scene)
        else:
            env.world = TableWorld.from_obs(robot, scene)
            env.step(np.array([0, 0, 0, 0, 0, 0, -1.0]))
    start, end = env.get_info(), env.get_info()
    assert tasks.is_done("touch_blue_block", start, end)
    assert not tasks.is_done("touch_red_block", start, end)


def test_blocks_and_fixtures_of_starts_are_anywhere():
    scenes = np.array([touching.start(np.random.default_rng(i))[1] for i in range(300)])
    blocks = scenes[:, 6:].reshape(-1, 3, 6)[..., :2]
    for part, low, high in ((blocks[..., 0], -0.17, 0.17), (blocks[..., 1], -0.18, 0.03)):
        counts = np.histogram(part, 4, (low, high))[0]
        assert counts.sum() == part.size
        assert counts.min() > 0.15 * part.size
    assert len(np.unique(scenes[:, 0].round(3))) > 150  # the slider
    gaps = np.linalg.norm(blocks[:, [0, 0, 1]] - blocks[:, [1, 2, 2]], axis=-1)
    assert gaps.min() > touching.APART_M


def test_a_demonstration_shows_the_block_in_the_near_camera():
    demo = make_demonstration(DemonstrationKey("training", "touch_red_block", 0))
    assert demo.text in tasks.TRAINING["touch_red_block"]
    first = demo.frames["rgb_static"][0].astype(int)
    red = (first[..., 0] > 150) & (first[..., 1] < 90) & (first[..., 2] < 90)
    assert red.sum() > 150  # of 200 x 200; 5 cm are about 20 pixels


def test_tasks_of_different_tables_are_refused(tmp_path):
    names = ("open_drawer", "touch_red_block")
    with pytest.raises(UserError, match=r"need 2 different tables \(play, touch\)"):
        run(RolloutEval(actor="oracle", single=True, tasks=names, videos=0, out=tmp_path))
