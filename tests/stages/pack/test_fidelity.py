"""A run measures its own tokenizer: its numbers are those of decoding; bad codes are told of."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from handloom.errors import MediaError, UserError
from handloom.stages.caption.stage import source_row
from handloom.stages.duplicates.rows import DuplicateRow
from handloom.stages.hands.rows import Hand, HandRow
from handloom.stages.ingest.videos import Ingest
from handloom.stages.media.clip_frames import ClipFrames, Framing, whole, without_bars
from handloom.stages.media.video import probe
from handloom.stages.pack.fidelity import lines, measure
from handloom.stages.report import fidelity as section
from handloom.stages.select import SelectRow
from handloom.stages.tables.parts import Table, Tables, open_tables
from handloom.stages.tables.rows import Clip, Row
from handloom.stages.tokens import TokenRow, Tokens
from handloom.tokenize import vqgan
from handloom.tokenize.frames import center_square
from handloom.tokenize.measure.pixels import psnr_db, ssim
from tests.helpers.recorded_runs import clip_row, hands_row, write_run, write_table

SIDE = 128
HAND_S, BOX = 1.4, [0.35, 0.3, 0.6, 0.7]
HAND: Hand = {
    "frame": 1, "handedness": "Right", "score": 0.9, "confidence": 1.0, "box_xyxy": BOX,
    "landmarks_xyz": [0.0] * 63,
    "world_xyz": [0.0] * 63,
}  # fmt: skip


@pytest.fixture(scope="module")
def clips(miniature: Path) -> list[Clip]:
    """Two clips of each of three videos of the miniature Ego4D."""
    found = []
    for path in sorted(miniature.glob("v2/full_scale/*.mp4")):
        try:
            seconds = probe(path).duration_s
        except MediaError:
            continue
        if seconds > 4 and len(found) < 6:
            place = {"media_path": str(path.relative_to(miniature)), "video_id": path.stem}
            for start_s in (0.5, 2.0):
                name = f"{path.stem[:8]}{start_s}"
                found.append(clip_row(name, start_s, start_s + 1.5, **place))
    assert len({clip.video_id for clip in found}) == 3
    return found


@pytest.fixture(scope="module")
def tokens(miniature: Path) -> Tokens:
    return Tokens(model="bundled-128", frames=3).at(miniature, source=Ingest().at(miniature))


@pytest.fixture(scope="module")
def encoded(clips: list[Clip], tokens: Tokens) -> list[TokenRow]:
    return [row for clip in clips for row in tokens(clip, whole(clip))]


@pytest.fixture
def run(clips: list[Clip], encoded: list[TokenRow], miniature: Path, tmp_path: Path) -> Path:
    return write(tmp_path / "run", miniature, clips, encoded)


def write(out: Path, data: Path, clips: list[Clip], encoded: list[TokenRow]) -> Path:
    scores = [name for name in SelectRow.__annotations__ if name not in Row.__annotations__]
    tables: dict[str, list[Any]] = {
        "ingest": clips,
        "hands": [with_a_hand(clip) for clip in clips],
        "duplicates": [
            DuplicateRow(clip_id=c.clip_id, similarity=0.0, leak_similarity=0.0, matches=[])
            for c in clips
        ],
        "select": [SelectRow(clip_id=c.clip_id, **dict.fromkeys(scores, 0.0)) for c in clips],
        "caption": [source_row(clip) for clip in clips],
        "tokens": encoded,
    }  # fmt: skip
    return write_run(out, data, tables)


def with_a_hand(clip: Clip) -> HandRow:
    """A hand in the second of two sampled frames, of the first clip of each video."""
    if clip.start_s > 1:
        return hands_row(clip, whole(clip))
    return replace(hands_row(clip, whole(clip)), times_s=[0.6, HAND_S], detections=[HAND])


def frames_of(clip: Clip, times_s: list[float], data: Path) -> list[NDArray[np.uint8]]:
    shown = ClipFrames(data).frames(clip, whole(clip), np.array(times_s))
    return [center_square(frame, SIDE) for frame in shown]


def test_the_numbers_are_those_of_encoding_and_decoding(
    run: Path, clips: list[Clip], tokens: Tokens, miniature: Path
) -> None:
    found = measure.measured(open_tables(run), {"tokens": tokens})["fidelity"]
    model = vqgan.load("bundled-128")
    # two of three frames at the middles of equal slices: the first and the last
    times_s = {clip.clip_id: [clip.start_s + 0.25, clip.start_s + 1.25] for clip in clips}
    true = np.stack(
        [f for clip in clips for f in frames_of(clip, times_s[clip.clip_id], miniature)]
    )
    decoded = model.decode(model.encode(true))
    flat = np.broadcast_to(true.mean((1, 2), keepdims=True), true.shape)
    assert (found["clips"], found["frames"]) == (6, 12)
    assert found["psnr_db"] == pytest.approx(psnr_db(true, decoded), abs=0.006)
    assert found["mean_color_psnr_db"] == pytest.approx(psnr_db(true, flat), abs=0.006)
    similar = np.mean([ssim(a, b) for a, b in zip(true, decoded, strict=True)])
    assert found["ssim"] == pytest.approx(similar, abs=0.0006)


def test_hands_are_measured_where_they_were_detected(
    run: Path, clips: list[Clip], tokens: Tokens, miniature: Path
) -> None:
    found = measure.measured(open_tables(run), {"tokens": tokens})["fidelity"]["hands"]
    inside: list[Any] = []
    outside: list[Any] = []
    for clip in clips:
        if clip.start_s < 1:
            pair, box = pair_and_box(clip, miniature)
            inside.append(pair[:, box].reshape(2, -1))
            outside.append(pair[:, ~box].reshape(2, -1))
    assert found["count"] == 3
    assert found["psnr_db"] == pytest.approx(psnr_db(*np.concatenate(inside, 1)), abs=0.006)
    assert found["around_psnr_db"] == pytest.approx(psnr_db(*np.concatenate(outside, 1)), abs=0.006)


def pair_and_box(clip: Clip, data: Path) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """The frame with the hand and its reconstruction [2, S, S, 3]; where the hand is [S, S]."""
    (frame,) = ClipFrames(data).frames(clip, whole(clip), np.array([HAND_S]))
    height, width = frame.shape[:2]
    assert width >= height
    model, square = vqgan.load("bundled-128"), center_square(frame, SIDE)
    cut = (width - height) // 2
    left, right = (round((x * width - cut) / height * SIDE) for x in (BOX[0], BOX[2]))
    top, bottom = (round(y * SIDE) for y in (BOX[1], BOX[3]))
    box = np.zeros((SIDE, SIDE), bool)
    box[top:bottom, max(0, left) : right] = True
    return np.stack([square, model.decode(model.encode(square[None]))[0]]), box


@pytest.mark.parametrize("shape", [(120, 200, 3), (200, 120, 3), (160, 160, 3)])
@pytest.mark.parametrize("bars", [[0.0, 0.0, 1.0, 1.0], [0.1, 0.25, 0.9, 0.75]])
def test_a_box_is_found_again_in_the_square_that_is_encoded(
    shape: tuple[int, int, int], bars: list[float]
) -> None:
    frame = np.zeros(shape, np.uint8)
    box = [0.4, 0.4, 0.55, 0.6]
    x0, y0, x1, y1 = (round(v * shape[1 - i % 2]) for i, v in enumerate(box))
    frame[y0:y1, x0:x1] = 255
    framing = Framing(clip_id="a", shot_start_s=0.0, shot_end_s=1.0, picture_xyxy=bars)
    picture = without_bars(frame, framing)
    rows, columns = np.nonzero(center_square(picture, SIDE)[:, :, 0] > 127)
    painted = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    np.testing.assert_allclose(
        measure.in_square(box, framing, picture.shape, SIDE), painted, atol=1
    )


def test_codes_of_less_precision_are_compared_with_those_of_float32(
    clips: list[Clip], miniature: Path, tmp_path: Path
) -> None:
    rough = Tokens(model="bundled-128", frames=2, precision="bfloat16")
    rough = rough.at(miniature, source=Ingest().at(miniature))
    encoded = [row for clip in clips for row in rough(clip, whole(clip))]
    tables = open_tables(write(tmp_path / "run", miniature, clips, encoded))
    told = measure.measured(tables, {"tokens": rough})["fidelity"]["equal_codes"]
    model, equal = vqgan.load("bundled-128"), list[float]()
    for clip, row in zip(clips, encoded, strict=True):
        codes = np.frombuffer(row.codes, "<u2").reshape(2, 8, 8)
        exact = model.encode(np.stack(frames_of(clip, row.times_s, miniature)))
        equal.append(float((codes == exact).mean()))
    assert told == pytest.approx(np.mean(equal), abs=1e-4)
    assert 0.05 < told < 1
    assert rough.tokenizer()["precision"] == "bfloat16"
    assert rough.settings() != Tokens(model="bundled-128", frames=2).settings()
    assert "precision" not in str(Tokens().settings())  # stored codes stay valid


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(UserError, match="unknown precision 'bf16'"):
        Tokens(precision="bf16")


def test_stored_codes_are_decoded_not_new_ones(
    run: Path, clips: list[Clip], tokens: Tokens
) -> None:
    model = tokens.vqgan()
    for clip in clips:
        for pair in measure.pairs(open_tables(run), tokens, clip):
            (again,) = model.decode(model.encode(pair.true[None]))
            np.testing.assert_array_equal(pair.decoded, again)


def scrambled(rows: list[TokenRow]) -> list[TokenRow]:
    """Codes of a tokenizer whose codebook is in another order."""
    order = np.random.default_rng(0).permutation(1024).astype("<u2")
    return [replace(row, codes=order[np.frombuffer(row.codes, "<u2")].tobytes()) for row in rows]


def test_scrambled_codes_get_a_sentence_and_good_ones_none(
    run: Path,
    clips: list[Clip],
    encoded: list[TokenRow],
    tokens: Tokens,
    tmp_path: Path,
    miniature: Path,
) -> None:
    good = measure.measured(open_tables(run), {"tokens": tokens})
    assert lines.advice(good, open_tables(run)) == []
    other = write(tmp_path / "other", miniature, clips, scrambled(encoded))
    bad = measure.measured(open_tables(other), {"tokens": tokens})
    assert bad["fidelity"]["psnr_db"] < bad["fidelity"]["mean_color_psnr_db"]
    assert len(lines.advice(bad, open_tables(other))) == 1
    (numbers, sentence) = lines.lines(open_tables(other))
    assert f"PSNR {bad['fidelity']['psnr_db']:.1f} dB" in numbers
    assert "handloom train vqgan --frames" in sentence
    assert "--tokens.model" in sentence


def test_it_is_measured_once_for_the_same_tables(
    run: Path, clips: list[Clip], encoded: list[TokenRow], miniature: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(miniature, data)
    stages = {"tokens": Tokens(model="bundled-128", frames=3).at(data)}
    first = measure.measured(open_tables(run), stages)
    shutil.rmtree(data)
    assert measure.measured(open_tables(run), stages) == first == measure.read(open_tables(run))
    write_table(run, "tokens", encoded[:-1])  # another sample, of which no picture is left
    assert measure.read(open_tables(run)) == {}
    assert measure.measured(open_tables(run), stages)["fidelity"] == {}
    (line,) = lines.lines(open_tables(run))
    assert "5 clips could not be compared" in line
    assert "data:image" not in section.section(open_tables(run), stages)
    shutil.copytree(miniature, data)  # the disk is back
    assert measure.measured(open_tables(run), stages)["fidelity"]["clips"] == 5


def test_a_clip_that_cannot_be_read_costs_itself(
    run: Path, clips: list[Clip], tokens: Tokens, miniature: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(miniature, data)
    (data / clips[0].media_path).write_bytes(b"no video")
    found = measure.measured(open_tables(run), {"tokens": tokens.at(data)})
    assert found["fidelity"]["clips"] == 4
    assert found["unreadable"].keys() == {c.clip_id for c in clips[:2]}
    again = measure.measured(open_tables(run), {"tokens": tokens})  # the file is repaired
    assert (again["fidelity"]["clips"], again["unreadable"]) == (6, {})


def test_without_kept_clips_or_codes_nothing_is_said(run: Path, tokens: Tokens) -> None:
    tables = open_tables(run)
    for row_set in ({}, {"ingest": tables["ingest"]}):
        assert lines.lines(row_set) == []
    rows = tables["select"].read(SelectRow)
    write_table(run, "select", [replace(r, status="rejected", reason="dark") for r in list(rows)])
    assert measure.measured(open_tables(run), {"tokens": tokens}) == {}
    assert lines.lines(open_tables(run)) == []
    assert section.section(open_tables(run), {"tokens": tokens}) == ""


def test_the_sample_depends_on_the_clips_alone(run: Path, clips: list[Clip]) -> None:
    def drawn(tables: Tables) -> list[str]:
        return [clip.clip_id for clip in measure.sample(tables)]

    before = drawn(open_tables(run))
    table = Table(run / "tables/ingest", open_tables(run)["ingest"].fingerprint)
    table.clear()
    for number, clip in enumerate(reversed(clips)):  # as other workers and batches would
        table.write("00", str(number), [clip], Clip)
    assert drawn(open_tables(run)) == before == drawn(dict(open_tables(run)))


def test_a_small_sample_is_of_as_many_videos_as_there_are(
    run: Path, clips: list[Clip], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "CLIPS", 3)
    assert len({clip.video_id for clip in measure.sample(open_tables(run))}) == 3


def test_the_report_shows_numbers_and_pairs(run: Path, tokens: Tokens) -> None:
    page = section.section(open_tables(run), {"tokens": tokens})
    found = measure.read(open_tables(run))["fidelity"]
    assert page.count("data:image/jpeg") == 3
    assert f"{found['psnr_db']:.1f} dB" in page
    assert f"{found['hands']['around_psnr_db']:.1f} dB" in page
