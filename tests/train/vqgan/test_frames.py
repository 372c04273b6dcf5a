"""Which frames of which sources the VQGAN's trainer sees, and which it holds out."""

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from handloom.errors import UserError
from handloom.train.trainer.start import train
from handloom.train.vqgan.config import VQGANConfig
from handloom.train.vqgan.frames import Frames, held_out_frames
from tests.helpers.videos import write_grey_video
from tests.helpers.vqgan_training import tiny_config, write_pictures

PARTS = (lambda source: source.held_out, lambda source: source.train)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = write_pictures(tmp_path_factory.mktemp("frames") / "table")
    (made / "broken.mp4").write_bytes(b"not a video")
    return made


@pytest.fixture
def config(folder: Path, tmp_path: Path) -> VQGANConfig:
    return tiny_config(folder, tmp_path / "model")


def test_sources_are_drawn_by_their_weights(
    config: VQGANConfig, folder: Path, tmp_path: Path
) -> None:
    small = write_pictures(tmp_path / "few=small", 2, first=30)
    both = replace(config, frames=(f"{folder}=3", str(small)), max_pairs=8)
    frames = Frames(both)
    pool = frames.pool(0)
    drawn = Counter(s for step in range(500) for s in pool.draw(0, step, 4)[1])
    assert drawn[0] / 2000 == pytest.approx(0.75, abs=0.04)
    assert pool.names == ("table", "few=small")
    frame, again = (pool.draw(0, 3, 1)[0][0] for _ in range(2))
    assert np.array_equal(frame, again)
    held, trained = ({i.key for s in frames.sources for i in part(s)} for part in PARTS)
    assert held
    assert trained
    assert not held & trained


def test_pools_change_and_can_be_read_again(config: VQGANConfig) -> None:
    frames = Frames(replace(config, max_pairs=3, refresh=2))
    assert [frames.pool_number(step) for step in range(5)] == [0, 0, 1, 1, 2]
    bytes_of = [frames.pool(number).pairs[0].tobytes() for number in (0, 1, 2, 1)]
    assert bytes_of[1] == bytes_of[3]
    assert len(set(bytes_of)) > 1


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ((), "names no source"),
        (("nowhere",), "nowhere is not a folder: name the output"),
        (("{}=0",), "the weight '0' has to be a number above 0"),
        (("{}=-1",), "the weight '-1' has to be a number above 0"),
        (("{}=nan",), "the weight 'nan' has to be a number above 0"),
        (("{}=much",), "the weight 'much' has to be a number above 0"),
    ],
)
def test_sources_that_cannot_be_are_refused(
    config: VQGANConfig, frames: tuple[str, ...], message: str
) -> None:
    named = tuple(text.format(config.frames[0]) for text in frames)
    with pytest.raises(UserError, match=re.escape(message)):
        train(replace(config, frames=named))


def write_table(run: Path, stage: str, rows: list[dict[str, Any]], part: str = "0") -> None:
    folder = run / "tables" / stage
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / f"00-{'ab' * 6}-{part}.parquet")
    (folder / "_stage.json").write_text(json.dumps({"fingerprint": "ab" * 32}))


