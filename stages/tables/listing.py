"""Which files are the parts of a table, also while some of them are replaced by one.

    _replaced.json    {new part: [names of the files whose rows it holds]}

A part that replaces others lies there whole as `<name>.merging`, then the record above is written,
then the others are removed, then it gets its name. Where the record is the same before and after a
folder was listed, the listing and the record together name every row once: a file that the record
names as replaced is passed over, and what replaces it is there under one of its two names.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from handloom.files import read_facts, rename, write_text
from handloom.listings import forget_listings
from handloom.places import is_remote, listdir

REPLACED = "_replaced.json"
MERGING = ".merging"


def part_names(folder: Path, fingerprint: str, bucket: str = "*") -> list[str]:
    """Names of the files that hold the rows of a bucket, or of all, under a fingerprint; sorted."""
    names, replaced = _settled(folder)
    present, prefix = set(names), fingerprint[:12]
    gone = {name for sources in replaced.values() for name in sources}
    found = {name for name in names if name.endswith(".parquet") and name not in gone}
    found.update(_present_name(folder, name, present) for name in replaced)
    return sorted(name for name in found if name and _is_of(name, bucket, prefix))


def _present_name(folder: Path, name: str, present: set[str]) -> str:
    """The name that a part has now which replaces others; empty where somebody deleted it."""
    if name in present:
        return name
    # It may have been renamed while the folder was listed.
    names = [name + MERGING, name]
    return next((one for one in names if one in present or (folder / one).exists()), "")


def _is_of(name: str, bucket: str, prefix: str) -> bool:
    of_bucket, _, rest = name.partition("-")
    return bucket in ("*", of_bucket) and rest.startswith(f"{prefix}-")


def _settled(folder: Path) -> tuple[list[str], Mapping[str, list[str]]]:
    """The names in a folder and the record of what is replaced, as they were at one moment."""
    record = folder / REPLACED
    before = {} if is_remote(folder) else _replaced(record)
    while True:
        names = file_names(folder)
        is_recorded = not is_remote(folder) or REPLACED in names
        after = _replaced(record) if is_recorded else {}
        if after == before:
            return names, after
        before = after
        forget_listings(folder)


def _replaced(record: Path) -> dict[str, list[str]]:
    """The record, without what no handloom wrote there."""
    stored = read_facts(record).items()
    return {name: sources for name, sources in stored if isinstance(sources, list)}


def file_names(folder: Path) -> list[str]:
    """Names of all that is in a folder; none where there is no folder."""
    try:
        return listdir(folder)
    except FileNotFoundError:
        return []


def replace_files(folder: Path, replaced: Mapping[str, Sequence[str]]) -> None:
    """Let parts that lie there as `<name>.merging` take the place of others.

    Args:
        folder: of the table.
        replaced: names of the files whose rows they hold, by their own name.
    """
    if not replaced:
        return
    write_text(folder / REPLACED, json.dumps({key: list(replaced[key]) for key in replaced}))
    for name, sources in replaced.items():
        _replace(folder, name, sources)


def _replace(folder: Path, name: str, sources: Sequence[str]) -> None:
    for source in sources:
        (folder / source).unlink(missing_ok=True)
    rename(folder / (name + MERGING), folder / name)


def go_on_replacing(folder: Path) -> None:
    """Let those parts take the place of others that a killed process has recorded."""
    for name, sources in _replaced(folder / REPLACED).items():
        if (folder / (name + MERGING)).exists():
            _replace(folder, name, sources)


def merging(folder: Path) -> Iterator[Path]:
    """Parts that a killed run has left under the name that they have before they replace others."""
    yield from sorted(folder.glob(f"*.parquet{MERGING}"))


def end_replacing(folder: Path) -> None:
    """Remove the record, once nothing is being replaced.

    A worker that was given up for lost may have written a part again that had been replaced.
    """
    record = _replaced(folder / REPLACED)
    if not record:
        return
    forget_listings(folder)
    present = set(file_names(folder))
    for name, sources in record.items():
        for source in present.intersection(sources) if name in present else ():
            (folder / source).unlink()
    (folder / REPLACED).unlink(missing_ok=True)
