"""Tables of a run in every state that a run may leave: rows missing, too many, twice, in any order.

Clips, videos, texts and outcomes are drawn at random; the same seed gives the same tables.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from handloom.stages.caption.rows import CaptionRow
from handloom.stages.duplicates.rows import DuplicateRow
from handloom.stages.media.clip_frames import whole
from handloom.stages.select import SelectRow
from handloom.stages.tables.parts import Table, write_flow, write_marker
from handloom.stages.tables.rows import Clip, Row
from handloom.stages.tokens import TokenRow
from tests.helpers.recorded_runs import FINGERPRINT, FLOW, clip_row, hands_row

BUCKETS = "00", "3f", "ff"
REASONS = "dark", "still", "no_hands"
Rng = np.random.Generator


def random_run(out: Path, seed: int, clips: int = 60) -> dict[str, Table]:
    """Write the tables of a run that may not be finished."""
    rng = np.random.default_rng(seed)
    tables = {name: Table(out / "tables" / name, FINGERPRINT, gate) for name, gate in FLOW.items()}
    for bucket in BUCKETS:
        entered = [with_outcome(clip(rng, bucket, number), rng) for number in range(clips)]
        for name, table in tables.items():
            rows: list[Row] = [*entered] if name == "ingest" else stage_rows(name, entered, rng)
            write_parts(table, bucket, rows, rng)
    for table in tables.values():
        write_marker(table.folder, {"fingerprint": FINGERPRINT, "finished": True})
    write_flow(out, FLOW)
    return tables


def write_parts(table: Table, bucket: str, rows: list[Row], rng: Rng) -> None:
    """Write rows in up to three parts."""
    parts = int(rng.integers(1, 4))
    for number in range(parts):
        if part := rows[number::parts]:
            table.write(bucket, f"{number}", part, type(part[0]))


def stage_rows(name: str, clips: list[Clip], rng: Rng) -> list[Row]:
    """A stage's rows of most clips, whatever its gate says, some of them twice."""
    some = [one for one in clips if rng.random() < 0.95]
    some += [one for one in clips if rng.random() < 0.05]
    rng.shuffle(some)  # type: ignore[arg-type]
    return [with_outcome(row_of(name, one, rng), rng) for one in some]


def row_of(name: str, one: Clip, rng: Rng) -> Row:
    """A stage's row of a clip, with values drawn at random."""
    if name == "hands":
        return replace(hands_row(one, whole(one)), shot_end_s=one.end_s - 0.25)
    if name == "duplicates":
        return DuplicateRow(clip_id=one.clip_id, similarity=0.0, leak_similarity=0.0, matches=[])
    if name == "caption":
        return caption(one, rng)
    if name == "tokens":
        codes = rng.integers(0, 99, 8, np.uint16).tobytes()
        return TokenRow(clip_id=one.clip_id, codes=codes, shape=[1, 2, 2, 2], times_s=[1.0, 2.5])
    numbers = {f: rng.random() for f in SelectRow.__annotations__ if f != "searched_frames"}
    return SelectRow(clip_id=one.clip_id, searched_frames=4, **numbers)


def caption(one: Clip, rng: Rng) -> CaptionRow:
    """A caption with flags, of up to two answers."""
    flags = ["unsure", "echo too_long", "", "refusal"]
    answers = int(rng.integers(0, 3))
    return CaptionRow(
        clip_id=one.clip_id, caption=f"lift {rng.integers(9)}", flags=flags[: rng.integers(0, 2)],
        source=str(rng.choice(["source", "server"])), answers=["a"] * answers,
        answer_flags=[str(rng.choice(flags)) for _ in range(answers)],
        prompt_tokens=int(rng.integers(9)), completion_tokens=int(rng.integers(9)),
        seconds=float(rng.random()), agreement=float(rng.random()) if rng.random() < 0.5 else None,
    )  # fmt: skip


def clip(rng: Rng, bucket: str, number: int) -> Clip:
    """A clip of one of six videos of a bucket, a sixth of them held out."""
    video = int(rng.integers(6))
    start_s = float(rng.integers(0, 50)) + 0.1
    more: dict[str, Any] = {
        "bucket": bucket, "video_id": f"{bucket}-{video}", "unit": f"{bucket}-{number}",
        "split": "val" if video == 5 else "train", "licence": "a",
        "text": f"#C C {rng.choice(['lifts', 'cuts'])} the {rng.choice(['cup', 'Öl', 'x-y'])}",
    }  # fmt: skip
    return clip_row(rng.bytes(10).hex(), start_s, start_s + 0.3 + rng.random(), **more)


def with_outcome(row: Any, rng: Rng) -> Any:
    """The row ok, rejected or failed."""
    drawn = rng.random()
    if drawn < 0.85:
        return row
    if drawn < 0.95:
        return replace(row, status="rejected", reason=str(rng.choice(REASONS)))
    return replace(row, status="failed", error="a.mp4: moov atom not found", attempts=2)
