"""The lake: Delta Lake tables of Parquet under one root.

Every table is declared once in :data:`market.lake_tables.TABLES`. A write replaces whole partitions
in one atomic commit; writing what is already there commits nothing; readers see the old version or
the new one, never half of one. ``known_at <= as_of`` is enforced here, on read.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
from deltalake import DeltaTable, write_deltalake
from deltalake.exceptions import DeltaError
from filelock import FileLock

from market.errors import LakeError
from market.frame_hash import frame_hash
from market.lake_tables import BAR_KEYS, TABLES, TableSpec, made_by, spec_of
from market.layouts import (
    BARS_TABLE,
    BUILT_FROM,
    BY_SYMBOL_TABLE,
    COPY_WRITER,
    WRITER,
    choose_layout,
    files_by_session,
    name_months,
    scan_sessions,
    table_properties,
)
from market.schema import BAR_SCHEMA, Bar

SCHEMA_VERSION = "1"
_FOLLOWED = re.compile(r"[A-Za-z0-9/._~-]+")


class Lake:
    """Reads and writes the tables under one root.

    Parameters
    ----------
    root : Path or str
        A local folder, or an ``s3://`` URL.
    versions : mapping, optional
        Table to the version that is read, whatever was written since; other tables are not there,
        and nothing can be written. See :meth:`freeze`.
    options : mapping, optional
        How an ``s3://`` URL is reached: keys, region, endpoint, under the names that
        ``deltalake`` and Polars know (``AWS_ACCESS_KEY_ID``, ...). Never shown.
    lock : callable, optional
        Returns a context that holds an ``s3://`` lake against all other processes; a folder
        is locked by a file in it.

    Examples
    --------
    >>> import tempfile
    >>> lake = Lake(tempfile.mkdtemp())
    >>> lake.exists("splits")
    False
    """

    def __init__(
        self,
        root: Path | str,
        versions: Mapping[str, int] | None = None,
        *,
        options: Mapping[str, str] | None = None,
        lock: Callable[[], AbstractContextManager[object]] | None = None,
    ) -> None:
        self.root = str(root).rstrip("/")
        self._options = dict(options or {}) or None
        self._lock = lock
        self.versions = None if versions is None else dict(versions)
        if "://" not in self.root and not _FOLLOWED.fullmatch(str(Path(self.root).resolve())):
            # Delta escapes other characters in the names of files, and Polars does not undo it.
            raise LakeError(
                "the lake's folder has a name that its readers cannot follow",
                got=self.root,
                allowed="letters A to Z, digits, '.', '_', '-', '~' in the whole path",
                remedy="name another ISOBAR_HOME",
            )

    def __repr__(self) -> str:
        return f"Lake({self.root!r})"

    def uri(self, table: str) -> str:
        """Return where a table lives, refusing names that are not declared."""
        spec_of(table)
        return f"{self.root}/{table}"

    def exists(self, table: str) -> bool:
        """Say whether the table has ever been written."""
        uri = self.uri(table)
        if self.versions is not None:
            return table in self.versions
        return DeltaTable.is_deltatable(uri, self._options)

    def freeze(self) -> Lake:
        """Return the lake as it is now: what is written later is not seen through it.

        Copies are left out: they hold nothing of their own, and their old files are deleted.
        """
        own = (name for name, spec in TABLES.items() if not spec.is_copy)
        there = ((name, self.version(name)) for name in own)
        return self.at({name: v for name, v in there if v is not None})

    def at(self, versions: Mapping[str, int]) -> Lake:
        """Return this lake as it was when its tables had these versions; for reading only."""
        return Lake(self.root, versions, options=self._options)

    def version(self, table: str) -> int | None:
        """Return the table's newest version, or ``None`` where there is no table."""
        return self._open(table).version() if self.exists(table) else None

    def scan(self, table: str, *, version: int | None = None) -> pl.LazyFrame:
        """Return a lazy scan (predicates and projections are pushed down).

        Raises
        ------
        LakeError
            When the table was never written; the message says what writes it.
        """
        return pl.scan_delta(self.open(table, version=version))

    def open(self, table: str, *, version: int | None = None) -> DeltaTable:
        """Return one version of a table, which stays that version; the newest by default.

        Raises
        ------
        LakeError
            When the table was never written, or the version is not there.
        """
        if not self.exists(table):
            raise LakeError(
                f"the lake has no table {table!r} yet",
                allowed=", ".join(t for t in TABLES if self.exists(t)) or "nothing so far",
                remedy=f"run `{made_by(table)}`",
            )
        return self._open(table, version)

    def arrow_dataset(self, table: str) -> Any:
        """Return the table as an Arrow dataset, for engines such as DuckDB."""
        return self._open(table).to_pyarrow_dataset()

    def read_bars(
        self,
        table: str,
        *,
        start: dt.date | None = None,
        end: dt.date | None = None,
        symbols: Sequence[str] | None = None,
        as_of: dt.datetime | None = None,
    ) -> pl.DataFrame:
        """Return bars sorted by symbol and time, only those known at ``as_of`` when given."""
        query = self.scan_bars(table, start=start, end=end, symbols=symbols)
        if as_of is not None:
            query = query.filter(pl.col(Bar.KNOWN_AT) <= as_of)
        frame = query.collect()
        # One session comes sorted: to see that costs less than to sort again.
        keys = BAR_KEYS if symbols is None or len(symbols) > 1 else (Bar.BAR_START.value,)
        return frame if _ascends(frame.select(keys)) else frame.sort(keys)

    def scan_bars(
        self,
        table: str,
        *,
        start: dt.date | None = None,
        end: dt.date | None = None,
        symbols: Sequence[str] | None = None,
    ) -> pl.LazyFrame:
        """Return a scan of bars of some sessions and symbols; only their files are opened.

        It reads the tables as they are now, whenever it is collected. Of some symbols, settled
        months come from the copy by symbol, where that was made from the very files of now.
        """
        bars = self.open(table)
        files = files_by_session(bars.file_uris())
        rest = [s for s in files if (start is None or s >= start) and (end is None or s <= end)]
        parts: list[pl.LazyFrame] = []
        if table == BARS_TABLE and symbols is not None and self.exists(BY_SYMBOL_TABLE):
            copied, rest = self._copied(files, rest)
            parts += copied
        if rest:
            parts.append(scan_sessions(bars, files, rest, self._options))
        if not parts:
            return pl.LazyFrame(schema=BAR_SCHEMA)
        frame = pl.concat([part.select(BAR_SCHEMA.names()) for part in parts])
        return frame if symbols is None else frame.filter(pl.col(Bar.SYMBOL).is_in(list(symbols)))

    def _copied(
        self, files: Mapping[dt.date, Sequence[str]], wanted: Sequence[dt.date]
    ) -> tuple[list[pl.LazyFrame], list[dt.date]]:
        """Return scans of the wanted sessions that the copy by symbol has, and the other ones."""
        copy = self.open(BY_SYMBOL_TABLE)
        there = [str(p[BUILT_FROM]) for p in copy.partitions()]
        copies, rest = choose_layout(name_months(files), there, wanted)
        if not copies:
            return [], rest
        rows = pl.scan_delta(copy).filter(pl.col(BUILT_FROM).is_in(copies))
        if len(wanted) < len(files):
            rows = rows.filter(pl.col(Bar.SESSION).is_between(wanted[0], wanted[-1]))
        return [rows], rest

    def sessions(self, table: str) -> set[dt.date]:
        """Return the sessions of which the table has a partition (no data is read)."""
        if not self.exists(table):
            return set()
        partitions: list[dict[str, Any]] = self._open(table).partitions()
        return {dt.date.fromisoformat(str(p[Bar.SESSION])) for p in partitions}

    def replace(self, table: str, frame: pl.DataFrame, partitions: Sequence[object] | None) -> bool:
        """Replace whole partitions by the rows of ``frame`` in one commit.

        Parameters
        ----------
        table : str
            A declared table.
        frame : pl.DataFrame
            All rows of these partitions; rows of other partitions are refused.
        partitions : sequence or None
            Values of the partition column to replace (also those that became empty);
            ``None`` replaces the whole of an unpartitioned table.

        Returns
        -------
        bool
            Whether a new version was committed; ``False`` when the content was there already.

        Raises
        ------
        LakeError
            On duplicate keys, foreign partitions, a full disk, or a table of another version.
        """
        spec = spec_of(table)
        self._check(spec, frame, partitions)
        frame = _ordered(spec, frame)
        if self.exists(table) and self._unchanged(spec, frame, partitions):
            return False
        if not self.exists(table) and frame.is_empty() and partitions is not None:
            return False
        self._commit(spec, frame.to_arrow(), partitions)
        return True

    def replace_streamed(
        self, table: str, parts: Iterable[pl.DataFrame], partitions: Sequence[object]
    ) -> None:
        """Replace whole partitions by rows that need not be in memory at once, in one commit.

        Nothing is compared or sorted: the rows are stored in the order given.

        Raises
        ------
        LakeError
            On columns or types that are not the table's, rows of other partitions, a full disk.
        """
        spec = spec_of(table)
        reader = pa.RecordBatchReader.from_batches(
            pl.DataFrame(schema=spec.schema).to_arrow().schema,
            self._batches(spec, parts, partitions),
        )
        self._commit(spec, reader, partitions)

    def discard_replaced(self, table: str) -> None:
        """Delete files of a copy that were replaced a week ago or earlier.

        Other tables keep theirs: their old versions stay readable.
        """
        if not spec_of(table).is_copy:
            raise LakeError(
                f"table {table!r} is no copy: its old versions are kept",
                allowed=", ".join(t for t, spec in TABLES.items() if spec.is_copy),
                remedy="leave them; models were trained on them",
            )
        self.open(table).vacuum(dry_run=False)

    @contextmanager
    def locked(self) -> Generator[None]:
        """Hold the lake against other processes, for a read-change-write.

        A folder is locked among the processes of this machine, an ``s3://`` lake by the lock that
        it was opened with. Delta alone would not do: it refuses the second of two commits at the
        same time, but not one that was made from what had been read before the other.

        Raises
        ------
        LakeError
            When the lake cannot be locked.
        """
        if "://" in self.root:
            if self._lock is None:
                raise LakeError(
                    "the lake was opened without a lock and cannot be changed",
                    got=self.root,
                    allowed="a lock that all its writers share, such as that of a ledger on"
                    " PostgreSQL",
                    remedy="open it by the settings (lake_url and ledger_url)",
                )
            with self._lock():
                yield
            return
        try:
            Path(self.root).mkdir(parents=True, exist_ok=True)
            with FileLock(Path(self.root) / ".lock"):
                yield
        except OSError as error:
            raise LakeError(
                f"the lake cannot be locked for writing ({error})",
                got=self.root,
                allowed="a folder that can be written",
                remedy="make it writable, or name another ISOBAR_HOME",
            ) from error

    def content_hash(self, table: str) -> str:
        """Return a digest of the table's rows, whatever their files and order."""
        if not self.exists(table):
            return "empty"
        spec = spec_of(table)
        frame = self.scan(table).sort(*spec.keys).collect()
        return frame_hash(frame.select(sorted(frame.columns)))

    def _open(self, table: str, version: int | None = None) -> DeltaTable:
        if version is None and self.versions is not None:
            version = self.versions[table]
        try:
            delta = DeltaTable(self.uri(table), version=version, storage_options=self._options)
        except (DeltaError, OSError) as error:
            raise LakeError(
                f"table {table!r} cannot be opened ({error})",
                remedy="check that the disk is mounted and readable, and that the version exists",
            ) from error
        found = (delta.metadata().description or "").removeprefix("isobar-schema-")
        if found != SCHEMA_VERSION:
            raise LakeError(
                f"table {table!r} was written by another version of Isobar",
                got=found or "no version",
                allowed=SCHEMA_VERSION,
                remedy="use the Isobar version that wrote it, or a new ISOBAR_HOME",
            )
        return delta

    def _check(
        self, spec: TableSpec, frame: pl.DataFrame, partitions: Sequence[object] | None
    ) -> None:
        if spec.schema is not None and frame.schema != spec.schema:
            raise LakeError(
                f"rows for {spec.name!r} have the wrong columns or types",
                got=str(dict(frame.schema)),
                allowed=str(dict(spec.schema)),
                remedy="pass them through market.schema.conform",
            )
        if (spec.partition_by is None) != (partitions is None):
            raise LakeError(
                f"table {spec.name!r} is partitioned by {spec.partition_by}",
                got=partitions,
                remedy="name the partitions to replace, or none for an unpartitioned table",
            )
        if spec.partition_by is not None and partitions is not None:
            strange = set(frame[spec.partition_by].unique()) - set(partitions)
            if strange:
                raise LakeError(
                    f"rows for {spec.name!r} lie outside the partitions being replaced",
                    got=sorted(map(str, strange))[:5],
                    allowed=f"{len(partitions)} partitions",
                    remedy="name every partition that the rows touch",
                )

    def _unchanged(
        self, spec: TableSpec, frame: pl.DataFrame, partitions: Sequence[object] | None
    ) -> bool:
        stored = self.scan(spec.name)
        if spec.partition_by is not None and partitions is not None:
            stored = stored.filter(pl.col(spec.partition_by).is_in(list(partitions)))
        old = stored.collect()
        if old.height != frame.height or set(old.columns) != set(frame.columns):
            return False
        order = list(spec.keys)
        return old.select(frame.columns).sort(order).equals(frame)

    def _batches(
        self, spec: TableSpec, parts: Iterable[pl.DataFrame], partitions: Sequence[object]
    ) -> Iterator[pa.RecordBatch]:
        for part in parts:
            self._check(spec, part, partitions)
            # The Delta writer mixes up the order of batches; the rows of one it keeps.
            yield from part.rechunk().to_arrow().to_batches()

    def _commit(
        self,
        spec: TableSpec,
        rows: pa.Table | pa.RecordBatchReader,
        partitions: Sequence[object] | None,
    ) -> None:
        if self.versions is not None:
            raise LakeError(
                f"table {spec.name!r} is frozen",
                got="a write",
                allowed="reads of the versions that were named",
                remedy="write through the lake that it was frozen from",
            )
        options: dict[str, Any] = {"description": f"isobar-schema-{SCHEMA_VERSION}"}
        properties = table_properties(spec.keys, spec.partition_by)
        if not self.exists(spec.name):
            options["configuration"] = properties
        elif spec.partition_by is not None:
            options["predicate"] = _predicate(spec.partition_by, partitions or ())
        # Where the columns changed (a new feature), the table takes the new ones: rewriting its
        # other partitions is the caller's recomputation, reading them gives nulls until then.
        try:
            if "configuration" not in options:
                self._protect(spec.name, properties)
            write_deltalake(
                self.uri(spec.name),
                rows,
                mode="overwrite",
                schema_mode="merge" if "predicate" in options else "overwrite",
                partition_by=[spec.partition_by] if spec.partition_by else None,
                writer_properties=COPY_WRITER if spec.is_copy else WRITER,
                storage_options=self._options,
                **options,
            )
        except (DeltaError, OSError) as error:
            raise LakeError(
                f"table {spec.name!r} could not be written; it is as it was before ({error})",
                remedy="free disk space or make the folder writable, then run the same again",
            ) from error

    def _protect(self, table: str, properties: dict[str, str]) -> None:
        # A table of an earlier Isobar has none: its old versions would be forgotten.
        delta = self._open(table)
        if not properties.items() <= delta.metadata().configuration.items():
            delta.alter.set_table_properties(properties)


