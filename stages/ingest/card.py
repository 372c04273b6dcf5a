"""The dataset card: what a run took in, of which releases, and on what terms."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from handloom.files import read_facts, write_text
from handloom.stages.ingest.episodes import EpisodeIngest
from handloom.stages.ingest.probes import Probe, probe_table
from handloom.stages.ingest.videos import Ingest
from handloom.stages.tables.parts import Table
from handloom.stages.tables.rows import Row

NAME = "card.json"
FORM = 2  # raised whenever the same tables would give another card


# What a file may have that simple readers get wrong: they read other pictures, or other times.
ODDITIES: dict[str, Callable[[Probe], bool]] = {
    "an edit list": lambda probe: probe.is_cut,
    "a late picture": lambda probe: probe.start_s > LATE_S,
    "a turned picture": lambda probe: probe.rotation != 0,
    "a mirrored picture": lambda probe: probe.is_mirrored,
    "a variable rate": lambda probe: probe.is_variable,
    "an offset": lambda probe: abs(probe.offset_s) > LATE_S,
}
LATE_S = 0.1
MANY_ODD = 0.01  # of the files: from here on a line warns


@dataclass(frozen=True, kw_only=True)
class _Facts(Row):
    """The columns of the clips table that the card counts."""

    version: str
    split: str
    licence: str
    unit: str
    text: str
    media_path: str
    start_s: float
    end_s: float


@dataclass
class _Counts:
    versions: Counter[str] = field(default_factory=Counter)
    licences: Counter[str] = field(default_factory=Counter)
    rows: dict[str, Counter[str]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    reasons: Counter[str] = field(default_factory=Counter)
    units: Counter[str] = field(default_factory=Counter)
    with_text: int = 0

    def add(self, row: _Facts) -> None:
        self.versions[row.version] += 1
        self.licences[row.licence] += 1
        self.rows.setdefault(row.split, Counter())[row.status] += 1
        self.with_text += bool(row.text.strip())
        if row.status == "ok":
            so_far = self.seconds.get(row.split, 0.0)
            self.seconds[row.split] = so_far + row.end_s - row.start_s
        elif row.status == "rejected":
            self.reasons[row.reason] += 1


def write(table: Table, ingest: Ingest | EpisodeIngest, cache: Path) -> None:
    """Write `card.json` beside the parts of the clips table, whole or not at all.

    Where neither the tables nor the dataset's terms have changed since, nothing is counted again.
    """
    told = _told(ingest) | {"state": _state(table, cache)}
    card = read(table.folder)
    if card | told == card:
        return
    counted = _counted(table, {} if isinstance(ingest, EpisodeIngest) else _media(cache))
    write_text(table.folder / NAME, json.dumps(told | counted, indent=2) + "\n")


def read(folder: Path) -> dict[str, Any]:
    """The card of a clips table; {} where there is none."""
    return read_facts(folder / NAME)


def _told(ingest: Ingest | EpisodeIngest) -> dict[str, str]:
    """What is known of the dataset without reading a table."""
    return {
        "dataset": ingest.dataset,
        "format": ingest.format,
        "terms": "As told by --ingest.licence." if ingest.licence else ingest.adapter.terms,
        "obtained": ingest.adapter.how_to_get,
        "text_kind": ingest.adapter.text_kind,
        "unit": "episode" if isinstance(ingest, EpisodeIngest) else "media file",
    }


def _state(table: Table, cache: Path) -> str:
    """What a card was counted from."""
    return f"{FORM}-{table.state()}-{probe_table(cache).state()}"


def _counted(table: Table, media: dict[str, Any]) -> dict[str, Any]:
    counts = _count(table)
    return {
        "versions": sorted(counts.versions),
        "licences": dict(counts.licences),
        "units": dict(counts.units),
        "rows": {split: dict(found) for split, found in sorted(counts.rows.items())},
        "rows_with_text": counts.with_text,
        "usable_hours": {s: round(n / 3600, 4) for s, n in sorted(counts.seconds.items())},
        "rejected": dict(counts.reasons.most_common()),
        "media": media,
    }


def _count(table: Table) -> _Counts:
    """One pass over the table, bucket by bucket: all rows of a unit lie in one bucket."""
    counts = _Counts()
    for bucket in table.buckets():
        state: dict[str, str] = {}
        for row in table.read(_Facts, bucket):
            counts.add(row)
            missing = not row.media_path or row.reason == "missing_file"
            state[row.unit] = "missing" if missing else "present"
            if row.status == "failed":
                state[row.unit] = "unreadable"
        counts.units.update(state.values())
        counts.units["annotated"] += len(state)
    return counts


def _media(cache: Path) -> dict[str, Any]:
    """Codecs, sizes and rates of the files that were probed."""
    found = {name: Counter[str]() for name in ("codecs", "sizes", "fps")}
    seconds, odd = 0.0, Counter[str]()
    for probe in probe_table(cache).read(Probe):
        if probe.status == "ok":
            found["codecs"][probe.codec] += 1
            found["sizes"][f"{probe.width}x{probe.height}"] += 1
            found["fps"][f"{probe.fps:.2f}"] += 1
            seconds += probe.duration_s
            odd.update(name for name, is_so in ODDITIES.items() if is_so(probe))
    common = {name: dict(counter.most_common(12)) for name, counter in found.items()}
    return {"hours": round(seconds / 3600, 4), **common, "odd": dict(odd)}


def lines(card: dict[str, Any]) -> list[tuple[str, str]]:
    """The card as labelled sentences, for the report."""
    if not card:
        return []
    units = card["units"]
    rows = [
        f"{split}: " + ", ".join(f"{n:,} {status}" for status, n in found.items())
        for split, found in card["rows"].items()
    ]
    hours = ", ".join(f"{split} {n:.2f}" for split, n in card["usable_hours"].items())
    present = units.get("annotated", 0) - units.get("missing", 0)
    return [
        ("dataset", f"{card['dataset']} (releases found: {', '.join(card['versions'])})"),
        ("licence", f"{', '.join(card['licences'])}. {card['terms']}"),
        (
            f"{card['unit']}s",
            f"{present:,} present of {units.get('annotated', 0):,} annotated, "
            f"{units.get('unreadable', 0):,} unreadable",
        ),
        ("rows", "; ".join(rows)),
        ("usable hours", hours or "none"),
        ("odd files", "; ".join(_odd_files(card)) or "none"),
    ]


def warnings(card: dict[str, Any]) -> list[str]:
    """A sentence where many files are such as other programs read wrongly."""
    media = card.get("media", {})
    files = sum(media.get("codecs", {}).values())
    many = [name for name, n in media.get("odd", {}).items() if n > MANY_ODD * files]
    if not many:
        return []
    told = ", ".join(line for line in _odd_files(card) if any(line.endswith(n) for n in many))
    return [
        f"ingest: of {files:,} files {told}; their pictures and times are those that players show, "
        "which other programs may read differently"
    ]


def _odd_files(card: dict[str, Any]) -> list[str]:
    """How many files have what, the most frequent first."""
    odd = card.get("media", {}).get("odd", {})
    return [f"{n:,} with {name}" for name, n in sorted(odd.items(), key=lambda pair: -pair[1])]
