"""`handloom export`: from a finished run to a folder in a format that others read."""

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa

import handloom
from handloom.errors import RunError, UserError
from handloom.export import card, croissant
from handloom.export.clips import Pictures, open_pictures
from handloom.export.folder import Folder, Plan, begin, check, claimed, file_facts
from handloom.export.format import Format, Job
from handloom.export.lerobot.dataset import LeRobot
from handloom.export.listing import Listing, list_clips
from handloom.export.options import (
    PLACES,
    ExportOptions,
    LeRobotExport,
    ParquetExport,
    RldsExport,
    WebDatasetExport,
)
from handloom.export.parquet import Parquet
from handloom.export.parts import cut
from handloom.export.rlds import Rlds
from handloom.export.webdataset import WebDataset
from handloom.export.workers import Task, write_parts
from handloom.files import write_text
from handloom.places import check_bucket
from handloom.stages.ingest import card as ingest_card
from handloom.stages.tables.altered import altered_rows
from handloom.stages.tables.parts import Tables, open_tables, read_flow, read_marker, stage_folder

EVERY_S = 5.0


def lerobot(options: LeRobotExport) -> None:
    """Export robot episodes as a LeRobot dataset."""
    export(options, LeRobot(options))


def webdataset(options: WebDatasetExport) -> None:
    """Export clips or episodes as WebDataset tars."""
    export(options, WebDataset(options))


def parquet(options: ParquetExport) -> None:
    """Export clips or episodes as Parquet."""
    export(options, Parquet(options))


def rlds(options: RldsExport) -> None:
    """Export robot episodes as RLDS."""
    export(options, Rlds(options))


def export(options: ExportOptions, form: Format) -> None:
    """Write an export, go on with one, or say that it is there.

    Raises:
        UserError: the run is not finished, its media are not there, or DEST is something else's.
        RunError: the run was changed meanwhile.
        MediaError: a clip cannot be read any more.
    """
    out, dest = options.out.absolute(), options.dest.absolute()
    for place in (out, dest):
        check_bucket(place)
    tables = open_finished(out)
    check(dest)
    pictures = open_pictures(out, options.data) if form.opens_media else None
    _refuse_inside(dest, out, pictures)
    state = run_state(tables)
    listing = form.select(_without(list_clips(tables, form.rate), options.leave_out))
    with claimed(dest):
        begun = begin(dest, _plan(out, state, options, form), _missing(listing, pictures, options))
        if begun is None:
            print(f"{dest} holds this export already; nothing is left to do")
            return
        folder, left_out = begun
        listing = _without(listing, left_out)
        job = Job(out, dest, tables, listing, cut(listing, form.limits), pictures)
        _write_parts(Task(job, form, folder, options.data), options.workers)
        _check_unchanged(out, state)
        _finish(job, form, folder, left_out)
    _print_licences(listing, tables)
    print(f"{len(listing):,} {'episodes' if listing.kinds else 'clips'}: {dest}")


def open_finished(out: Path) -> Tables:
    """The tables of a run that is finished.

    Raises:
        UserError: it is not, or lacks rows.
    """
    tables = open_tables(out)
    stages = [*(read_flow(out) or tables), "pack"]
    unfinished = [
        name for name in stages if not read_marker(stage_folder(out, name)).get("finished")
    ]
    if unfinished:
        raise UserError(
            f"{out} is not finished ({', '.join(unfinished)}), expected a finished run; give "
            "`handloom curate` the same arguments as before, and it goes on."
        )
    if altered := list(altered_rows(tables)):
        raise UserError(f"{'; '.join(altered)}. An export waits for that.")
    return tables


def run_state(tables: Tables) -> dict[str, str]:
    """A digest of each table's parts: what an export was made from."""
    return {
        name: f"{table.fingerprint[:12]}-{table.state()[:12]}" for name, table in tables.items()
    }


