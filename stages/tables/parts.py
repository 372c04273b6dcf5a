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
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from handloom.errors import RunError, UserError
from handloom.files import read_facts, remove_temporaries, whole, write_text
from handloom.stages.tables.rows import Row, arrow_schema
from handloom.stages.tables.texts import encodable, storable_name

FLOW = "_flow.json"
BUCKETS = 256  # 38 million clips make 150,000 rows a bucket, about 150 MB of clip metadata

R = TypeVar("R", bound=Row)


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
        return sorted(self.folder.glob(f"{bucket}-{self.fingerprint[:12]}-*.parquet"))

    def buckets(self) -> list[str]:
        """Buckets that hold at least one part."""
        return sorted({path.name.split("-")[0] for path in self.parts()})

    def part(self, bucket: str, batch: str) -> Path:
        """The file of one batch's rows."""
        return self.folder / f"{bucket}-{self.fingerprint[:12]}-{batch}.parquet"

    def part_values(self, bucket: str, batch: str, column: str) -> list[str] | None:
        """A string column of one batch's rows; None where they are not written."""
        path = self.part(bucket, batch)
        if not path.exists():
            return None
        values: list[str] = _read_part(path, columns=[column])[column].to_pylist()
        return values

    def row_count(self) -> int:
        """Number of rows, from the parts' metadata alone."""
        return sum(_row_count(path) for path in self.parts())

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
        part = _encoded(columns, schema)
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
        name = hashlib.blake2b(_bytes(part), digest_size=6).hexdigest()
        replace_part(self.folder / f"{bucket}-{self.fingerprint[:12]}-{name}.parquet", part)

    def columns(self, names: Sequence[str], buckets: Iterable[str] | None = None) -> pa.Table:
        """Columns of some buckets, or of all, as one Arrow table, part after part."""
        wanted = ["*"] if buckets is None else sorted(set(buckets))
        paths = [path for bucket in wanted for path in self.parts(bucket)]
        if not paths:
            return pa.table({name: [] for name in names})
        with _damage_named(*paths):
            read = [_columns(path, list(names)) for path in paths]
        return pa.concat_tables(read).replace_schema_metadata()

    def of_parts(self, paths: Iterable[Path]) -> "Table":
        """A table of some of this one's parts alone."""
        found: dict[str, list[Path]] = {}
        for path in paths:
            found.setdefault(path.name.split("-")[0], []).append(path)
        return _ListedTable(self.folder, self.fingerprint, self.gate, found)

    def listed(self) -> "Table":
        """The same table, whose folder is listed once and not again for each bucket."""
        return self.of_parts(self.parts())

    def read(self, row_type: type[R], bucket: str = "*") -> Iterator[R]:
        """Rows of a bucket, or of all; only the columns that `row_type` names are read."""
        return read_parts(row_type, self.parts(bucket))

    def get(self, row_type: type[R], bucket: str, clip_id: str) -> R:
        """The row of one clip; KeyError where there is none."""
        return self.find(row_type, [clip_id], bucket)[clip_id]

    def find(self, row_type: type[R], clip_ids: Collection[str], bucket: str = "*") -> dict[str, R]:
        """The rows of some clips by id, of those that there are."""
        names, wanted = [f.name for f in fields(row_type)], pa.array(list(clip_ids), pa.string())
        found: dict[str, R] = {}
        for path in self.parts(bucket) if clip_ids else ():
            with _damage_named(path), pq.ParquetFile(path) as file:
                ids = file.read(columns=["clip_id"], use_threads=False)["clip_id"]
                mask = pc.is_in(ids, value_set=wanted)
                if pc.any(mask).as_py():
                    rows = file.read(columns=names, use_threads=False).filter(mask)
                    found |= {row["clip_id"]: row_type(**row) for row in rows.to_pylist()}
        return found

    def values(self, column: str, bucket: str = "*") -> set[str]:
        """The distinct values of a string column."""
        return {
            value
            for path in self.parts(bucket)
            for value in _read_part(path, columns=[column])[column].to_pylist()
        }

    def where(self, column: str, value: str, target: str) -> set[str]:
        """The distinct values of the column `target` in rows whose `column` has a value."""
        rows = (
            _read_part(path, columns=[target], filters=[(column, "=", value)])
            for path in self.parts()
        )
        return {other for part in rows for other in part[target].to_pylist()}

    def drop(self, row_type: type[R], unwanted: Callable[[R], bool]) -> dict[str, int]:
        """Rewrite the parts without the unwanted rows; returns their clip ids and attempts."""
        dropped: dict[str, int] = {}
        for path in self.parts():
            table = _read_part(path)
            columns = table.select([f.name for f in fields(row_type)]).to_pylist()
            gone = {i: row for i, row in enumerate(columns) if unwanted(row_type(**row))}
            if gone:
                stays = pa.array([i not in gone for i in range(len(columns))])
                replace_part(path, table.filter(stays))
                dropped |= {row["clip_id"]: row["attempts"] for row in gone.values()}
        return dropped

    def clear_stale(self) -> None:
        """Remove parts of other fingerprints, and files whose writing was cut off."""
        current = set(self.parts())
        remove_temporaries(self.folder)
        for path in self.folder.glob("*.parquet"):
            if path not in current:
                path.unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove all parts of this fingerprint."""
        for path in self.parts():
            path.unlink()

    def state(self) -> str:
        """Digest of the names and sizes of the parts; rows added or replaced change it."""
        listing = [(path.name, path.stat().st_size) for path in self.parts()]
        return hashlib.sha256(json.dumps(listing).encode()).hexdigest()


@dataclass(frozen=True)
class _ListedTable(Table):
    """A table to read while few write to it: parts are those of one listing."""

    found: dict[str, list[Path]] = field(default_factory=dict, compare=False)

    def parts(self, bucket: str = "*") -> list[Path]:
        """Part files as they were listed."""
        if bucket != "*":
            return self.found.get(bucket, [])
        return [path for name in sorted(self.found) for path in self.found[name]]

    def columns(self, names: Sequence[str], buckets: Iterable[str] | None = None) -> pa.Table:
        """As of `Table`; a bucket whose parts were merged since is listed again."""
        wanted = None if buckets is None else list(buckets)
        try:
            return super().columns(names, wanted)
        except FileNotFoundError:
            for bucket in wanted or list(self.found):
                self.found[bucket] = Table(self.folder, self.fingerprint).parts(bucket)
            return super().columns(names, wanted)


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
    folders = [stored[name] for name in flow if name in stored]
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
    """Gates by stage, in the order of the data flow; {} where none are recorded."""
    return read_facts(out / "tables" / FLOW)


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


@contextmanager
def _damage_named(*paths: Path) -> Iterator[None]:
    """Turns Arrow's errors about damaged files into a sentence with the way out."""
    try:
        yield
    except FileNotFoundError:
        raise  # merged meanwhile
    except (pa.ArrowInvalid, OSError) as error:
        bad = next((path for path in paths if not _is_parquet(path)), None)
        if bad is None:
            raise
        raise RunError(
            f"{bad} is damaged ({_reason(error)}): delete it and run the same "
            "command again, which computes its rows anew."
        ) from error


