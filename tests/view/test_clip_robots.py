"""A robot's page: cameras in step, curves of the table's numbers, codes beside their pictures."""

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import yaml

from handloom.errors import MediaError
from handloom.stages.caption.rows import CaptionRow
from handloom.stages.episodes.rows import EpisodeRow
from handloom.stages.episodes.stage import Episodes
from handloom.stages.ingest.episodes import EpisodeIngest
from handloom.stages.tables.parts import write_flow
from handloom.stages.tables.rows import EpisodeClip
from handloom.stages.tokens import EpisodeTokens, TokenRow
from handloom.view.clip_media import tiled
from tests.helpers.lerobot_files import CAMERAS, FPS, level, write_v2
from tests.helpers.recorded_runs import write_run
from tests.helpers.view_site import Site, site

STEPS = (12, 9)
FLOW = {"ingest": "", "episodes": "ingest", "caption": "episodes", "tokens": "episodes"}


@pytest.fixture(scope="module")
def episodes(tmp_path_factory: pytest.TempPathFactory, tiny_vqgan: Path) -> tuple[Path, list[str]]:
    """A run over two episodes of two cameras, and the ids of these."""
    folder = tmp_path_factory.mktemp("robots")
    data, out = folder / "data", folder / "out"
    write_v2(data, [[0] * steps for steps in STEPS])
    ingest = EpisodeIngest(dataset="lerobot", format="lerobot").at(data)
    rows = [replace(row, bucket="00") for source in ingest.sources() for row in ingest(source)]
    resampled = [row for one in rows for row in Episodes()(one, one)]
    encoder = EpisodeTokens(model=str(tiny_vqgan), resolution=64).at(data, None, ingest)
    write_run(out, data, {
        "ingest": rows,
        "episodes": resampled,
        "caption": [CaptionRow(clip_id=row.clip_id, caption=row.text) for row in rows],
        "tokens": [_tokens(encoder, *pair) for pair in zip(rows, resampled, strict=True)],
    })  # fmt: skip
    write_flow(out, FLOW)
    options = {"model": str(tiny_vqgan), "resolution": 64}
    record = {"dataset": "lerobot", "data": str(data), "config": {"tokens": options, "ingest": {}}}
    (out / "run.yaml").write_text(yaml.safe_dump(record))
    return out, [row.clip_id for row in rows]


def _tokens(encoder: EpisodeTokens, clip: EpisodeClip, steps: EpisodeRow) -> TokenRow:
    (row,) = encoder(clip, steps)
    assert isinstance(row, TokenRow)
    return row


@pytest.fixture(scope="module")
def page(episodes: tuple[Path, list[str]]) -> Iterator[Site]:
    with site(episodes[0]) as served:
        yield served


@pytest.mark.parametrize("columns", [1, 2])
def test_all_cameras_show_the_same_step_in_every_frame(
    page: Site, episodes: tuple[Path, list[str]], columns: int
) -> None:
    shown: list[tuple[float, list[float]]] = []
    answer = page.get(f"/api/clip/{episodes[1][1]}/span.webm?columns={columns}")
    assert answer.status == 200, answer.body
    with av.open(io.BytesIO(answer.body)) as file:
        for frame in file.decode(video=0):
            sheet = frame.to_ndarray(format="rgb24")
            cells = np.split(sheet, 2, axis=1 if columns == 2 else 0)
            shown.append((float(frame.time or 0.0), [float(cell.mean()) for cell in cells]))
    names = page.get(f"/api/clip/{episodes[1][1]}").json["media"]["views"]
    cameras = [next(i for i, one in enumerate(CAMERAS) if name in one) for name in names]
    assert sorted(cameras) == [0, 1]
    expected = [[level(camera, step, 1) for camera in cameras] for step in range(STEPS[1])]
    assert np.allclose([levels for _, levels in shown], expected, atol=6)
    assert np.allclose([t for t, _ in shown], np.arange(STEPS[1]) / FPS, atol=0.002)


