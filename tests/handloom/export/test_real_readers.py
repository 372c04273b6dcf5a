"""Exports as the packages read them that they are made for, in environments of their own.

    HANDLOOM_LEROBOT_PYTHON   a Python with `lerobot[dataset]` (0.6.1 wants Python 3.12)
    HANDLOOM_TFDS_PYTHON      a Python with tensorflow_datasets and TensorFlow

Without these the tests are skipped; docs/export.md says how the environments are made.
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from handloom.export.options import LeRobotExport, RldsExport
from handloom.export.run import lerobot, rlds
from tests.helpers.exported_runs import curated_episodes
from tests.helpers.lerobot_files import CAMERAS, TASKS, level, write_v3

pytestmark = pytest.mark.slow
LENGTHS = (9, 11, 8, 10)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("robots")
    data = write_v3(folder / "data", [[i % 2] * n for i, n in enumerate(LENGTHS)])
    return curated_episodes(folder / "run", data, licence="mit")


def read(variable: str, program: str, folder: Path) -> list[dict[str, Any]]:
    """The lines of JSON that a program prints, run by the Python that a variable names."""
    python = os.environ.get(variable)
    if not python:
        pytest.skip(f"{variable} names no Python")
    command = [python, str(Path(__file__).with_name(program)), str(folder)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def test_lerobot_reads_every_step(run: Path, tmp_path: Path) -> None:
    lerobot(LeRobotExport(run, tmp_path / "out"))
    told, *steps = read("HANDLOOM_LEROBOT_PYTHON", "lerobot_reader.py", tmp_path / "out")
    assert (told["episodes"], told["frames"], told["fps"]) == (len(LENGTHS), sum(LENGTHS), 10)
    assert sorted(told["cameras"]) == sorted(CAMERAS)
    assert told["stats"]["action"]["count"] == [sum(LENGTHS)]
    assert np.shape(told["stats"][CAMERAS[0]]["mean"]) == (3, 1, 1)
    seen = dict.fromkeys(range(len(LENGTHS)), 0)
    for number, step in enumerate(steps):
        frame, episode = (int(value) for value in step["observation.state"])
        assert (step["index"], frame) == (number, seen[episode])
        assert step["action"] == [2 * frame, 2 * episode]
        assert step["task"] == TASKS[episode % 2]
        for camera, name in enumerate(CAMERAS):
            assert abs(step["greys"][name] - level(camera, frame, episode)) < 3
        assert step["is_last"] == (frame == LENGTHS[episode] - 1)
        assert step["next"] == [2 * min(frame + 1, LENGTHS[episode] - 1), 2 * episode]
        seen[episode] += 1
    assert tuple(seen.values()) == LENGTHS


def test_tensorflow_datasets_reads_every_step(run: Path, tmp_path: Path) -> None:
    rlds(RldsExport(run, tmp_path / "out"))
    episodes = read("HANDLOOM_TFDS_PYTHON", "tfds_reader.py", tmp_path / "out/run/1.0.0")
    assert len(episodes) == len(LENGTHS) == sum({e["split"]: e["count"] for e in episodes}.values())
    for episode in episodes:
        state = np.array(episode["state"])
        number = int(state[0, 1])
        np.testing.assert_array_equal(state[:, 0], np.arange(LENGTHS[number]))
        np.testing.assert_array_equal(np.array(episode["action"]), 2 * state)
        assert (episode["text"], episode["licence"]) == (TASKS[number % 2], "mit")
        assert episode["is_last"] == [False] * (len(state) - 1) + [True]
        for camera, name in enumerate(CAMERAS):
            found = episode["greys"][name.replace(".", "_")]
            expected = [level(camera, i, number) for i in range(len(state))]
            np.testing.assert_allclose(found, expected, atol=3)
