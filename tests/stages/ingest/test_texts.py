"""Whatever a dataset has for names and texts: every row can be written, and is found again."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from handloom.pipeline.batches import remaining
from handloom.pipeline.job import Job
from handloom.pipeline.recipes import RECIPES
from handloom.pipeline.worker import work
from handloom.stages.caption.stage import source_row
from handloom.stages.datasets.source import (
    Adapter,
    CutRule,
    Episode,
    EpisodeOptions,
    RobotAdapter,
    SourceEpisode,
    SourceVideo,
    Span,
)
from handloom.stages.tables.rows import Clip, EpisodeClip
from handloom.stages.tables.texts import LONGEST_TEXT
from tests.helpers.numbered_clips import write_videos

HOSTILE = {
    "plain": "picks up a cup",
    "surrogate": "picks \ud83d a \udcff cup",
    "escape": "picks\x1b[2J a\0cup\x9b",
    "long": "picks the cup and " * 60_000,
    "brackets": "(" * 500_000,
    "tags": "#unsure " * 100_000,
    "talk": "so and " * 100_000,
    "spaces": " " * 1_000_000,
}
STORED = HOSTILE | {
    "surrogate": "picks \ufffd a \ufffd cup",
    "escape": "picks [2J a cup ",
    **{name: text[:LONGEST_TEXT] for name, text in HOSTILE.items() if len(text) > LONGEST_TEXT},
}


def ingested(recipe: str, data: Path, out: Path, row_type: type[Clip]) -> list[Clip]:
    """Rows of all sources, written and read; a second run has nothing left to do."""
    config = RECIPES[recipe]()
    ingest = replace(config.ingest, dataset="home", format="home")  # type: ignore[type-var]
    job = Job(recipe, data, out, replace(config, ingest=ingest))  # type: ignore[arg-type]
    for batch in remaining(job, "ingest"):
        work(job.stages["ingest"], job.tables["ingest"], batch, {})
    assert list(remaining(job, "ingest")) == []
    return sorted(job.tables["ingest"].read(row_type), key=lambda row: row.start_s)


def videos_of(names: dict[str, str]) -> Callable[..., Iterator[SourceVideo]]:
    """A video for each name, one of the three with a text of its own for each second."""

    def videos(*_: Any) -> Iterator[SourceVideo]:
        for name, path in names.items():
            spans = tuple(
                Span(float(n), n + 1.0, text, (text, text), ("unsure",), annotation_id=text[:9_000])
                for n, text in enumerate(HOSTILE.values())
            )
            yield SourceVideo(name, path, "", "1", spans)

    return videos


def use(patch: pytest.MonkeyPatch, kind: str, adapter: Any) -> None:
    def chosen(_: str) -> Any:
        return adapter

    modules = {"video": ["ingest.videos"], "robot": ["ingest.episodes", "media.episode_views"]}
    for module in modules[kind]:
        patch.setattr(f"handloom.stages.{module}.{kind}_adapter", chosen)


def test_videos_with_hostile_texts_become_clips(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_videos(tmp_path, 60)
    adapter = Adapter(videos_of({"v": "00000.mp4"}), lambda _: [], "narration", "none", "", "")
    use(monkeypatch, "video", adapter)
    rows = ingested("ssv2", tmp_path, tmp_path / "out", Clip)
    assert {row.status for row in rows} == {"ok"}
    for row, text in zip(rows, STORED.values(), strict=True):
        assert (row.text, row.other_texts) == (text, [text, text])
        assert row.text_flags == ["unsure"] + ["cut"] * (len(text) == LONGEST_TEXT)
        assert source_row(row).status in ("ok", "rejected")
    assert len({row.annotation_id for row in rows}) == len(rows)


def test_videos_with_hostile_names_are_counted_and_stay_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_videos(tmp_path, 60)
    (tmp_path / "a\nb\x1b.mp4").write_bytes((tmp_path / "00000.mp4").read_bytes())
    names = {
        "plain": "00000.mp4", "a\ud800": "00000.mp4", "b\udcff": "gone\udcff.mp4", "\0": "\0.mp4",
        "x" * 10**6: "y" * 10**6 + ".mp4", "a\nb\x1b": "a\nb\x1b.mp4",
    }  # fmt: skip
    adapter = Adapter(videos_of(names), lambda _: [], "narration", "none", "", "")
    use(monkeypatch, "video", adapter)
    rows = ingested("ssv2", tmp_path, tmp_path / "out", Clip)
    status = {row.unit: row.status for row in rows}
    assert len({row.clip_id for row in rows}) == len(rows) == len(names) * len(HOSTILE)
    assert list(status.values()).count("ok") == 3
    assert [status[name] for name in ("plain", "a\\ud800", "a\nb\x1b")] == ["ok"] * 3
    assert all(row.error for row in rows if row.status == "failed")


class Pictures:
    """Grey images of one camera."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, step: int) -> NDArray[np.uint8]:
        return np.full((8, 8, 3), step, np.uint8)

    def fingerprint(self, step: int) -> bytes:
        return bytes([step])


def test_episodes_with_hostile_texts_and_names_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def episodes(*_: Any) -> Iterator[SourceEpisode]:
        for n, name in enumerate(HOSTILE):
            yield SourceEpisode(f"data#{name}", "data", (n,), "", "1")
        for name in ("a\ud800", "\0", "x" * 10**6):
            yield SourceEpisode(name, name, (0,), "", "1")

    def load(root: Path, source: SourceEpisode, options: EpisodeOptions) -> Episode:
        (root / source.media_path).stat()
        text = [*HOSTILE.values()][source.place[0]]
        zeros = np.zeros((4, 7), np.float32)
        facts = {"path": text, "place": str(source.place[0])}
        views = {"main\ud800": Pictures()}
        name, kind = text[:9_000] or "none", "as_stored"
        return Episode(name, text, 10.0, views, zeros, zeros, kind, (text,), facts=facts)

    (tmp_path / "data").write_bytes(b"")
    adapter = RobotAdapter(episodes, load, lambda _: [], "none", "", "")
    use(monkeypatch, "robot", adapter)
    rows = ingested("rlds", tmp_path, tmp_path / "out", EpisodeClip)
    read = {row.place[0]: row for row in rows if row.status == "ok"}
    assert len(rows) == len({row.clip_id for row in rows}) == len(HOSTILE) + 3
    assert [read[n].text for n in range(len(HOSTILE))] == list(STORED.values())
    assert all(row.other_texts == [row.text] for row in read.values())
    assert all(row.error for row in rows if row.status != "ok")


def test_an_annotation_that_cannot_be_cut_costs_its_video(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_videos(tmp_path, 60)

    def videos(*_: Any) -> Iterator[SourceVideo]:
        for name in ("a", "b"):
            yield SourceVideo(name, "00000.mp4", "", "1", raw=name)

    def cut(video: SourceVideo, _: CutRule) -> tuple[Span, ...]:
        if video.raw == "a":
            raise KeyError("start \ud800")
        return (Span(0.0, 2.0, "picks a cup"),)

    adapter = Adapter(videos, lambda _: [], "narration", "none", "", "", cut)
    use(monkeypatch, "video", adapter)
    rows = ingested("ssv2", tmp_path, tmp_path / "out", Clip)
    assert {row.unit: (row.status, row.error) for row in rows} == {
        "a": ("failed", "KeyError: 'start \\ud800'"),
        "b": ("ok", ""),
    }
