"""Output folders as `handloom curate` leaves them, from rows that a test makes."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from handloom.stages.hands.rows import HandRow
from handloom.stages.hands.stage import Hands
from handloom.stages.media.clip_frames import Framing
from handloom.stages.tables.parts import Table, write_flow, write_marker
from handloom.stages.tables.rows import Clip, Row

FINGERPRINT = "ab" * 32
FLOW = {
    "ingest": "", "hands": "ingest", "duplicates": "hands", "select": "hands",
    "caption": "select", "tokens": "select",
}  # fmt: skip


def write_run(
    out: Path, data: Path, tables: dict[str, Iterable[Row]], ingest: dict[str, Any] | None = None
) -> Path:
    """Write run.yaml, with the options of `ingest`, and a table for each stage; if these are all,
    the gates too."""
    for stage, rows in tables.items():
        write_table(out, stage, rows)
    record = {"dataset": "ego4d", "data": str(data), "config": {"ingest": ingest or {}}}
    (out / "run.yaml").write_text(yaml.safe_dump(record))
    if tables.keys() >= FLOW.keys():
        write_flow(out, FLOW)
    return out


def write_table(out: Path, stage: str, rows: Iterable[Row], fingerprint: str = FINGERPRINT) -> None:
    """Write one table, anew, in one part; rows of one type."""
    rows = list(rows)
    table = Table(out / "tables" / stage, fingerprint)
    table.write("00", "0", rows, type(rows[0]))
    write_marker(table.folder, {"fingerprint": FINGERPRINT, "finished": True})


def clip_row(name: str, start_s: float, end_s: float, **more: Any) -> Clip:
    """A clip of videos/a.mp4, or of another file."""
    row: dict[str, Any] = {
        "clip_id": name, "video_id": f"v-{name}", "unit": f"v-{name}", "split": "train",
        "start_s": start_s, "end_s": end_s, "media_path": "videos/a.mp4", "fps": 10.0,
        "duration_s": end_s, "text": "#C C lifts a cup", "text_kind": "narration",
        "dataset": "ego4d", "version": "v2", "licence": "none", "bucket": "00",
    }  # fmt: skip
    return Clip(**row | more)


def hands_row(clip: Clip, framing: Framing) -> HandRow:
    """A row of the `hands` table of a clip without hands that is framed like this."""
    (empty,) = Hands().failed("", clip)
    return replace(
        empty,
        status="ok",
        shot_start_s=framing.shot_start_s,
        shot_end_s=framing.shot_end_s,
        picture_xyxy=framing.picture_xyxy,
    )
