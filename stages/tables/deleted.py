"""Tables that hold fewer rows than they were finished with: somebody deleted parts."""

from collections.abc import Iterator

from handloom.stages.tables.parts import Tables, read_marker


def deleted_rows(tables: Tables) -> Iterator[str]:
    """A sentence on each table that lacks rows."""
    for stage, table in tables.items():
        marker = read_marker(table.folder)
        stored = marker.get("stored", 0)
        if not marker.get("finished") or marker.get("fingerprint") != table.fingerprint:
            continue
        rows = table.row_count()
        if rows < stored:
            yield (
                f"{stage}: {stored - rows:,} of {stored:,} rows are gone, since parts in "
                f"{table.folder} were deleted; `handloom curate` with the same arguments as before "
                "computes them again"
            )
