"""What Dagster shows of a table beside a run: rows, sessions, columns, the newest rows."""

from collections.abc import Iterable, Mapping, Sequence

import dagster as dg
import polars as pl

from market.lake import Lake

_FORMS = {pl.Float32: "{:.4g}", pl.Float64: "{:.4g}"}


def describe_table(
    lake: Lake, table: str, columns: Sequence[str] = (), rows: int = 5
) -> dict[str, object]:
    """Return metadata of a table of the lake; nothing where it is not there.

    Parameters
    ----------
    lake : Lake
        Its newest version is read: counts and sessions from its log, rows of one session alone.
    table : str
        Its name.
    columns : sequence of str
        Shown of the first rows of the newest session; none are shown where empty.
    rows : int
        How many.

    Returns
    -------
    dict
        ``dagster/row_count``; where the table is by session ``first session``, ``last session``
        and ``sessions in the table``; and ``newest rows``.
    """
    if not lake.exists(table):
        return {}
    found = lake.scan(table)
    facts: dict[str, object] = {"dagster/row_count": count_rows(lake, table)}
    if "session" in found.collect_schema().names():
        days = sorted(lake.sessions(table)) if _by_session(lake, table) else []
        days = (
            days or found.select(pl.col("session").unique().sort()).collect()["session"].to_list()
        )
        if not days:
            return facts
        facts |= {
            "first session": days[0].isoformat(),
            "last session": days[-1].isoformat(),
            "sessions in the table": len(days),
        }
        found = found.filter(pl.col("session") == days[-1])
    if columns:
        facts["newest rows"] = as_table(found.select(columns).head(rows).collect())
    return facts


def count_rows(lake: Lake, table: str) -> int:
    """Return the rows of a table from its log, without opening its files."""
    return lake.open(table).count()


def as_table(frame: pl.DataFrame) -> dg.MarkdownMetadataValue:
    r"""Return a small frame as a table in Markdown, floats with four digits.

    Examples
    --------
    >>> print(as_table(pl.DataFrame({"a": [1.23456], "b": ["x|y"]})).md_str)
    | a | b |
    |---|---|
    | 1.235 | x\|y |
    """
    lines = [_line(frame.columns), "|" + "---|" * frame.width]
    forms = [_FORMS.get(type(kind), "{}") for kind in frame.dtypes]
    for row in frame.iter_rows():
        lines.append(
            _line("" if v is None else f.format(v) for f, v in zip(forms, row, strict=True))
        )
    return dg.MetadataValue.md("\n".join(lines))


def column_schema(columns: Mapping[str, pl.DataType]) -> dict[str, dg.TableSchema]:
    """Return the definition metadata that lists the columns of a table.

    Not for tables of hundreds of columns: Dagster's page shows them before anything else.
    """
    # As plain text: Dagster hands no enumeration of ours on.
    made = [dg.TableColumn(str(name), _type_name(kind)) for name, kind in columns.items()]
    return {"dagster/column_schema": dg.TableSchema(columns=made)}


def _type_name(kind: pl.DataType) -> str:
    return "timestamp, UTC" if isinstance(kind, pl.Datetime) else str(kind).lower()


def _by_session(lake: Lake, table: str) -> bool:
    return lake.open(table).metadata().partition_columns == ["session"]


def _line(cells: Iterable[object]) -> str:
    return "| " + " | ".join(str(c).replace("|", "\\|") for c in cells) + " |"
