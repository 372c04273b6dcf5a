"""Tables of a run of any size, with made-up clips: what the steps over all clips are measured on.

    python benchmarks/scale_tables.py OUT [--clips 1000000] [--codes 256]

Writes all tables of a run of videos in the schemas of the stages, 256 buckets, parts as merged at
the end of a stage. Shares of rejected and failed clips, lengths of texts, repeated texts and frames
a clip are about those of narrated videos. Fingerprints and landmarks are left out: nothing that is
measured reads them. The same seed gives the same tables.
"""

import argparse
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import yaml

from handloom.pipeline.recipes import ego4d, row_stages
from handloom.stages import graph
from handloom.stages.caption.rows import CaptionRow
from handloom.stages.duplicates.rows import DuplicateRow
from handloom.stages.hands.rows import HandRow
from handloom.stages.select import Select
from handloom.stages.tables.parts import BUCKETS, Table, write_flow, write_marker
from handloom.stages.tables.rows import Clip, Row, arrow_schema
from handloom.stages.tokens import TokenRow

PRINT = "5c" * 32
CLIPS_A_VIDEO = 40
FRAMES = 6  # sampled of a clip
KINDS: dict[str, type[Row]] = {
    "ingest": Clip, "hands": HandRow, "duplicates": DuplicateRow, "caption": CaptionRow,
    "tokens": TokenRow,
}  # fmt: skip

Columns = dict[str, Any]
Rng = np.random.Generator
Bools = npt.NDArray[np.bool_]

VERBS, COLOURS, THINGS, PLACES = (
    words.split()
    for words in (
        "picks puts cuts holds washes turns opens closes moves lifts stirs wipes pours takes drops "
        "folds shakes presses pulls pushes",
        "red blue green yellow black white brown grey pink orange large small long wet clean",
        "cup plate spoon knife bottle box towel brush hammer basket pan bowl onion carrot dough "
        "cloth screw wire plank paper phone book card bag lid tap jar fork board rope wheel nail",
        "table shelf door window chair drawer tray board rack mat floor sink stove wall bin crate "
        "bench fridge counter car",
    )
)


