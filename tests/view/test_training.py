"""The page of a training says what its log and its results say, and serves nothing else."""

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from PIL import Image

from handloom.train.report.verdicts import verdicts
from handloom.view.app import open_folder
from handloom.view.training import MOST_POINTS, Training, read_log
from tests.helpers.view_site import Site, site

LINES = [
    {"step": 1, "loss": 3.0, "gradient_norm": 1.0},
    {"step": 2, "loss": None, "skipped": ["a clip"]},
    {"step": 2, "train": {"loss": 2.5, "datasets": {"ego4d": 2.75}}},
    {"step": 2, "val": {"all": {"clips": 6, "loss": 2.0}}},
]


def pretrained(model: float, copy: float) -> dict[str, object]:
    """A summary of stage 1 with shares of right codes."""
    later = {"model": {"accuracy": model}, "copy last frame": {"accuracy": copy}}
    return {"step": 2, "val": {"frames 1 and later": later}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("training") / "whole"
    for run in ("stage1", "stage2"):
        (out / run).mkdir(parents=True)
        text = "".join(json.dumps(line) + "\n" for line in LINES)
        (out / run / "metrics.jsonl").write_text(text + '{"step": 3, "lo')  # cut off
    (out / "stage1/summary.json").write_text(json.dumps(pretrained(0.740, 0.783)))
    Image.new("RGB", (8, 6)).save(out / "stage1/predictions.png")
    (out / "stage1/checkpoints").mkdir()
    Image.new("RGB", (8, 6)).save(out / "stage1/checkpoints/not-shown.png")
    (out / "rollouts/policy").mkdir(parents=True)
    (out / "rollouts/policy/chain-000.mp4").write_bytes(b"a film")
    tasks = {"open": {"done": 3, "tried": 4}, "close": {"done": 0, "tried": 4}}
    (out / "rollouts/policy/rollout.json").write_text(json.dumps({"tasks": tasks}))
    Image.new("RGB", (8, 6)).save(out.parent / "secret.png")
    (out / "linked.png").symlink_to(out.parent / "secret.png")
    return out


@pytest.fixture(scope="module")
def page(folder: Path) -> Iterator[Site]:
    with site(folder) as served:
        yield served


def test_it_names_what_lies_there(page: Site) -> None:
    found = page.get("/api/training").json
    assert [(run["name"], run["finished"]) for run in found["runs"]] == [
        ("stage1", True), ("stage2", False),
    ]  # fmt: skip
    assert found["pictures"] == ["stage1/predictions.png"]
    assert found["films"] == ["rollouts/policy/chain-000.mp4"]
    assert found["rollouts"] == [{"name": "rollouts/policy", "done": 3, "tried": 8}]


def test_curves_are_the_numbers_of_the_log(page: Site) -> None:
    found = {one["name"]: one for one in page.get("/api/training/curves?run=stage2").json["curves"]}
    shown = {name: (one["steps"], one["values"]) for name, one in found.items()}
    assert shown == {
        "loss": ([1], [3.0]), "gradient_norm": ([1], [1.0]), "train.loss": ([2], [2.5]),
        "train.datasets.ego4d": ([2], [2.75]), "val.all.clips": ([2], [6]),
        "val.all.loss": ([2], [2.0]),
    }  # fmt: skip
    assert page.get("/api/training/curves?run=../secret").status == 404


def test_a_long_log_is_thinned_to_means(tmp_path: Path) -> None:
    log, steps = tmp_path / "metrics.jsonl", 4 * MOST_POINTS
    lines = (json.dumps({"step": step, "loss": step % 4}) for step in range(steps))
    log.write_text("\n".join(lines))
    ((found,), skipped) = read_log(log)
    assert skipped == 0
    assert len(found["steps"]) == MOST_POINTS
    assert set(found["values"]) == {1.5}
    assert found["steps"][-1] == steps - 1


def test_lines_that_cannot_be_used_are_left_out_and_counted(tmp_path: Path) -> None:
    bad = [
        b'{"step": Infinity, "loss": 1}', b'{"step": NaN, "loss": 1}', b"\xff\xfe{}",
        b'{"step": 1' + b"0" * 400 + b', "loss": 1}', b'{"step": 1e300, "loss": 1}',
        b'{"step": 2, "loss": 1' + b"0" * 400 + b"}", b"[" * 100_000, b"[1]", b'{"loss": 1}',
    ]  # fmt: skip
    good = b'{"step": 1, "loss": 3.0, "huge": 1.7e308, "odd": NaN}'
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join([*bad, good, b"", b'{"step": 2, "lo']))
    with site(tmp_path) as served:
        answer = served.get("/api/training/curves?run=")
    assert answer.status == 200
    assert answer.json["skipped"] == len(bad)
    assert {one["name"]: one["values"] for one in answer.json["curves"]} == {
        "loss": [3.0], "huge": [1.7e308],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("mine", "copy", "words", "better"),
    [
        (0.740, 0.783, "worse than copying the last frame", False),
        (0.80, 0.783, "better than copying the last frame", True),
        (0.43229165, 0.43229166, "as good as copying the last frame", False),
    ],
)
def test_worse_than_copying_is_said(mine: float, copy: float, words: str, better: bool) -> None:
    (said,) = verdicts(pretrained(mine, copy))
    assert said.sentence.startswith(words)
    assert f"{mine:.1%} against {copy:.1%}" in said.sentence
    assert said.better is better


def test_an_arm_is_compared_with_the_mean_action() -> None:
    val = {"prior_mean": {"arm_l1": 0.651}, "mean_action": {"arm_l1": 0.647}}
    (said,) = verdicts({"val": val})
    assert said.sentence.startswith("worse than always the mean action")
    assert list(verdicts({})) == []


def test_pictures_and_films_are_served_by_ranges(page: Site, folder: Path) -> None:
    answer = page.get("/api/training/file?path=stage1/predictions.png")
    assert answer.body == (folder / "stage1/predictions.png").read_bytes()
    film = page.get("/api/training/file?path=rollouts/policy/chain-000.mp4", Range="bytes=2-5")
    assert (film.status, film.body) == (206, b"film")


@pytest.mark.parametrize(
    "path",
    ["../secret.png", "linked.png", "stage1/../../secret.png", "/etc/passwd", "stage1/summary.json",
     "stage1/metrics.jsonl", "", "gone.png", "a\0.png", "x" * 5000 + ".png"],
)  # fmt: skip
def test_nothing_else_is_served(page: Site, folder: Path, path: str) -> None:
    for name in (path, str(folder.parent / "secret.png")):
        answer = page.get(f"/api/training/file?path={quote(name)}")
        assert answer.status == 404
        assert "error" in answer.json


def test_a_folder_of_trainings_and_one_alone_are_shown(folder: Path) -> None:
    assert isinstance(open_folder(folder), Training)
    assert isinstance(open_folder(folder / "stage1"), Training)


def test_a_training_that_is_deleted_meanwhile_is_told(tmp_path: Path) -> None:
    log = tmp_path / "out/metrics.jsonl"
    log.parent.mkdir()
    log.write_text("")
    with site(log.parent) as served:
        assert served.get("/api/training/curves?run=").json == {"curves": [], "skipped": 0}
        log.unlink()
        log.parent.rmdir()
        answer = served.get("/api/training")
        assert answer.status == 400
        assert "not there any more" in answer.json["error"]
