"""The adapter in docs/adding-a-dataset.md works as it stands there."""

from pathlib import Path
from typing import Any

import pytest

from handloom.errors import UserError
from handloom.stages.datasets.source import CutRule
from handloom.stages.ingest.videos import Ingest
from tests.helpers.pages import code_of

PAGE = "adding-a-dataset.md"


@pytest.fixture(scope="module")
def module() -> dict[str, Any]:
    """The names that the page's code defines."""
    names: dict[str, Any] = {}
    exec(compile(code_of(PAGE), PAGE, "exec"), names)
    return names


def test_its_videos_become_clips(
    module: dict[str, Any], miniature: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = next(p for p in sorted((miniature / "v2/full_scale").glob("*.mp4")) if _opens(p))
    (tmp_path / "a.mp4").write_bytes(whole.read_bytes())
    (tmp_path / "clips.csv").write_text(
        "file,start_s,end_s,text\nb.mp4,0,2,opens a door\na.mp4,1,3,picks a cup\na.mp4,0,1,waits\n"
    )
    adapter = module["ADAPTER"]
    monkeypatch.setattr(
        "handloom.stages.ingest.videos.video_adapter", {"home": adapter}.__getitem__
    )
    ingest = Ingest(dataset="home", format="home").at(tmp_path)
    clips = [clip for video in ingest.sources() for clip in ingest(video)]
    assert [(c.video_id, c.start_s, c.text, c.status, c.reason) for c in clips] == [
        ("a.mp4", 0.0, "waits", "ok", ""),
        ("a.mp4", 1.0, "picks a cup", "ok", ""),
        ("b.mp4", 0.0, "opens a door", "rejected", "missing_file"),
    ]
    assert {c.licence for c in clips} == {"my-own-videos"}


def test_its_missing_table_is_named(module: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no clips\.csv"):
        list(module["ADAPTER"].videos(tmp_path, CutRule()))


def _opens(path: Path) -> bool:
    return b"moov" in path.read_bytes()  # the index of a truncated file never arrived