def main() -> None:
    """Write the tables of a run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--clips", type=int, default=1_000_000)
    parser.add_argument("--codes", type=int, default=256, help="codes of each of five frames")
    parser.add_argument("--buckets", type=int, default=BUCKETS, help="fewer, to try a step quickly")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    write_run(options.out, options.clips, options.codes, options.seed, options.buckets)


def write_run(
    out: Path, clips: int, codes: int = 256, seed: int = 0, buckets: int = BUCKETS
) -> dict[str, Table]:
    """Write run.yaml and all tables, bucket by bucket.

    Args:
        out: the run's folder.
        clips: number of clips, spread evenly over the buckets.
        codes: of each of a clip's five frames.
        seed: of all that is made up.
        buckets: that hold clips.
    """
    flow = graph.gates(row_stages(ego4d()))
    tables = {name: Table(out / "tables" / name, PRINT, gate) for name, gate in flow.items()}
    for number in range(buckets):
        count = clips // buckets + (number < clips % buckets)
        write_bucket(tables, number, count, codes, seed)
    for table in tables.values():
        write_marker(table.folder, {"fingerprint": PRINT, "finished": True, "stored": clips})
    write_marker(out / "shards", {"finished": True})
    write_flow(out, flow)
    record = {"dataset": "ego4d", "data": str(out), "config": {"select": asdict(Select())}}
    (out / "run.yaml").write_text(yaml.safe_dump(record))
    return tables


def write_bucket(tables: dict[str, Table], number: int, clips: int, codes: int, seed: int) -> None:
    """Write one bucket of every table; `select` decides on it as in a run."""
    rng, bucket = np.random.default_rng([seed, number]), f"{number:02x}"
    entered = pa.table({"clip_id": hexes(rng, clips)} | ingested(rng, bucket, clips))
    write(tables, bucket, "ingest", entered)
    decoded = passed(entered)
    searched = decoded.select(["clip_id"])
    searched = with_columns(searched, hands(rng, decoded))
    write(tables, bucket, "hands", shuffled(rng, searched))
    write(tables, bucket, "duplicates", alike(rng, passed(searched)))
    stage = Select()
    for _, rows in stage.piece(tables, [bucket]):
        tables["select"].write_columns(bucket, rows, stage.row_type)
        kept = passed(rows).select(["clip_id"])
        texts = pc.index_in(kept["clip_id"], value_set=entered["clip_id"])
        caption = captions(rng, entered["text"].take(texts))
        write(tables, bucket, "caption", shuffled(rng, with_columns(kept, caption)))
        write(
            tables, bucket, "tokens", shuffled(rng, with_columns(kept, encoded(rng, kept, codes)))
        )


def ingested(rng: Rng, bucket: str, clips: int) -> Columns:
    """Columns of the `ingest` table: 5 % too short, 1 % unreadable."""
    video = np.arange(clips) // CLIPS_A_VIDEO
    ids = pc.binary_join_element_wise(f"{bucket}-", pa.array(video).cast(pa.string()), "")
    start_s, length_s = rng.uniform(0, 3000, clips).round(3), rng.gamma(3, 1.2, clips) + 0.5
    return {
        **outcome(rng, clips, {"too_short": 0.04, "missing_file": 0.01}, 0.01),
        "dataset": repeated("ego4d", clips), "version": repeated("v2", clips),
        "split": pa.array(["train", "val"]).take(pa.array((video % 33 == 0).astype(np.int8))),
        "licence": repeated("ego4d", clips), "bucket": repeated(bucket, clips),
        "unit": ids, "video_id": ids, "start_s": start_s, "end_s": (start_s + length_s).round(3),
        "text": narrations(rng, clips), "text_kind": repeated("narration", clips),
        "media_path": pc.binary_join_element_wise("v2/full_scale/", ids, ".mp4", ""),
        "duration_s": np.full(clips, 3010.0), "fps": np.full(clips, 30.0),
        "width": np.full(clips, 1920), "height": np.full(clips, 1080),
        "codec": repeated("h264", clips),
    }  # fmt: skip


def narrations(rng: Rng, clips: int) -> pa.Array:
    """Texts such as `#C C puts the red cup on the table`, frequent words first."""
    verb, colour, thing, place = (
        pa.array(words).take(pa.array(np.minimum(rng.geometric(p, clips), len(words)) - 1))
        for words, p in ((VERBS, 0.15), (COLOURS, 0.2), (THINGS, 0.08), (PLACES, 0.12))
    )
    long = pc.binary_join_element_wise("#C C", verb, "the", colour, thing, "on the", place, " ")
    short = pc.binary_join_element_wise("#C C", verb, "the", thing, " ")
    return pc.if_else(pa.array(rng.random(clips) < 0.4), long, short)


def hands(rng: Rng, clips: pa.Table) -> Columns:
    """Columns of the `hands` table: a fifth of the clips shows no hand, some are dark or still."""
    count = clips.num_rows
    start_s, end_s = (clips[name].to_numpy() for name in ("start_s", "end_s"))
    at = start_s[:, None] + (end_s - start_s)[:, None] * (np.arange(FRAMES) + 0.5) / FRAMES
    shown = rng.random((count, FRAMES)) < np.where(rng.random(count) < 0.2, 0.01, 0.7)[:, None]
    is_dark = rng.random((count, 1)) < 0.02
    fine = rng.random((4, count, FRAMES)) * 0.6 + 0.35
    return {
        **outcome(rng, count, {}, 0.005),
        "times_s": lists(at), "detector_ran": lists(rng.random((count, FRAMES)) < 0.9),
        "hand_counts": lists(shown.astype(np.int64)),
        "confidence": lists(np.where(shown, rng.choice([0.4, 0.5, 1.0], (count, FRAMES)), 0.0)),
        "brightness": lists(np.where(is_dark, 0.02, fine[0])), "contrast": lists(fine[1]),
        "sharpness": lists(fine[2]), "flat_share": lists(fine[3] * rng.random((count, 1))),
        "change": rng.random(count) ** 0.3, "bar_share": rng.random(count) ** 8,
        "stereo_score": rng.random(count) ** 6, "picture_xyxy": lists(np.tile(WHOLE, (count, 1))),
        "shot_start_s": start_s, "shot_end_s": end_s,
    }  # fmt: skip


WHOLE = np.array([0.0, 0.0, 1.0, 1.0])


def alike(rng: Rng, clips: pa.Table) -> pa.Table:
    """The `duplicates` table: a tenth of the clips is like another one."""
    count = clips.num_rows
    near = np.where(rng.random((2, count)) < [[0.1], [0.005]], rng.random((2, count)), 0.0)
    columns = {"similarity": near[0], "leak_similarity": near[1]}
    return with_columns(clips.select(["clip_id"]), columns)


def captions(rng: Rng, texts: pa.ChunkedArray) -> Columns:
    """Columns of the `caption` table: a model's answer of every second clip, 2 % without one."""
    count = len(texts)
    caption = pc.utf8_ltrim(pc.replace_substring(texts, "#C C", ""), characters=" ")
    asked = rng.random(count) < 0.5
    flagged = rng.random(count) < 0.05
    return {
        **outcome(rng, count, {"no_text": 0.02}, 0.0),
        "caption": caption, "source": pc.if_else(pa.array(asked), "server", "source"),
        "flags": some(np.where(flagged, 1, 0), "unsure"),
        "answers": some(np.where(asked, 1, 0), "pick up the cup"),
        "answer_flags": some(np.where(asked, 1, 0), ""),
        "prompt_tokens": asked * 900, "completion_tokens": asked * 18,
        "seconds": asked * rng.random(count),
    }  # fmt: skip