def test_curves_are_the_numbers_of_the_table_with_their_names(
    page: Site, episodes: tuple[Path, list[str]]
) -> None:
    found = page.get(f"/api/clip/{episodes[1][0]}/curves").json
    assert (found["hz"], found["action_kind"]) == (FPS, "as_stored")
    assert [one["name"] for one in found["state"]] == ["shoulder", "gripper"]
    assert found["state"][0]["values"] == [float(step) for step in range(STEPS[0])]
    assert found["action"][0]["values"] == [2.0 * step for step in range(STEPS[0])]


def test_a_frame_of_each_camera_lies_beside_its_codes(
    page: Site, episodes: tuple[Path, list[str]]
) -> None:
    clip_id = episodes[1][0]
    detail = page.get(f"/api/clip/{clip_id}").json
    assert detail["codes"]["views"] == detail["media"]["views"]
    assert len(detail["codes"]["times_s"]) == STEPS[0]
    for view, name in enumerate(detail["codes"]["views"]):
        camera = next(i for i, one in enumerate(CAMERAS) if name in one)
        answer = page.get(f"/api/clip/{clip_id}/encoded/{view}/5.png")
        with av.open(io.BytesIO(answer.body)) as file:
            (frame,) = file.decode(video=0)
        assert abs(frame.to_ndarray(format="rgb24").mean() - level(camera, 5)) < 4
        assert page.get(f"/api/clip/{clip_id}/decoded/{view}/5.png").status == 200


def test_a_deleted_camera_costs_the_video_and_not_the_page(
    page: Site, episodes: tuple[Path, list[str]], tiny_vqgan: Path
) -> None:
    out, ids = episodes
    video = next((out.parent / "data/videos").rglob("*cam_high/episode_000001.mp4"))
    kept = video.read_bytes()
    video.unlink()
    try:
        with site(out) as fresh:
            answer = fresh.get(f"/api/clip/{ids[1]}/span.webm")
            assert answer.status == 409
            assert "Traceback" not in answer.json["error"]
            assert fresh.get(f"/api/clip/{ids[1]}").status == 200
            assert fresh.get(f"/api/clip/{ids[1]}/curves").json["state"]
    finally:
        video.write_bytes(kept)


def test_an_episode_that_was_never_opened_says_so_wherever_it_is_asked_for(tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    write_v2(data, [[0] * steps for steps in STEPS])
    next(data.rglob("episode_000001.parquet")).write_bytes(b"damaged")
    ingest = EpisodeIngest(dataset="lerobot", format="lerobot").at(data)
    source = list(ingest.sources())[1]
    with pytest.raises(MediaError) as found:
        list(ingest(source))
    failed = replace(next(iter(ingest.failed(str(found.value), source))), bucket="00")
    write_run(out, data, {"ingest": [failed]})
    record = {"dataset": "lerobot", "data": str(data), "config": {"ingest": {}}}
    (out / "run.yaml").write_text(yaml.safe_dump(record))
    with site(out) as served:
        for name in ("thumb", "span.webm", "span.webm?columns=2"):
            answer = served.get(f"/api/clip/{failed.clip_id}/{name}")
            assert (answer.status, answer.json["error"]) == (409, "the episode was not opened")
        assert served.get(f"/api/clip/{failed.clip_id}").json["verdict"]["status"] == "failed"


def test_views_of_other_sizes_stand_in_the_middle_of_their_cells() -> None:
    wide, tall = np.full((4, 10, 3), 200, np.uint8), np.full((8, 6, 3), 100, np.uint8)
    sheet = tiled([wide, tall, wide], 2)
    assert sheet.shape == (16, 20, 3)
    assert (sheet[2:6, 0:10] == 200).all()
    assert (sheet[0:8, 12:18] == 100).all()
    assert (sheet[10:14, 0:10] == 200).all()
    assert sheet[8:, 10:].sum() == 0
