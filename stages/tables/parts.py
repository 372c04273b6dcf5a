"""Stage tables on disk: parts of Parquet, written whole, and a marker written last.

    tables/<stage>/<bucket>-<fingerprint>-<batch>.parquet
    tables/<stage>/_stage.json
    tables/_flow.json        the gate of every stage, in the order of the data flow

A clip lies in the bucket of its video, the same one in every table, so tables are joined and
resumed bucket by bucket in bounded memory. Only parts that carry the current fingerprint count.
Readers such as pyarrow and DuckDB skip names that begin with an underscore.
"""

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from handloom.errors import RunError, UserError, first_line
from handloom.files import read_facts, remove_temporaries, remove_tree, write_text
from handloom.listings import forget_listings
from handloom.places import paths_of
from handloom.stages.tables.counts import row_counts
from handloom.stages.tables.folds import is_fold, leaves_of, read_leaves
from handloom.stages.tables.listing import file_names, part_names
from handloom.stages.tables.reading import check_types, columns_of, damage_named, read_columns
from handloom.stages.tables.rows import Row, arrow_schema
from handloom.stages.tables.texts import storable_name
from handloom.stages.tables.writing import encoded, ipc_bytes, keep, remove_part, replace_part

FLOW = "_flow.json"
BUCKETS = 256  # 38 million clips make 150,000 rows a bucket, about 150 MB of clip metadata

READ_AGAIN = 5  # times that a bucket is read, while its parts are replaced

R = TypeVar("R", bound=Row)
T = TypeVar("T")


def bucket_of(name: str) -> str:
    """Bucket of a source video, or of a robot episode's unit, and of its clips: two hex digits."""
    digest = hashlib.blake2b(storable_name(name).encode(), digest_size=4).digest()
    return f"{int.from_bytes(digest, 'big') % BUCKETS:02x}"


