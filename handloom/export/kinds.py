"""Which episodes of a run become one dataset, where a format wants them to be alike."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pyarrow as pa

from handloom.errors import UserError
from handloom.export.listing import Kind, Listing
from handloom.export.options import EpisodeExport


def choose(listing: Listing, options: EpisodeExport, name: str) -> Listing:
    """The episodes of one kind, which is the only one of the listing; it says which are left out.

    Args:
        listing: all kept clips of a run.
        options: cameras and kind.
        name: of the format, for messages.

    Raises:
        UserError: the run has no episodes, or several kinds of which none is chosen.
    """
    if not listing.kinds:
        raise UserError(
            f"{options.out} holds videos of people, which have no states and actions, and {name} "
            f"holds robot episodes; `handloom export webdataset {options.out} {options.dest}` "
            "writes videos, and `handloom export parquet` a table of them."
        )
    kinds = [_of_views(kind, options) for kind in listing.kinds]
    numbers = listing.numbers("kind").tolist()
    counts = Counter(kind for number in numbers if (kind := kinds[number]))
    if not counts:
        known = sorted({view for kind in listing.kinds for view in kind.views})
        raise UserError(
            f"no kept episode has the cameras {' '.join(options.views)}; there are "
            f"{' '.join(known)}."
        )
    kind = _one_of(list(counts), counts, options)
    keep = np.array([kinds[number] == kind for number in numbers])
    if left_out := len(listing) - counts[kind]:
        print(f"{left_out:,} of {len(listing):,} kept episodes are of other kinds and are left out")
    rows = listing.only(keep).rows
    at = rows.column_names.index("kind")
    rows = rows.set_column(at, "kind", pa.array(np.zeros(len(rows), np.int64)))
    return Listing(rows, listing.texts, [kind])


def _of_views(kind: Kind, options: EpisodeExport) -> Kind | None:
    """The kind with the wanted cameras alone; None where it lacks one."""
    if not options.views:
        return kind
    if not set(options.views) <= set(kind.views):
        return None
    # The stated size is that of the main camera, which may not be among them.
    size = kind.size if kind.views[0] == options.views[0] else (0, 0)
    return replace(kind, views=options.views, size=size)


def _one_of(kinds: list[Kind], counts: Counter[Kind], options: EpisodeExport) -> Kind:
    if len(kinds) == 1 and not options.kind:
        return kinds[0]
    if 0 < options.kind <= len(kinds):
        return kinds[options.kind - 1]
    told = "; ".join(
        f"kind {i}, {counts[kind]:,} episodes: {kind}" for i, kind in enumerate(kinds, 1)
    )
    what = f"--kind {options.kind} is none of them" if options.kind else "a dataset holds only one"
    raise UserError(
        f"the kept episodes are of {len(kinds)} kinds, and {what} ({told}); choose with --kind "
        "NUMBER, or with --views the cameras that all of them have."
    )