def _predicate(column: str, values: Sequence[object]) -> str:
    listed = ", ".join(f"'{v}'" for v in sorted(map(str, values)))
    return f"{column} IN ({listed})"


def _ordered(spec: TableSpec, frame: pl.DataFrame) -> pl.DataFrame:
    """Return the rows sorted by the table's keys; raise where two rows have the same."""
    if _ascends(frame.select(spec.keys)):
        return frame
    doubled = frame.height - frame.select(spec.keys).n_unique()
    if doubled:
        raise LakeError(
            f"rows for {spec.name!r} are not unique",
            got=f"{doubled} duplicates of {spec.keys}",
            remedy="remove duplicates at the source",
        )
    return frame.sort(list(spec.keys))


def _ascends(keys: pl.DataFrame) -> bool:
    """Say whether each row's keys come strictly after those of the row before."""
    keys = keys.rechunk()
    before, now = keys.head(-1), keys.slice(1)
    *outer, last = keys.columns
    later = (now[last] > before[last]).fill_null(value=False)
    for name in reversed(outer):
        # Text is slow to compare: only where it changed, which is once in a symbol's rows.
        same = now[name].eq_missing(before[name])
        at = (~same).arg_true()
        risen = now[name].gather(at) > before[name].gather(at)
        later = (later & same).scatter(at, risen.fill_null(value=False))
    return later.all()