def _reason(error: Exception) -> str:
    """What Arrow says, without the name of what it had opened."""
    return str(error).splitlines()[0].rpartition("': ")[2][:80]


def _row_count(path: Path) -> int:
    with _damage_named(path):
        count: int = pq.read_metadata(path).num_rows
    return count


def read_parts(row_type: type[R], paths: Iterable[Path]) -> Iterator[R]:
    """Rows of some parts; only the columns that `row_type` names are read."""
    columns = [f.name for f in fields(row_type)]
    for path in paths:
        with _damage_named(path), pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024, columns=columns):
                yield from (row_type(**row) for row in batch.to_pylist())


def _is_parquet(path: Path) -> bool:
    try:
        pq.read_table(path)
    except (pa.ArrowInvalid, OSError):
        return False
    return True


def _columns(path: Path, names: list[str]) -> pa.Table:
    """Columns of one part. `pq.read_table` takes three times as long to open a small file."""
    with pq.ParquetFile(path) as file:
        return file.read(columns=names, use_threads=False).select(names)


def _read_part(path: Path, **options: Any) -> pa.Table:
    with _damage_named(path):
        return pq.read_table(path, **options)


def _encoded(columns: dict[str, list[Any]], schema: pa.Schema) -> pa.Table:
    """Columns as Arrow; lone surrogates, as an error's message may quote them, become U+FFFD."""
    try:
        return pa.Table.from_pydict(columns, schema=schema)
    except UnicodeEncodeError:
        return pa.Table.from_pydict(encodable(columns), schema=schema)


def _bytes(table: pa.Table) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return sink.getvalue()


def replace_part(path: Path, table: pa.Table) -> None:
    """Write a part, whole or not at all, in place of one of the same name."""
    with whole(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")
