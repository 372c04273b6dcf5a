"""Which frames of which sources the VQGAN's trainer sees, and which it holds out."""

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from handloom.errors import UserError
from handloom.stages.ingest.episodes import EpisodeIngest
from handloom.stages.miniatures import lerobot
from handloom.stages.stage import run_isolated
from handloom.stages.tables.parts import Table
from handloom.stages.tables.rows import Clip, Row
from handloom.tokenize.frames import center_square
from handloom.train.trainer.start import train
from handloom.train.vqgan.config import VQGANConfig
from handloom.train.vqgan.frames import Frames, held_out_frames
from handloom.train.vqgan.sources import EpisodeItem
from tests.helpers.recorded_runs import clip_row, write_run, write_table
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


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with a clip of each kind, all in one video; only `kept` is for training."""
    brightness = [2 * number for number in range(120)]  # 20 times the second shown
    write_grey_video(tmp_path / "data/videos/a.mp4", brightness, fps=10, crf="1")
    clips = [
        clip_row("kept", 3.0, 5.0),
        clip_row("held", 9.0, 11.0, split="val"),
        clip_row("failed", 0.0, 2.0, status="failed"),
        clip_row("rejected", 0.0, 2.0),
        clip_row("unseen", 0.0, 2.0),
    ]
    decided = [Row(clip_id=name) for name in ("kept", "held")]
    decided.append(Row(clip_id="rejected", status="rejected", reason="no_hands"))
    out = write_run(tmp_path / "run", tmp_path / "data", {"ingest": clips, "select": decided})
    stale = Table(out / "tables/ingest", "cd" * 32)
    stale.write("00", "0", [clip_row("stale", 0.0, 2.0)], Clip)
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


def test_later_filters_count_and_captions_do_not(config: VQGANConfig, run: Path) -> None:
    write_table(run, "caption", [Row(clip_id="kept", status="rejected", reason="no_caption")])
    named = replace(config, frames=(str(run),))
    assert [item.key for item in Frames(named).sources[0].train] == ["kept"]
    write_table(run, "faces", [Row(clip_id="held"), Row(clip_id="kept", status="rejected")])
    with pytest.raises(UserError, match="too few videos"):
        Frames(named)


def test_episodes_are_opened_from_what_the_run_recorded(
    config: VQGANConfig, tmp_path: Path
) -> None:
    data = tmp_path / "lerobot"
    lerobot.write(data, clips=4)
    options = {"format": "lerobot", "dataset": "mine", "val_percent": 30.0}
    stage = EpisodeIngest(**options).at(data)
    rows = [row for source in stage.sources() for row in run_isolated(stage, (source,))]
    read = {row.clip_id for row in rows if row.status == "ok"}
    out = write_run(tmp_path / "run", data, {"ingest": rows}, {"views": [], **options})
    frames = Frames(replace(config, frames=(str(out),), max_pairs=20, gap_s=0.6))
    (source,) = frames.sources
    assert {item.key for item in (*source.train, *source.held_out)} == read
    item = source.train[0]
    assert isinstance(item, EpisodeItem)
    assert list(item.pictures.views(item.place)) == item.place.views
    expected = {
        center_square(view[step], config.resolution).tobytes()
        for one in source.train
        if isinstance(one, EpisodeItem)
        for view in one.pictures.views(one.place).values()
        for step in range(len(view))
    }
    pairs = frames.pool(0).pairs[0]
    assert {frame.tobytes() for pair in pairs for frame in pair} <= expected
    assert any(not np.array_equal(*pair) for pair in pairs)
