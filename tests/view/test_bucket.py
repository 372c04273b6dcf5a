"""A run in an object store is looked at as one on disk is, and its marks are kept beside it."""

from pathlib import Path

from handloom.listings import forget_listings
from handloom.stages.overrides import read_marks
from tests.view.viewed import all_clips, client, generated, get, opened


def test_a_bucket_lists_the_clips_of_its_run_and_keeps_their_marks(
    folder: Path, tmp_path: Path
) -> None:
    local = generated(tmp_path / "run", clips=120)
    for path in sorted(one for one in local.rglob("*") if one.is_file()):
        (folder / path.relative_to(local).as_posix()).write_bytes(path.read_bytes())
    forget_listings()
    page = client(opened(folder))
    assert all_clips(page) == all_clips(client(opened(local)))
    clip_id = all_clips(page, status="kept")[0]["id"]
    page.post("/api/marks", json={"ids": [clip_id], "mark": "drop"})
    assert set(read_marks(folder / "marks.csv")) == {clip_id}
    assert get(page, "/api/judge")["flags"] == ["--select.overrides", f"{folder}/marks.csv"]