def _plan(out: Path, state: dict[str, str], options: ExportOptions, form: Format) -> Plan:
    told = {name: value for name, value in asdict(options).items() if name not in PLACES}
    told = {n: list(value) if isinstance(value, tuple) else value for n, value in told.items()}
    return {
        "format": form.name, "form": form.form, "handloom": handloom.__version__,
        "run": str(out), "state": state, "options": told,
    }  # fmt: skip


def _refuse_inside(dest: Path, out: Path, pictures: Pictures | None) -> None:
    """Refuse a folder inside the run's tables or data, where the next run would find it."""
    data = pictures.data.absolute() if pictures else None
    for place in (out / "tables", out / "shards", data):
        if place is not None and (place == dest or place in dest.parents):
            raise UserError(f"{dest} lies in {place}; name a folder outside of it.")


def _missing(listing: Listing, pictures: Pictures | None, options: ExportOptions) -> list[str]:
    """Ids of clips whose file is gone.

    Raises:
        UserError: there are some, and they are not to be left out.
    """
    if pictures is None:
        return []
    paths = listing.rows["media_path"].combine_chunks().dictionary_encode()
    gone = np.array([not (pictures.data / path).exists() for path in paths.dictionary.to_pylist()])
    names = [
        path for path, is_gone in zip(paths.dictionary.to_pylist(), gone, strict=True) if is_gone
    ]
    ids: list[str] = (
        listing.rows["clip_id"].filter(pa.array(gone[paths.indices.to_numpy()])).to_pylist()
    )
    if ids and not options.skip_missing:
        raise UserError(
            f"{len(names):,} of {len(gone):,} files that the kept clips are from are not in "
            f"{pictures.data} any more (first {names[0]}); put them back, name the folder that "
            f"they are in with --data, or leave their {len(ids):,} clips out with --skip-missing."
        )
    return ids


def _without(listing: Listing, left_out: Sequence[str]) -> Listing:
    if not left_out:
        return listing
    gone = set(left_out)
    rest = listing.only([name not in gone for name in listing.rows["clip_id"].to_pylist()])
    if not len(rest):
        raise UserError("all kept clips are left out, so that nothing would be exported.")
    return rest


def _write_parts(task: Task, workers: int) -> None:
    """Write the parts that are not there yet, and say now and then how far it is."""
    parts, told_s = task.job.parts, time.monotonic()
    total = len(task.job.listing)
    written = sum(p.stop - p.start for p in parts if task.folder.part(p.number))
    for part in write_parts(task, workers):
        written += part.stop - part.start
        if time.monotonic() - told_s > EVERY_S:
            print(f"{written:,} of {total:,} clips written", flush=True)
            told_s = time.monotonic()


def _print_licences(listing: Listing, tables: Tables) -> None:
    """Say under which terms the clips came, since an export is made to be passed on."""
    classes = sorted(set(listing.rows["licence"].to_pylist()))
    terms = ingest_card.read(tables["ingest"].folder).get("terms", "")
    print(f"licence: {', '.join(classes)}. {terms}".strip())


def _check_unchanged(out: Path, state: dict[str, str]) -> None:
    if run_state(open_tables(out)) != state:
        raise RunError(
            f"{out} was changed by another command while it was exported, so that the clips would "
            "not fit together; remove the export and begin again."
        )


def _finish(job: Job, form: Format, folder: Folder, left_out: Sequence[str]) -> None:
    """Write what the format has beside its parts, the card, its metadata, and the manifest."""
    records = [folder.part(part.number) for part in job.parts]
    more = [*form.finish(job, records), *card.write_pictures(job)]
    told = card.facts(job, form, left_out)
    for name, text in (
        (card.NAME, card.page(told, form, job)),
        (croissant.NAME, croissant.text(told, form, job)),
    ):
        write_text(job.dest / name, text)
        more.append(job.dest / name)
    files = [one for record in records for one in record["files"]]
    files += [file_facts(path, job.dest) for path in more]
    folder.finish(told | {"missing": list(left_out), "files": files})
