"""What the adapters read from the miniatures of robot datasets is what happened in the world."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from handloom.errors import MediaError
from handloom.stages.datasets.catalog import robot_adapter
from handloom.stages.datasets.source import Episode, EpisodeOptions
from handloom.stages.miniatures import bridge, calvin, hdf5, lerobot, rlds, rt1
from handloom.stages.miniatures.robots.views import static_view
from handloom.stages.miniatures.robots.world import WorldEpisode, make_episode, resample
from tests.helpers.miniatures import CLIPS, Written, writer


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return writer(tmp_path_factory)


def loaded(name: str, root: Path, **options: Any) -> dict[str, Episode]:
    """Episodes by unit, as an adapter reads them; those that it refuses are left out."""
    adapter, told = robot_adapter(name), EpisodeOptions(**options)
    found = {}
    for source in adapter.episodes(root, told):
        if not source.reason and not source.error:
            try:
                found[source.unit] = adapter.load(root, source, told)
            except MediaError:
                continue
    return found


def assert_follows(
    found: Episode,
    world: WorldEpisode,
    steps: NDArray[np.int64],
    near: float = 2e-6,
    gripper: NDArray[np.float64] | None = None,
) -> None:
    """State and action of each step are those of the world, orientations up to a fixed turn.

    `gripper` is the state's where it is not what the fingers measure.
    """
    poses, count = world.poses[steps], len(steps)
    assert found.action_kind == "ee_delta"
    assert found.state.shape == found.action.shape == (count, 7)
    assert all(len(view) == count for view in found.views.values())
    assert np.allclose(found.state[:, :3], poses[:, :3], atol=1e-6)
    opening = poses[:, 6] if gripper is None else gripper
    assert np.allclose(found.state[:, 6], opening, atol=2e-3)
    theirs = Rotation.from_euler("xyz", found.state[:, 3:6].astype(float))
    ours = Rotation.from_euler("xyz", poses[:, 3:6])
    relative = (theirs * theirs[0].inv()) * (ours * ours[0].inv()).inv()
    assert relative.magnitude().max() < 1e-5
    busy = np.arange(count) < count - 1 if found.idle is None else ~found.idle
    busy &= steps + 1 < len(world)
    assert busy.sum() > count / 2
    after = np.minimum(steps + 1, len(world) - 1)
    moved = world.poses[after, :3] - poses[:, :3]
    turned = (Rotation.from_euler("xyz", world.poses[after, 3:6]) * ours.inv()).as_rotvec()
    assert np.allclose(found.action[busy, :3], moved[busy], atol=near)
    assert np.allclose(found.action[busy, 3:6], turned[busy], atol=5 * near)
    assert (found.action[busy, 6] == world.targets[steps][busy]).all()


def test_rt1_is_read_as_it_happened(written: Written) -> None:
    found = list(loaded("rt1", written("rt1")).values())
    order = [0, 1, 2, 3, 4, 5, 0, 6]
    for read, index in zip(found, order, strict=True):
        world = resample(make_episode(0, index), rt1.HZ)
        steps = np.arange(len(world))
        steps = {rt1.TWICE_TERMINATED: np.insert(steps, 0, [0, 0]),
                 rt1.BASE_MOVES: np.insert(steps, 3, 3)}.get(index, steps)  # fmt: skip
        assert_follows(read, world, steps)
        assert (read.text, read.hz) == (world.instruction, rt1.HZ)
        judged = index % 4 != rt1.NO_VERDICT
        wanted = world.success and index != rt1.UNDESIRABLE
        assert read.success == (wanted if judged else None)
    assert found[0].episode_id == found[6].episode_id  # the duplicate
    assert len({read.episode_id for read in found}) == len(order) - 1


@pytest.mark.parametrize("relabel", [False, True])
@pytest.mark.parametrize("layout", ["bridge", "bridge_openx", "bridge_raw", "bridge_numpy"])
def test_bridge_is_read_as_it_happened(written: Written, layout: str, relabel: bool) -> None:
    found = loaded("bridge", written(layout), relabel=relabel)
    assert len(found) == CLIPS[layout]
    worlds = [resample(make_episode(0, index), bridge.HZ) for index in range(CLIPS[layout])]
    for read in found.values():
        # Texts are missing or untidy, so an episode is known by where its arm goes.
        (world,) = (
            w
            for w in worlds
            if len(read.state) <= len(w)
            and np.allclose(read.state[:, :3], w.poses[: len(read.state), :3], atol=1e-6)
        )
        assert read.text.strip() == bridge.instruction(world).strip()
        assert set(read.views) == expected_views(layout, world)
        near = 2e-6 if relabel else 1.5e-3
        assert_follows(read, world, np.arange(len(read.state)), near)
        assert len(world) - len(read.state) <= 2


def expected_views(layout: str, world: WorldEpisode) -> set[str]:
    by_layout = {
        "bridge": {0: {"image_0"}, 1: {"image_0", "image_1"}, 2: {"image_0", "image_3"}},
        "bridge_raw": {0: {"image_0"}, 1: {"image_0"}, 2: {"image_0", "image_1"}},
        "bridge_openx": {k: {"image"} for k in range(3)},
        "bridge_numpy": {k: {"image_0"} for k in range(3)},
    }
    return by_layout[layout][world.index % 3]


def test_rlds_is_read_as_stored(written: Written) -> None:
    found = loaded("rlds", written("rlds"), hz=rlds.HZ, action_kind="ee_delta")
    for index, read in enumerate(found.values()):
        world = resample(make_episode(0, index), rlds.HZ)
        assert read.text == world.instruction
        assert_follows(read, world, np.arange(len(world)))
    assert len(found) == CLIPS["rlds"]


@pytest.mark.long
@pytest.mark.parametrize("relabel", [False, True])
def test_calvin_is_read_as_it_happened(written: Written, relabel: bool) -> None:
    found = loaded("calvin", written("calvin"), relabel=relabel)
    parts = calvin.segments(CLIPS["calvin"], 0)
    worlds = {part.world.instruction: part.world for split in parts.values() for part in split}
    whole = 0
    for read in found.values():
        world = worlds[read.text.removeprefix("go and ")]
        places, count = world.poses[:, :3], len(read.state)
        starts = [
            at
            for at in range(len(world) - count + 1)
            if np.allclose(read.state[:, :3], places[at : at + count], atol=1e-6)
        ]
        assert starts in ([0], [calvin.SHORTER])
        whole += starts == [0]
        steps = starts[0] + np.arange(len(read.state))
        # Relative actions are clipped, to 20 mm; the poses that were reached are not.
        told = np.append(1.0, world.targets)[steps]  # before each step
        assert_follows(read, world, steps, 2e-6 if relabel else 4e-3, told)
    assert whole >= 2


@pytest.mark.long
def test_hdf5_is_read_as_it_happened(written: Written) -> None:
    found = loaded("hdf5", written("hdf5"), text="do something")
    for demo, take in (("demo_0", 0), ("demo_1", 1)):
        read = found[f"robomimic/lift/ph/image_v15.hdf5#{demo}"]
        world = hdf5.make_demos(0, 0, 2)[take]
        assert_follows(read, world, np.arange(len(world) - 1))
        assert read.success == world.success
    assert not any("demo_10" in unit or "demo_v15" in unit for unit in found)
    for index in hdf5.LIBERO_EPISODES:
        world = hdf5.make_demos(0, index, 1)[0]
        name = world.instruction.replace(" ", "_")
        read = found[f"libero_spatial/{name}_demo.hdf5#demo_0"]
        assert read.text == world.instruction
        assert_follows(read, world, np.arange(hdf5.DROPPED_STEPS + 1, len(world)))
        upright = next(static_view(replace(world, poses=world.poses[6:], places=world.places[6:]),
                                   hdf5.LIBERO_SIZE))  # fmt: skip
        assert (read.views["agentview_rgb"][0] == upright).all()


@pytest.mark.long
@pytest.mark.parametrize("number", [0, 1])
def test_aloha_is_read_as_stored(written: Written, number: int) -> None:
    found = loaded("hdf5", written("hdf5"), text="do something")
    read = found[f"sim_transfer/episode_{number}.hdf5#0"]
    world = resample(make_episode(0, hdf5.ALOHA_EPISODES + number), hdf5.ALOHA_HZ)
    assert (read.action_kind, read.hz) == ("joints", 50)
    assert np.allclose(read.state, hdf5.arms(world), atol=1e-6)
    assert np.allclose(read.action[:-1, :13], read.state[1:, :13], atol=1e-6)
    assert (read.action[:, 13] == world.targets).all()
    drawn = next(static_view(world, hdf5.ALOHA_SIZE)).astype(float)
    assert np.abs(read.views["top"][0] - drawn).mean() < 5


@pytest.mark.long
def test_lerobot_is_read_as_stored(written: Written) -> None:
    old = loaded("lerobot", written("lerobot") / "v2.1", action_kind="ee_delta")
    (read,) = old.values()  # the others lack a video, or their line
    world = resample(make_episode(0, 0), lerobot.V21_HZ)
    assert read.text == world.instruction
    assert_follows(read, world, np.arange(len(world) - 1))
    new = list(loaded("lerobot", written("lerobot") / "v3.0").values())
    worlds = [resample(make_episode(0, 40 + index), lerobot.V30_HZ) for index in (0, 1, 1, 2, 3)]
    texts = [world.instruction for world in worlds]
    texts[2] = lerobot.LATER_TASK
    assert [read.text for read in new] == texts
    for at, (read, world) in enumerate(zip(new, worlds, strict=True)):
        first = len(new[1].state) if at == 2 else 0
        angles = lerobot.degrees(world)[first : first + len(read.state)]
        assert np.allclose(read.state, angles, atol=1e-4)
        moment = replace(world, poses=world.poses[first:], places=world.places[first:])
        drawn = next(static_view(moment, lerobot.SIZE)).astype(float)
        assert np.abs(read.views[lerobot.CAMERAS[0]][0] - drawn).mean() < 8