@dataclass(frozen=True)
class Table:
    """One stage's table under one fingerprint."""

    folder: Path
    fingerprint: str
    gate: str = ""
    """The stage whose `ok` rows say which clips come to this one; empty for `ingest`."""

    def parts(self, bucket: str = "*") -> list[Path]:
        """Part files of this fingerprint, sorted by name."""
        return paths_of(self.folder, part_names(self.folder, self.fingerprint, bucket))

    def buckets(self) -> list[str]:
        """Buckets that hold at least one part."""
        return sorted({path.name.split("-")[0] for path in self.parts()})

    def part(self, bucket: str, batch: str) -> Path:
        """The file of one batch's rows."""
        return self.folder / f"{bucket}-{self.fingerprint[:12]}-{batch}.parquet"

    def part_values(self, bucket: str, batch: str, column: str) -> list[str] | None:
        """A string column of one batch's rows; None where they are not written."""
        return self._reading([bucket], lambda: self._part_values(bucket, batch, column))

    def _part_values(self, bucket: str, batch: str, column: str) -> list[str] | None:
        path = self.part(bucket, batch)
        if path.exists():
            rows = columns_of(path, [column])
        else:
            folds = filter(is_fold, (part.name for part in self.parts(bucket)))
            leaves = [leaf for name in folds for leaf in leaves_of(self.folder / name)]
            leaf = next((leaf for leaf in leaves if leaf.name == path.name), None)
            if leaf is None:
                return None
            ((_, rows),) = read_leaves([leaf])
        values: list[str] = rows[column].to_pylist()
        return values

    def row_count(self) -> int:
        """Number of rows, from the parts' metadata alone."""
        return self._reading(None, lambda: sum(row_counts(self.folder, self.parts()).values()))

    def clip_count(self) -> int:
        """Number of distinct clips; all rows of one lie in one bucket."""
        found = self.listed()
        ids = (found.columns(["clip_id"], [bucket])["clip_id"] for bucket in found.buckets())
        return sum(pc.count_distinct(of_bucket).as_py() for of_bucket in ids)

    def write(
        self,
        bucket: str,
        batch: str,
        rows: Iterable[Row],
        row_type: type[Row],
        added: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        """Write one part, whole or not at all; `added` are further int64 columns."""
        path = self.part(bucket, batch)
        rows, schema = list(rows), arrow_schema(row_type)
        # By attribute: `asdict` copies every value, which took half of the time of ingest.
        columns = {name: [getattr(row, name) for row in rows] for name in schema.names}
        part = encoded(columns, schema)
        for name, values in (added or {}).items():
            part = part.append_column(name, pa.array(values, pa.int64()))
        replace_part(path, part)

    def write_columns(self, bucket: str, rows: pa.Table, row_type: type[Row]) -> None:
        """Write one part from columns, named by its content.

        Columns of `row_type` that are missing are filled with its defaults.
        """
        schema = arrow_schema(row_type)
        defaults = {f.name: f.default for f in fields(row_type)}
        columns = [
            rows[f.name].cast(f.type)
            if f.name in rows.column_names
            else pa.repeat(pa.scalar(defaults[f.name], f.type), rows.num_rows)
            for f in schema
        ]
        # In one chunk, since the name is a hash of the bytes and chunks would change them.
        part = pa.table(columns, schema=schema).combine_chunks()
        name = hashlib.blake2b(ipc_bytes(part), digest_size=6).hexdigest()
        replace_part(self.folder / f"{bucket}-{self.fingerprint[:12]}-{name}.parquet", part)

    def columns(self, names: Sequence[str], buckets: Iterable[str] | None = None) -> pa.Table:
        """Columns of some buckets, or of all, as one Arrow table, part after part."""
        wanted = None if buckets is None else sorted(set(buckets))
        read = self._loaded(list(names), wanted)
        if not read:
            return pa.table({name: [] for name in names})
        return pa.concat_tables(of_part.select(names) for of_part in read).replace_schema_metadata()

    def _loaded(self, names: list[str], buckets: Sequence[str] | None) -> list[pa.Table]:
        """Columns of each part of some buckets, or of all."""

        def load() -> list[pa.Table]:
            paths = [path for bucket in buckets or ["*"] for path in self.parts(bucket)]
            with damage_named(*paths):
                read = [columns_of(path, names) for path in paths]
            check_types(paths, read)
            return read

        return [] if buckets == [] else self._reading(buckets, load)

    def _reading(self, buckets: Sequence[str] | None, read: Callable[[], T]) -> T:
        """What `read` reads of some buckets, or of all: again where parts were replaced meanwhile.

        Raises:
            RunError: a part is gone that nothing replaced.
        """
        for _ in range(READ_AGAIN):
            try:
                return read()
            except FileNotFoundError as error:
                gone = error
                self._list_again(buckets)
        raise RunError(
            f"{first_line(gone)}: a part of {self.folder} was deleted while it was read; run the "
            "same command again."
        )

    def _list_again(self, buckets: Sequence[str] | None) -> None:
        forget_listings(self.folder)

    def listed(self) -> "_ListedTable":
        """The same table, whose folder is listed once and not again for each bucket."""
        return self._of_names(part_names(self.folder, self.fingerprint))

    def of_parts(self, paths: Iterable[Path]) -> "Table":
        """A table of some of this one's parts alone."""
        return self._of_names(path.name for path in paths)

    def _of_names(self, names: Iterable[str]) -> "_ListedTable":
        found: dict[str, list[str]] = {}
        for name in names:
            found.setdefault(name.split("-")[0], []).append(name)
        return _ListedTable(self.folder, self.fingerprint, self.gate, found)

    def read(self, row_type: type[R], bucket: str = "*") -> Iterator[R]:
        """Rows of a bucket, or of all; only the columns that `row_type` names are read.

        The columns of one bucket are in memory at a time: its parts may be replaced meanwhile.
        """
        names, found = [f.name for f in fields(row_type)], self.listed() if bucket == "*" else self
        for one in found.buckets() if bucket == "*" else [bucket]:
            for part in found._loaded(names, [one]):
                for batch in part.to_batches(max_chunksize=1024):
                    yield from (row_type(**row) for row in batch.to_pylist())

    def get(self, row_type: type[R], bucket: str, clip_id: str) -> R:
        """The row of one clip; KeyError where there is none."""
        return self.find(row_type, [clip_id], bucket)[clip_id]

    def find(self, row_type: type[R], clip_ids: Collection[str], bucket: str = "*") -> dict[str, R]:
        """The rows of some clips by id, of those that there are."""
        names, wanted = [f.name for f in fields(row_type)], pa.array(list(clip_ids), pa.string())

        def find() -> dict[str, R]:
            found: dict[str, R] = {}
            for path in self.parts(bucket) if clip_ids else ():
                with damage_named(path), pq.ParquetFile(path) as file:
                    ids = read_columns(file, path, ["clip_id"])["clip_id"]
                    mask = pc.is_in(ids, value_set=wanted)
                    if pc.any(mask).as_py():
                        rows = read_columns(file, path, names).filter(mask)
                        found |= {row["clip_id"]: row_type(**row) for row in rows.to_pylist()}
            return found

        return self._reading(None if bucket == "*" else [bucket], find)

    def values(self, column: str, bucket: str = "*") -> set[str]:
        """The distinct values of a string column."""
        found = self.listed() if bucket == "*" else self
        values: set[str] = set()
        for one in found.buckets() if bucket == "*" else [bucket]:
            values.update(pc.unique(found.columns([column], [one])[column]).to_pylist())
        return values

    def where(self, column: str, value: str, target: str) -> set[str]:
        """The distinct values of the column `target` in rows whose `column` has a value."""
        found, values = self.listed(), set[str]()
        for bucket in found.buckets():
            rows = found.columns([column, target], [bucket])
            values.update(rows.filter(pc.equal(rows[column], value))[target].to_pylist())
        return values

    def drop(self, column: str, unwanted: Collection[str], bucket: str = "*") -> dict[str, int]:
        """Rewrite the parts without the rows whose `column` has one of some values.

        Returns:
            The clip ids that are gone, each with its attempts.
        """
        dropped: dict[str, int] = {}
        values = pa.array(list(unwanted), pa.string())
        names = list(dict.fromkeys([column, "clip_id", "attempts"]))
        for path in self.parts(bucket) if len(values) else ():
            with damage_named(path):
                rows = columns_of(path, names)
            goes = pc.is_in(rows[column], value_set=values)
            if pc.any(goes).as_py():
                keep(path, pc.invert(goes).to_pylist())
                gone = rows.filter(goes)
                ids, attempts = gone["clip_id"].to_pylist(), gone["attempts"].to_pylist()
                dropped |= dict(zip(ids, attempts, strict=True))
        return dropped

    def clear_stale(self) -> None:
        """Remove parts of other fingerprints, and files whose writing was cut off."""
        current = set(part_names(self.folder, self.fingerprint))
        remove_temporaries(self.folder)
        for name in file_names(self.folder):
            if name.endswith(".parquet") and name not in current:
                remove_part(self.folder / name)

    def clear_work(self) -> None:
        """Remove the folders in which the stage has worked, once it is done."""
        for folder in list(self.folder.glob("_*/")):
            remove_tree(folder)

    def clear(self) -> None:
        """Remove all parts of this fingerprint."""
        for path in self.parts():
            path.unlink(missing_ok=True)

    def state(self) -> str:
        """Digest of the names and sizes of the parts; rows added or replaced change it."""
        listing = [(path.name, path.stat().st_size) for path in self.parts()]
        return hashlib.sha256(json.dumps(listing).encode()).hexdigest()


@dataclass(frozen=True)
class _ListedTable(Table):
    """A table to read while few write to it: parts are those of one listing."""

    found: dict[str, list[str]] = field(default_factory=dict, compare=False)
    """Names of parts by bucket: a million of them take 100 MB, as paths five times as much."""

    def parts(self, bucket: str = "*") -> list[Path]:
        """Part files as they were listed."""
        buckets = sorted(self.found) if bucket == "*" else [bucket]
        names = [name for one in buckets for name in self.found.get(one, ())]
        return paths_of(self.folder, names)

    def listed(self) -> "_ListedTable":
        """The same."""
        return self

    def buckets(self) -> list[str]:
        """Buckets that held at least one part."""
        return sorted(bucket for bucket, names in self.found.items() if names)

    def _list_again(self, buckets: Sequence[str] | None) -> None:
        forget_listings(self.folder)
        now = super().listed().found
        wanted = {*self.found, *now} if buckets is None else buckets
        self.found.update({bucket: now.get(bucket, []) for bucket in wanted})


Tables = Mapping[str, Table]
"""The tables of a run, by stage."""


def listed(tables: Tables) -> dict[str, Table]:
    """The tables, each with its folder listed once: for a pass over all buckets."""
    return {name: table.listed() for name, table in tables.items()}


def stage_folder(out: Path, stage: str) -> Path:
    """Folder of a stage's table and marker; pack's marker lies beside its shards."""
    return out / "shards" if stage == "pack" else out / "tables" / stage


def open_tables(out: Path, flow: Mapping[str, str] | None = None) -> dict[str, Table]:
    """The tables of a run as they lie on disk, by stage, in the order of the data flow.

    Args:
        out: the folder of the run.
        flow: gates by stage, in order; by default those that the run recorded, or for a run older
            than such records the tables that are there, without their gates.

    Raises:
        UserError: `out` is not the folder of a run.
    """
    stored = {path.parent.name: path.parent for path in (out / "tables").glob("*/_stage.json")}
    flow = flow or read_flow(out) or dict.fromkeys(sorted(stored), "")
    is_known = {name for name, at in stored.items() if "fingerprint" in read_marker(at)}
    folders = [stored[name] for name in flow if name in is_known]  # others count as not begun
    if not folders and (out / "run.yaml").is_file():
        raise UserError(
            f"{out} is a run that has finished no stage yet; run the same command again, and it "
            "goes on."
        )
    if not folders:
        raise UserError(
            f"{out} holds no tables, so it is not the output of `handloom curate`; name the folder "
            "that was given as --out."
        )
    return {f.name: Table(f, read_marker(f).get("fingerprint", ""), flow[f.name]) for f in folders}


def read_flow(out: Path) -> dict[str, str]:
    """Gates by stage, in the order of the data flow; {} where none are recorded.

    Raises:
        UserError: something else is recorded.
    """
    path = out / "tables" / FLOW
    flow = read_facts(path)
    known = {"", *flow}
    are_gates = all(isinstance(gate, str) and gate in known for gate in flow.values())
    if are_gates and (flow or not path.exists()):
        return flow
    raise UserError(
        f"{path} does not say for each stage which one lets its clips through; delete it, and run "
        "`handloom curate` with the same arguments as before, which writes it."
    )


def write_flow(out: Path, flow: Mapping[str, str]) -> None:
    """Record the gates by stage, so that a run's tables can be followed without its stages."""
    write_text(out / "tables" / FLOW, json.dumps(flow, indent=2) + "\n")


def read_marker(folder: Path) -> dict[str, Any]:
    """A stage's marker, {} where there is none or it cannot be read."""
    return read_facts(folder / "_stage.json")


def effort(folder: Path) -> tuple[int, float, int]:
    """Clips computed and seconds spent on a stage's rows, and clips computed by the last run."""
    marker = read_marker(folder)
    return marker.get("computed", 0), marker.get("seconds", 0.0), marker.get("computed_last", 0)


def write_marker(folder: Path, marker: dict[str, Any]) -> None:
    """Write a stage's marker, whole or not at all."""
    write_text(folder / "_stage.json", json.dumps(marker, indent=2, sort_keys=True) + "\n")
