"""The page of a clip shows what the tables and the media say, and nothing that lies elsewhere."""

import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import av
import numpy as np
import pytest
import yaml
from PIL import Image

from handloom.stages.select import Select
from handloom.tokenize import vqgan
from tests.helpers.numbered_clips import number_shown
from tests.helpers.view_site import Answer, Site, site
from tests.view.clip_run import FPS, HOSTILE, Made, number_of, write

CLIP = "/api/clip"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_vqgan: Path) -> Made:
    return write(tmp_path_factory.mktemp("run"), tiny_vqgan)


@pytest.fixture(scope="module")
def page(made: Made) -> Iterator[Site]:
    with site(made.out) as served:
        yield served


def numbers(answer: Answer) -> list[tuple[float, int]]:
    """Time and number of each frame of a video that was served."""
    assert answer.status == 200, answer.body
    with av.open(io.BytesIO(answer.body)) as file:
        return [
            (float(frame.time or 0.0), number_shown(frame.to_ndarray(format="rgb24")))
            for frame in file.decode(video=0)
        ]


def picture(answer: Answer) -> np.ndarray:
    assert answer.status == 200, answer.body
    return np.asarray(Image.open(io.BytesIO(answer.body)))


@pytest.mark.parametrize("clip_id", ["kept", "avi", "tarred"])
def test_the_span_holds_the_frames_of_the_source_and_no_others(page: Site, clip_id: str) -> None:
    start_s, end_s = (1.0, 2.55) if clip_id == "kept" else (1.0, 2.0)
    expected = [
        (frame / FPS - start_s, number_of(frame))
        for frame in range(round(start_s * FPS), int(np.ceil(end_s * FPS)))
    ]
    found = numbers(page.get(f"{CLIP}/{clip_id}/span.webm"))
    assert [number for _, number in found] == [number for _, number in expected]
    assert np.allclose([t for t, _ in found], [t for t, _ in expected], atol=0.002)


def test_ranges_of_the_source_are_its_bytes(page: Site, made: Made) -> None:
    whole = (made.data / "videos/a.mp4").read_bytes()
    assert page.get(f"{CLIP}/kept").json["media"]["source"].startswith("video/mp4")
    everything = page.get(f"{CLIP}/kept/source")
    assert (everything.status, everything.body) == (200, whole)
    some = page.get(f"{CLIP}/kept/source", Range="bytes=100-299")
    assert (some.status, some.body) == (206, whole[100:300])
    assert some.headers["content-range"] == f"bytes 100-299/{len(whole)}"
    assert page.get(f"{CLIP}/kept/source", Range=f"bytes={len(whole) + 1}-").status == 416


@pytest.mark.parametrize("clip_id", ["avi", "tarred"])
def test_a_file_that_no_browser_plays_is_not_offered(page: Site, clip_id: str) -> None:
    assert page.get(f"{CLIP}/{clip_id}").json["media"]["source"] == ""
    assert page.get(f"{CLIP}/{clip_id}/source").status == 409


def test_a_thumbnail_shows_the_frame_with_the_hand(page: Site) -> None:
    small = picture(page.get(f"{CLIP}/kept/thumb?size=160"))
    assert small.shape == (64, 64, 3)  # never enlarged
    assert number_shown(small) == number_of(15)  # hand at 1.5 s
    assert number_shown(picture(page.get(f"{CLIP}/kept/thumb.jpg?at=0"))) == number_of(10)


def test_encoded_frames_are_those_whose_codes_are_in_the_table(
    page: Site, made: Made, tiny_vqgan: Path
) -> None:
    loaded = vqgan.load(str(tiny_vqgan), resolution=64)
    for frame in range(3):
        shown = picture(page.get(f"{CLIP}/kept/encoded/0/{frame}.png"))
        assert np.array_equal(shown, made.squares_thwc[frame])
        assert np.array_equal(loaded.encode(shown[None])[0], made.codes_tij[frame])
        decoded = picture(page.get(f"{CLIP}/kept/decoded/0/{frame}.png"))
        assert np.array_equal(decoded, loaded.decode(made.codes_tij[frame : frame + 1])[0])


@pytest.mark.parametrize("frame", ["0/3", "1/0", "0/99999999999999999999"])
def test_frames_that_were_not_encoded_are_not_there(page: Site, frame: str) -> None:
    for kind in ("encoded", "decoded"):
        answer = page.get(f"{CLIP}/kept/{kind}/{frame}.png")
        assert answer.status == 404
        assert "no frame" in answer.json["error"]


@pytest.mark.parametrize("clip_id", ["outside", "absolute", "link"])
def test_files_outside_of_the_data_folder_are_never_read(page: Site, clip_id: str) -> None:
    for what in ("source", "span.webm", "thumb", "thumb?at=0.5"):
        answer = page.get(f"{CLIP}/{clip_id}/{what}")
        assert answer.status == 409, what
        assert "leads out of the data folder" in answer.json["error"]
    found = page.get(f"{CLIP}/{clip_id}").json
    assert found["media"]["source"] == ""
    assert "leads out of the data folder" in found["media"]["error"]


def test_missing_and_broken_media_are_told_in_a_sentence(page: Site) -> None:
    for clip_id, words in (("gone", "cannot be opened"), ("broken", "not a readable video")):
        for what in ("span.webm", "thumb"):
            answer = page.get(f"{CLIP}/{clip_id}/{what}")
            assert answer.status == 409
            assert words in answer.json["error"]
            assert "Traceback" not in answer.json["error"]
    found = page.get(f"{CLIP}/broken").json
    assert found["end_s"] == 0.0  # of an infinite end, with a duration that nobody knows
    assert found["verdict"] == {"status": "failed", "stage": "ingest", "reason": ""}


