"""The tabletop: what is restored, what an action does, that tasks can be done, what is recorded."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from handloom.errors import UserError
from handloom.stages.datasets.calvin import adapter as calvin
from handloom.stages.datasets.source import EpisodeOptions
from handloom.train.tabletop import record, tasks, world
from handloom.train.tabletop.env import TabletopEnv
from handloom.train.tabletop.oracle import Oracle, RandomPolicy
from handloom.train.tabletop.protocol import Setup, try_task

Floats = NDArray[np.float64]
STILL = np.append(np.zeros(6), 1.0)


def told(move: tuple[float, float, float] = (0, 0, 0), gripper: float = 1.0) -> Floats:
    """A relative action that moves by so many metres."""
    return np.array([*(np.array(move) / world.STEP_M), 0, 0, 0, gripper])


def ready(task: str, seed: int, render: bool = False) -> TabletopEnv:
    """An environment in which a task can begin."""
    scene: Any = "go_round" if task == tasks.GO_ROUND else "play"
    env = TabletopEnv(render=render, scene=scene)
    robot, things = record.start(task, np.random.default_rng(seed))
    env.reset(robot, things)
    return env


def setting(env: TabletopEnv) -> Setup:
    return Setup(env, tasks.TaskOracle(), tasks.VALIDATION, lambda chain: (STILL, STILL))


@pytest.mark.parametrize("task", [*tasks.TASKS, tasks.GO_ROUND])
def test_the_oracle_does_every_task_and_random_moves_do_not(task: str) -> None:
    took = [try_task(setting(ready(task, seed)), Oracle(seed), task) for seed in range(10)]
    assert all(steps is not None and steps < 120 for steps in took), took
    by_chance = [try_task(setting(ready(task, s)), RandomPolicy(s), task, 120) for s in range(10)]
    assert sum(steps is not None for steps in by_chance) <= 2


def test_a_task_that_was_not_asked_for_is_not_done() -> None:
    for task in tasks.TASKS:
        env = ready(task, 1)
        before = env.get_info()
        obs, oracle = env.get_obs(), Oracle()
        while not oracle.finished:
            obs, _, _, after = env.step(oracle.step(obs, tasks.VALIDATION[task]))
        assert tasks.TaskOracle().get_task_info_for_set(before, after, tasks.VALIDATION) == {task}
        assert tasks.TaskOracle().get_task_info_for_set(after, after, tasks.VALIDATION) == set()


@pytest.mark.parametrize("task", ["push_red_block_left", "place_in_drawer", "turn_off_led"])
def test_two_vectors_restore_everything_at_any_step(task: str) -> None:
    env, oracle, actions = ready(task, 2), Oracle(2), []
    seen = [env.get_obs()]
    while not oracle.finished:
        actions.append(oracle.step(seen[-1], task))
        seen.append(env.step(actions[-1])[0])
    for at in range(0, len(actions), 7):
        other = TabletopEnv(render=False, seed=99)
        other.reset(seen[at]["robot_obs"], seen[at]["scene_obs"])
        for action, obs in zip(actions[at:], seen[at + 1 :], strict=True):
            again = other.step(action)[0]
            np.testing.assert_array_equal(again["robot_obs"], obs["robot_obs"])
            np.testing.assert_array_equal(again["scene_obs"], obs["scene_obs"])


def test_starts_follow_from_the_seed_and_differ() -> None:
    one, same, other = TabletopEnv(False, seed=5), TabletopEnv(False, seed=5), TabletopEnv(False)
    first = one.reset()["scene_obs"]
    np.testing.assert_array_equal(first, same.reset()["scene_obs"])
    assert not np.array_equal(first, one.reset()["scene_obs"])
    assert not np.array_equal(first, other.reset()["scene_obs"])


def test_an_action_moves_the_gripper_by_its_units() -> None:
    env = TabletopEnv(render=False)
    before = env.reset()["robot_obs"]
    after = env.step(np.array([1, -0.5, 0.25, 0, 0, 1, -1]))[0]["robot_obs"]
    np.testing.assert_allclose(after[:3] - before[:3], [0.02, -0.01, 0.005], atol=1e-12)
    np.testing.assert_allclose(after[5] - before[5], 0.05)
    assert (after[14], after[6] < before[6]) == (-1, True)
    clipped = env.step(np.array([9.0, 0, 0, 0, 0, 0, -1]))[0]["robot_obs"]
    np.testing.assert_allclose(clipped[0] - after[0], 0.02)


def test_absolute_and_relative_actions_lead_to_the_same_place() -> None:
    one, other, third = (TabletopEnv(render=False) for _ in range(3))
    start = one.reset()
    for env in (other, third):
        env.reset(start["robot_obs"], start["scene_obs"])
    goal = one.step(np.array([0.5, 0.5, -0.5, 0.1, 0.2, 0.3, -1]))[0]["robot_obs"]
    there = other.step((goal[:3], goal[3:6], np.array([-1])))[0]["robot_obs"]
    named = {"type": "cartesian_abs", "action": np.append(goal[:6], -1)}
    np.testing.assert_allclose(there, goal, atol=1e-12)
    np.testing.assert_allclose(third.step(named)[0]["robot_obs"], goal, atol=1e-12)


@pytest.mark.parametrize(
    ("action", "said"),
    [
        (np.full(7, np.nan), "expected 7 finite numbers"),
        (np.zeros(8), "expected 7 finite numbers"),
        (np.zeros(7), "gripper is 0, expected -1 close or 1 open"),
    ],
)
def test_what_is_no_action_is_an_error(action: Floats, said: str) -> None:
    env = TabletopEnv(render=False)
    with pytest.raises(UserError, match=said):
        env.step(action)
    with pytest.raises(UserError, match=r"scene_obs.*expected 24"):
        env.reset(scene_obs=np.zeros(23))


def test_a_block_is_carried_and_dropped() -> None:
    env = TabletopEnv(render=False, seed=1)
    env.reset()
    env.world.drawer = 0.0
    env.world.tip[:3] = env.world.blocks[0, :3]
    for _ in range(4):
        env.step(told(gripper=-1))
    assert env.get_info()["scene_info"]["blocks"]["red"]["held"]
    before = env.world.blocks.copy()
    for _ in range(5):
        env.step(told((0, 0, 0.02), -1))
    np.testing.assert_allclose(env.world.blocks[0, :3] - before[0, :3], [0, 0, 0.1], atol=1e-9)
    np.testing.assert_array_equal(env.world.blocks[1:], before[1:])
    env.step(STILL)
    assert env.world.blocks[0, 2] == pytest.approx(world.REST_Z)


def test_pushed_blocks_move_and_stay_on_the_table() -> None:
    rng, travelled = np.random.default_rng(0), 0.0
    for seed in range(5):
        env = TabletopEnv(render=False, seed=seed)
        env.reset()
        env.world.tip[:3], env.world.width = [0.0, -0.19, 0.46], 0.0
        before = env.world.blocks.copy()
        for x, y in rng.uniform(-0.012, 0.02, (200, 2)):
            env.step(told((x, y, 0.0), -1))
            places = env.world.blocks[:, :2]
            assert (places >= world.ON_TABLE_LOW - 1e-9).all()
            assert (places <= world.ON_TABLE_HIGH + 1e-9).all()
        travelled += float(np.abs(env.world.blocks - before).sum())
    assert travelled > 0.1


def test_the_button_toggles_once_for_each_press() -> None:
    env = TabletopEnv(render=False)
    env.reset()
    env.world.tip[:2], env.world.tip[2], env.world.led = world.BUTTON, 0.49, 0.0
    seen = []
    for way in [-0.02] * 2 + [0.0] * 3 + [0.02] * 2 + [-0.02] * 2:
        env.step(told((0, 0, way)))
        seen.append(env.world.led)
    assert seen == [0, 1, 1, 1, 1, 1, 1, 1, 0]


def test_straight_ahead_is_a_collision_and_both_ways_round_are_taken() -> None:
    sides = []
    for seed in range(20):
        env, oracle = ready(tasks.GO_ROUND, seed), Oracle(seed)
        obs, aside = env.get_obs(), 0.0
        while not oracle.finished:
            obs, _, _, info = env.step(oracle.step(obs, tasks.GO_ROUND))
            aside = max(aside, float(obs["robot_obs"][0]), key=abs)
        assert (info["scene_info"]["at_goal"], info["scene_info"]["collided"]) == (True, False)
        sides.append(aside > 0)
    assert 5 <= sum(sides) <= 15
    env = ready(tasks.GO_ROUND, 0)
    for _ in range(30):
        _, _, _, info = env.step(told((0, 0.01, 0)))
    assert info["scene_info"]["collided"], "it stays so after the pillar is passed"


def test_pictures_show_what_changes() -> None:
    env = ready("turn_on_lightbulb", 4, render=True)
    first = env.get_obs()["rgb_obs"]
    assert first["rgb_static"].shape == (200, 200, 3)
    assert first["rgb_gripper"].shape == (84, 84, 3)
    assert first["rgb_static"].dtype == first["rgb_gripper"].dtype == np.uint8
    np.testing.assert_array_equal(first["rgb_static"], env.images()["rgb_static"])

    def changed(name: str, value: float) -> int:
        other = TabletopEnv()
        obs = env.get_obs()
        other.reset(obs["robot_obs"], obs["scene_obs"])
        setattr(other.world, name, value)
        apart = other.images()["rgb_static"].astype(int) - first["rgb_static"]
        return int((np.abs(apart).max(axis=2) > 30).sum())

    assert changed("lightbulb", 1.0) > 40
    assert changed("led", 1.0 - env.world.led) > 40
    assert changed("drawer", 0.22 - env.world.drawer) > 400
    assert changed("slider", 0.28 - env.world.slider) > 400
    blocks = env.world.blocks.copy()
    blocks[0, 0] += 0.05
    assert changed("blocks", blocks) > 20  # type: ignore[arg-type]


def test_instructions_name_their_task() -> None:
    every = {*tasks.TASKS, tasks.GO_ROUND, *tasks.TOUCHES}
    assert set(tasks.TRAINING) == set(tasks.VALIDATION) == every
    for task, texts in tasks.TRAINING.items():
        assert all(tasks.task_of(text) == task for text in (*texts, tasks.VALIDATION[task], task))
        # What touches ask is whether a policy sees: their words are known.
        assert (tasks.VALIDATION[task] in texts) == (task in tasks.TOUCHES)
    with pytest.raises(UserError, match="make tea"):
        tasks.task_of("make tea")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("recorded") / "raw"
    record.record(out, 1, ["open_drawer", "lift_pink_block_table"], validation_per_task=1)
    return out


def test_calvins_adapter_reads_what_is_recorded(recorded: Path) -> None:
    found = list(calvin.episodes(recorded, EpisodeOptions()))
    assert [(source.split, source.reason) for source in found] == [("train", "")] * 2 + [
        ("val", "")
    ] * 2
    for source in found:
        episode = calvin.load(recorded, source, EpisodeOptions())
        assert episode.flags == (), "no action is clipped, and each is the pose of the next frame"
        assert tasks.task_of(episode.text) == episode.facts["task"]
        spoken = tasks.VALIDATION[episode.facts["task"]] == episode.text
        assert spoken == (source.split == "val")
        assert set(episode.views) == {"static", "gripper"}
        assert 30 <= len(episode.state) <= 150


def test_what_is_recorded_replays_to_success(recorded: Path) -> None:
    folder = recorded / record.HOME / "training"
    spoken = np.load(folder / "lang_annotations/auto_lang_ann.npy", allow_pickle=True).item()
    for (first, last), task in zip(spoken["info"]["indx"], spoken["language"]["task"], strict=True):
        frames = [np.load(folder / f"episode_{i:07d}.npz") for i in range(first, last + 1)]
        env = TabletopEnv(render=False)
        env.reset(frames[0]["robot_obs"], frames[0]["scene_obs"])
        before = env.get_info()
        for frame in frames:
            np.testing.assert_allclose(env.get_obs()["robot_obs"], frame["robot_obs"], atol=1e-9)
            *_, after = env.step(frame["rel_actions"])
        assert tasks.is_done(task, before, after)


def hashes(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_recording_again_gives_the_same_bytes_and_leaves_what_is_complete(
    recorded: Path, tmp_path: Path
) -> None:
    names = ["lift_pink_block_table"]
    record.record(tmp_path, 1, names, validation_per_task=0)
    first, times = hashes(tmp_path), {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    record.record(tmp_path, 1, names, validation_per_task=0)
    assert times == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    (tmp_path / record.MARKER).unlink()  # as if it had been killed
    (tmp_path / record.HOME / "training/episode_0000003.npz").unlink()
    record.record(tmp_path, 1, names, validation_per_task=0)
    assert hashes(tmp_path) == first
    alone = [value for key, value in first.items() if key.endswith("npz")]
    among = [value for key, value in hashes(recorded / record.HOME / "training").items()
             if key.endswith("npz")]  # fmt: skip
    assert among[-len(alone) :] == alone, "an episode does not depend on what else is recorded"


def test_a_folder_of_another_kind_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / record.HOME).mkdir()
    with pytest.raises(UserError, match="was not written by this command"):
        record.write(tmp_path, clips=1)
    (tmp_path / record.OWNER).write_text("handloom miniature of CALVIN\n")
    with pytest.raises(UserError, match="holds another miniature"):
        record.write(tmp_path, clips=1)
    with pytest.raises(UserError, match="no task 'make_tea'"):
        record.record(tmp_path / "new", 1, ["make_tea"])


def test_write_takes_the_tasks_in_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "TASKS", ("turn_on_led", "close_drawer"))
    record.write(tmp_path, clips=5)
    found = list(calvin.episodes(tmp_path, EpisodeOptions()))
    assert [source.split for source in found] == ["train"] * 4 + ["val"]


def test_policies_need_no_pictures() -> None:
    obs: Mapping[str, Any] = TabletopEnv(render=False).reset()
    assert obs["rgb_obs"] == {}
    assert RandomPolicy().step(obs, "").shape == Oracle().step(obs, "open_drawer").shape == (7,)