def encoded(rng: Rng, clips: pa.Table, codes: int) -> Columns:
    """Columns of the `tokens` table: five frames of a square of codes, 1 % failed."""
    count, side = clips.num_rows, round(codes**0.5)
    values = rng.integers(0, 1024, (count, 5 * side * side), np.uint16)
    offsets = np.arange(count + 1, dtype=np.int32) * (10 * side * side)
    binary = pa.Array.from_buffers(
        pa.binary(), count, [None, pa.py_buffer(offsets), pa.py_buffer(values.tobytes())]
    )
    return {
        **outcome(rng, count, {}, 0.01),
        "codes": binary, "shape": lists(np.tile(np.array([1, 5, side, side]), (count, 1))),
        "times_s": lists(rng.random((count, 5))),
        "width": np.full(count, 1920), "height": np.full(count, 1080),
    }  # fmt: skip


def outcome(rng: Rng, clips: int, reasons: dict[str, float], failed: float) -> Columns:
    """Columns `status`, `reason` and `error`."""
    names = ["", *reasons, "failed"]
    shares = [1 - failed - sum(reasons.values()), *reasons.values(), failed]
    drawn = rng.choice(len(names), clips, p=shares)
    status = pa.array(["ok", *["rejected"] * len(reasons), "failed"]).take(pa.array(drawn))
    reason = pa.array([*names[:-1], ""]).take(pa.array(drawn))
    errors = ["" for _ in names[:-1]] + ["a.mp4: moov atom not found"]
    return {"status": status, "reason": reason, "error": pa.array(errors).take(pa.array(drawn))}


def write(tables: dict[str, Table], bucket: str, name: str, rows: pa.Table) -> None:
    """Write a bucket of a table; columns that are not given are as their type has nothing."""
    kind, count = KINDS[name], rows.num_rows
    has_default = {f.name for f in fields(kind) if f.default is not MISSING}
    for field in arrow_schema(kind):
        if field.name not in has_default.union(rows.column_names):
            rows = rows.append_column(field.name, empty(field.type, count))
    tables[name].write_columns(bucket, rows, kind)


def empty(kind: pa.DataType, count: int) -> pa.Array:
    """So many empty values of a type."""
    if pa.types.is_list(kind):
        return pa.array([[]], kind).take(pa.array(np.zeros(count, np.int8)))
    if pa.types.is_string(kind) or pa.types.is_binary(kind):
        return pa.repeat(pa.scalar("", pa.string()), count).cast(kind)
    return pa.array(np.zeros(count)).cast(kind)


def hexes(rng: Rng, count: int) -> pa.Array:
    """Ids of 20 hex digits."""
    offsets = np.arange(count + 1, dtype=np.int32) * 20
    text = rng.bytes(10 * count).hex().encode()
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(text)]
    return pa.Array.from_buffers(pa.string(), count, buffers)


def lists(values: npt.NDArray[Any]) -> pa.Array:
    """A list for each row of an array."""
    rows, width = values.shape
    return pa.ListArray.from_arrays(np.arange(rows + 1, dtype=np.int32) * width, values.ravel())


def some(counts: npt.NDArray[np.int64], word: str) -> pa.Array:
    """Lists of so many times a word."""
    offsets = np.append(0, np.cumsum(counts)).astype(np.int32)
    return pa.ListArray.from_arrays(offsets, repeated(word, int(offsets[-1])))


def repeated(word: str, count: int) -> pa.Array:
    """So many times the same word."""
    return pa.repeat(pa.scalar(word), count)


def with_columns(rows: pa.Table, columns: Columns) -> pa.Table:
    """The rows with further columns."""
    for name, values in columns.items():
        rows = rows.append_column(name, values if isinstance(values, pa.Array | pa.ChunkedArray)
                                  else pa.array(values))  # fmt: skip
    return rows


def passed(rows: pa.Table) -> pa.Table:
    """The rows `ok`."""
    return rows.filter(pc.equal(rows["status"], "ok"))


def shuffled(rng: Rng, rows: pa.Table) -> pa.Table:
    """The rows in another order, as workers leave them."""
    return rows.take(pa.array(rng.permutation(rows.num_rows)))


if __name__ == "__main__":
    main()