HOSTILE_IDS = [
    "nothing", "../kept", "..%2F..%2Fetc%2Fpasswd", "%00", "%FF%FE", "a" * 5000,
    quote("<script>alert(1)</script>"), quote("' or 1=1 --"), "kept%20", "KEPT", quote("é‮"),
]  # fmt: skip


@pytest.mark.parametrize("clip_id", HOSTILE_IDS)
def test_unknown_ids_are_404_and_one_sentence(page: Site, clip_id: str) -> None:
    for what in ("", "/thumb", "/span.webm", "/curves", "/encoded/0/0.png"):
        answer = page.get(f"{CLIP}/{clip_id}{what}")
        assert answer.status == 404, (clip_id[:40], what)
        assert answer.headers["content-type"] == "application/json"
        assert len(answer.json["error"]) < 300


def test_texts_are_json_and_nothing_is_sniffed(page: Site) -> None:
    answer = page.get(f"{CLIP}/kept")
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    texts = answer.json["texts"]
    assert (texts["caption"], texts["own"], texts["others"]) == (HOSTILE, HOSTILE, ["another"])
    assert [flag["name"] for flag in texts["flags"]] == ["no_tag"]


def test_hands_are_where_the_table_says(page: Site) -> None:
    hands = page.get(f"{CLIP}/kept").json["hands"]
    assert [frame["time_s"] for frame in hands["frames"]] == [1.0, 1.5]
    assert [len(frame["hands"]) for frame in hands["frames"]] == [0, 1]
    (hand,) = hands["frames"][1]["hands"]
    assert hand["box"] == [0.25, 0.5, 0.75, 1.0]
    assert np.allclose(hand["points"][:4], [0 / 63, 1 / 63, 3 / 63, 4 / 63], atol=1e-4)
    assert len(hand["points"]) == 42


def test_the_verdict_names_the_score_beyond_its_limit(page: Site) -> None:
    found = page.get(f"{CLIP}/dark").json
    assert found["verdict"] == {"status": "rejected", "stage": "select", "reason": "dark"}
    stages = {one["name"]: one for one in found["stages"]}
    assert stages["tokens"]["status"] == stages["caption"]["status"] == "not_reached"
    fails = [one for one in stages["select"]["scores"] if one["fails"]]
    assert [(one["name"], one["value"]) for one in fails] == [("dark_share", 0.9)]
    assert fails[0]["at_most"] == Select().max_dark_share
    assert {one["name"] for one in stages["select"]["scores"]} >= {"hand_share", "sharpness"}
    kept = page.get(f"{CLIP}/kept").json
    assert kept["verdict"]["status"] == "kept"
    assert not [one for stage in kept["stages"] for one in stage["scores"] if one["fails"]]


def test_duplicates_of_this_run_are_told_from_those_of_others(page: Site) -> None:
    found = page.get(f"{CLIP}/twin").json["duplicates"]
    assert [(one["clip_id"], one["here"], one["better"]) for one in found] == [
        ("kept", True, True), ("elsewhere", False, False),
    ]  # fmt: skip


def test_a_mask_is_never_passed_by(made: Made, tmp_path: Path) -> None:
    (tmp_path / "masks_for_view.py").write_text(
        "def grey(clip, frames_thwc):\n    return frames_thwc * 0 + 128\n"
    )
    out = Path(shutil.copytree(made.out, tmp_path / "out"))
    record = yaml.safe_load((out / "run.yaml").read_text())
    record["config"]["ingest"]["frame_transform"] = "masks_for_view:grey"
    (out / "run.yaml").write_text(yaml.safe_dump(record | {"folders": [str(tmp_path)]}))
    with site(out) as masked:
        assert masked.get(f"{CLIP}/kept").json["media"]["source"] == ""
        assert masked.get(f"{CLIP}/kept/source").status == 409
        for what in ("thumb", "encoded/0/0.png"):
            assert np.abs(picture(masked.get(f"{CLIP}/kept/{what}")).astype(int) - 128).max() < 4
        answer = masked.get(f"{CLIP}/kept/span.webm")
        with av.open(io.BytesIO(answer.body)) as file:
            shown = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
        assert len(shown) == 16
        assert np.abs(np.stack(shown).astype(int) - 128).max() < 6


def test_another_tokenizer_or_none_is_told_in_a_sentence(
    made: Made, tmp_path: Path, tiny_vqgan: Path
) -> None:
    out, model = tmp_path / "out", tmp_path / "model"
    shutil.copytree(made.out, out)
    record = yaml.safe_load((out / "run.yaml").read_text())
    record["config"]["tokens"]["model"] = str(model)
    (out / "run.yaml").write_text(yaml.safe_dump(record))
    with site(out) as served:
        answer = served.get(f"{CLIP}/kept/decoded/0/0.png")
        assert answer.status == 400
        assert str(model) in answer.json["error"]
        assert picture(served.get(f"{CLIP}/kept/encoded/0/0.png")).shape == (64, 64, 3)


def test_a_run_that_is_deleted_meanwhile_is_told_in_a_sentence(made: Made, tmp_path: Path) -> None:
    out = Path(shutil.copytree(made.out, tmp_path / "out"))
    with site(out) as served:
        assert served.get(f"{CLIP}/kept").status == 200
        shutil.rmtree(out)
        for what in ("", "/span.webm", "/thumb", "/decoded/0/0.png"):
            answer = served.get(f"{CLIP}/kept{what}")
            assert answer.status in (200, 400, 404, 409), what
            if answer.status != 200:
                assert len(answer.json["error"]) < 400
        assert served.get(f"{CLIP}/kept").status != 200