def clip(name: str, start_s: float, end_s: float, **more: Any) -> dict[str, Any]:
    row = {"clip_id": name, "video_id": f"v-{name}", "split": "train", "status": "ok"}
    span = {"start_s": start_s, "end_s": end_s, "media_path": "videos/a.mp4", "fps": 10.0}
    return {**row, **span, "text": "#C C lifts a cup", **more}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with a clip of each kind, all in one video; only `kept` is for training."""
    out = tmp_path / "run"
    brightness = [2 * number for number in range(120)]  # 20 times the second shown
    write_grey_video(tmp_path / "data/videos/a.mp4", brightness, fps=10, crf="1")
    clips = [
        clip("kept", 3.0, 5.0),
        clip("held", 9.0, 11.0, split="val"),
        clip("failed", 0.0, 2.0, status="failed"),
        clip("rejected", 0.0, 2.0),
    ]
    write_table(out, "ingest", clips)
    decided = [{"clip_id": name, "status": "ok"} for name in ("kept", "held")]
    write_table(out, "select", [*decided, {"clip_id": "rejected", "status": "rejected"}])
    stale = out / "tables/ingest" / f"00-{'cd' * 6}-0.parquet"
    pq.write_table(pa.Table.from_pylist([clip("stale", 0.0, 2.0)]), stale)
    (out / "run.yaml").write_text(f"dataset: ego4d\ndata: {tmp_path / 'data'}\n")
    return out


def test_of_a_run_only_kept_spans_are_read(config: VQGANConfig, run: Path) -> None:
    (run / "shards").mkdir()
    (run / "shards/manifest.json").write_text("{}")
    for named in (run, run / "shards"):
        frames = Frames(replace(config, frames=(str(named),), max_pairs=6))
        assert [[item.key for item in part(frames.sources[0])] for part in PARTS] == [
            ["held"],
            ["kept"],
        ]
        assert frames.sources[0].name == "run"
        trained, held_out = frames.pool(0).pairs[0], frames.held_out().pairs[0]
        seconds = trained.mean((2, 3, 4)) / 20
        assert 2.8 < seconds.min() < seconds.max() < 5.3
        assert np.allclose(seconds[:, 1] - seconds[:, 0], config.gap_s, atol=0.25)
        seconds = held_out.mean((2, 3, 4)) / 20
        assert 8.8 < seconds.min() < seconds.max() < 11.3


def test_what_is_measured_are_the_first_frames_of_what_is_validated(
    config: VQGANConfig, run: Path, folder: Path
) -> None:
    named = replace(config, frames=(str(run), str(folder)), eval_pairs=8)
    pairs = dict(zip(("run", "table"), Frames(named).held_out().pairs, strict=True))
    measured = held_out_frames(named, 4)
    assert {name: len(frames) for name, frames in measured.items()} == {"run": 4, "table": 1}
    for name, frames_thwc in measured.items():
        assert np.array_equal(frames_thwc, pairs[name][:, 0])


def test_official_splits_hold_whatever_else_is_held_out(
    config: VQGANConfig, run: Path, folder: Path
) -> None:
    frames = Frames(replace(config, frames=(str(run),), held_out=(str(folder),)))
    assert [item.key for item in frames.sources[0].train] == ["kept"]
    assert len(frames.validation[0].held_out) == 13
    frames = Frames(replace(config, frames=(str(folder),), held_out=(str(run),)))
    assert len(frames.sources[0].train) == 13  # of which a hash had kept back a tenth
    assert {item.key for item in frames.validation[0].held_out} == {"held", "kept"}


def test_sources_of_one_name_are_told_apart(config: VQGANConfig, run: Path) -> None:
    frames = Frames(replace(config, frames=(str(run), f"{run}=2")))
    assert [source.name for source in frames.sources] == ["run", "run-2"]
    assert frames.held_out().names == ("run", "run-2")


def test_shards_alone_hold_no_frames(config: VQGANConfig, tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards/manifest.json").write_text("{}")
    with pytest.raises(UserError, match=r"codes cannot be turned back.*name the output folder"):
        train(replace(config, frames=(str(tmp_path / "shards"),)))


def test_runs_whose_data_is_gone_are_refused(config: VQGANConfig, run: Path) -> None:
    (run / "run.yaml").write_text("dataset: ego4d\ndata: /nowhere/ego4d\n")
    with pytest.raises(UserError, match="its media lay in /nowhere/ego4d, which is not a folder"):
        train(replace(config, frames=(str(run),)))
    (run / "run.yaml").write_text("[]")
    with pytest.raises(UserError, match="does not say where the data lies"):
        train(replace(config, frames=(str(run),)))


def test_episodes_are_opened_by_whoever_knows_them(config: VQGANConfig, run: Path) -> None:
    rows = [clip(f"e{i}", 0.0, 2.0, place=[i], fps=5.0, state=[[0.0]]) for i in range(12)]
    write_table(run, "ingest", rows)
    write_table(run, "select", [{"clip_id": row["clip_id"], "status": "ok"} for row in rows])
    named = replace(config, frames=(str(run),), max_pairs=20, gap_s=0.6)
    with pytest.raises(UserError, match="a run of robot episodes"):
        train(named)

    def reopen(out: Path, row: dict[str, Any]) -> dict[str, np.ndarray]:
        assert out == run
        shade = np.arange(10, dtype=np.uint8)[:, None, None, None] + 10 * row["place"][0]
        return {view: np.broadcast_to(shade + add, (10, 8, 9, 3)) for view, add in CAMERAS}

    pairs = Frames(named, reopen).pool(0).pairs[0][:, :, 0, 0, 0].astype(int)
    assert set((pairs[:, 1] - pairs[:, 0]).tolist()) == {3}  # 0.6 s at 5 steps a second
    assert {shade >= 128 for shade in pairs[:, 0].tolist()} == {False, True}  # both cameras


CAMERAS = (("front", 0), ("wrist", 128))
