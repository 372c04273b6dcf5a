"""Tables that hold other rows than they were finished with: somebody deleted or copied parts."""

from collections.abc import Iterator

from handloom.stages.tables.parts import Table, Tables, read_marker


def altered_rows(tables: Tables) -> Iterator[str]:
    """A sentence on each table that lacks rows, or has more."""
    for stage, table in tables.items():
        marker = read_marker(table.folder)
        stored = marker.get("stored")
        is_current = marker.get("finished") and marker.get("fingerprint") == table.fingerprint
        if not is_current or not isinstance(stored, int):
            continue
        rows = table.row_count()
        if rows < stored:
            yield (
                f"{stage}: {stored - rows:,} of {stored:,} rows are gone, since parts in "
                f"{table.folder} were deleted; `handloom curate` with the same arguments as before "
                "computes them again"
            )
        elif rows > stored:
            more = f"{rows - stored:,} rows more than the {stored:,} of the run"
            yield f"{stage}: {more}, {_of(table)}"


def _of(table: Table) -> str:
    """Where the further rows of a table come from, and what to do."""
    if (names := _parts_alike(table)) is None:
        return (
            f"of clips that it has no other rows of; remove the parts in {table.folder} that were "
            "put there from elsewhere"
        )
    return (
        f"since {names[1]} in {table.folder} has clips of {names[0]} again; remove the copy, or "
        "`handloom curate` with the same arguments as before keeps each clip once"
    )


def _parts_alike(table: Table) -> tuple[str, str] | None:
    """Names of two parts of a bucket that have rows of one clip; None where there are none."""
    found = table.listed()
    for bucket in found.buckets():
        part_of: dict[str, str] = {}
        for path in found.parts(bucket):
            ids = found.of_parts([path]).columns(["clip_id"])["clip_id"].to_pylist()
            known = next((part_of[clip_id] for clip_id in ids if clip_id in part_of), None)
            if known is not None:
                return known, path.name
            part_of.update(dict.fromkeys(ids, path.name))
    return None
