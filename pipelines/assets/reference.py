"""Macro data, news and identities from the vendor into the lake."""

import datetime as dt
from collections.abc import Callable, Mapping
from typing import Protocol

import dagster as dg
import polars as pl
from pydantic import Field

from market.errors import MarketError, NotInPlanError
from market.identity import former_symbols
from market.ingest_log import ingested_symbols
from market.lake import Lake
from market.reference_ingest import (
    IDENTITIES_TABLE,
    INDICES_TABLE,
    NEWS_TABLE,
    YIELDS_TABLE,
    ReferenceResult,
    ingest_identities,
    ingest_index,
    ingest_news,
    ingest_treasury_yields,
    news_start,
)
from market.reference_quality import (
    inspect_identities,
    inspect_index,
    inspect_news,
    inspect_yields,
)
from pipelines.assets.features import report_changed_inputs
from pipelines.assets.ingest import GROUP, OWNERS, IngestConfig
from pipelines.freshness import EVERY_SESSION
from pipelines.resources import Stores, moment_of

REFERENCE_ASSETS = (YIELDS_TABLE, INDICES_TABLE, NEWS_TABLE, IDENTITIES_TABLE)
VIX = "VIX"
_KINDS = {"polars", "deltalake"}


class NewsConfig(IngestConfig):
    """Symbols, and the first date wanted (a month or a week back when empty)."""

    start: str = Field("", description="First date, YYYY-MM-DD, for a longer history")


def _result(
    fetch: Callable[[], ReferenceResult], context: dg.AssetExecutionContext, stores: Stores
) -> dg.MaterializeResult:
    """Return what a fetch did, and how many features became stale by it.

    A plan without this data is a fact to report, not a failure: the table stays as it is, and its
    check says that it is not fresh.
    """
    try:
        done = fetch()
    except NotInPlanError as refusal:
        return dg.MaterializeResult(metadata={"in plan": False, "said": str(refusal)})
    return dg.MaterializeResult(
        metadata={
            "in plan": True,
            "rows": done.rows,
            "rows added": done.added,
            "changed": done.changed,
            "features that became stale": (
                report_changed_inputs(context, stores) if done.changed else 0
            ),
        }
    )


def _symbols(stores: Stores, config: IngestConfig) -> list[str]:
    return sorted(set(config.symbols or stores.universe) | ingested_symbols(stores.lake))


def _date(text: str) -> dt.date:
    try:
        return dt.date.fromisoformat(text)
    except ValueError:
        raise MarketError(
            "not a date", got=text, allowed="YYYY-MM-DD", remedy="write it like 2024-06-03"
        ) from None


@dg.asset(group_name=GROUP, owners=OWNERS, kinds=_KINDS, freshness_policy=EVERY_SESSION)
def treasury_yields(
    context: dg.AssetExecutionContext, stores: dg.ResourceParam[Stores]
) -> dg.MaterializeResult:
    """Treasury par yields by maturity, in percent, with the time they became known."""
    start, now = stores.settings.history.start, moment_of(context)
    return _result(
        lambda: ingest_treasury_yields(stores.lake, stores.reference, start, now=now),
        context,
        stores,
    )


@dg.asset(group_name=GROUP, owners=OWNERS, kinds=_KINDS, freshness_policy=EVERY_SESSION)
def indices(
    context: dg.AssetExecutionContext, stores: dg.ResourceParam[Stores]
) -> dg.MaterializeResult:
    """Daily values of the VIX, with the time they became known."""
    start, now = stores.settings.history.start, moment_of(context)
    return _result(
        lambda: ingest_index(stores.lake, stores.reference, VIX, start, now=now), context, stores
    )


@dg.asset(group_name=GROUP, owners=OWNERS, kinds=_KINDS, freshness_policy=EVERY_SESSION)
def news(
    context: dg.AssetExecutionContext, config: NewsConfig, stores: dg.ResourceParam[Stores]
) -> dg.MaterializeResult:
    """Articles with the vendor's sentiment labels, one row per article and symbol."""
    now = moment_of(context)
    start = _date(config.start) if config.start else news_start(stores.lake, now)
    names = _symbols(stores, config)
    return _result(
        lambda: ingest_news(stores.lake, stores.reference, names, start, now.date()),
        context,
        stores,
    )


@dg.asset(group_name=GROUP, owners=OWNERS, kinds=_KINDS, freshness_policy=EVERY_SESSION)
def identities(
    context: dg.AssetExecutionContext, config: IngestConfig, stores: dg.ResourceParam[Stores]
) -> dg.MaterializeResult:
    """Companies and the symbols that they bore: ticker changes and delistings."""
    names = _symbols(stores, config)
    result = _result(
        lambda: ingest_identities(stores.lake, stores.reference, names), context, stores
    )
    former: list[str] = []
    if stores.lake.exists(IDENTITIES_TABLE):
        known = former_symbols(stores.lake.scan(IDENTITIES_TABLE).collect(), names)
        former = sorted(set(known) - set(names))
    # Their bars belong to companies of the universe, and are there once they are ingested by name.
    return result._replace(metadata={**(result.metadata or {}), "former symbols": former})


def build_reference_assets() -> list[dg.AssetsDefinition]:
    """Return the assets of this file."""
    return [treasury_yields, indices, news, identities]


def build_reference_checks() -> list[dg.AssetChecksDefinition]:
    """Return one check per asset; they warn, and stop nothing."""
    return [
        _sound(
            YIELDS_TABLE,
            "Yields in range, no holes on days of the bond market, none overdue.",
            lambda rows, now, _: inspect_yields(rows, now),
        ),
        _sound(
            INDICES_TABLE,
            "VIX in range, closes between low and high, no session missing or overdue.",
            lambda rows, now, _: inspect_index(rows.filter(pl.col("symbol") == VIX), now),
        ),
        _sound(
            NEWS_TABLE,
            "Labels known, nothing known before it was published, an article this week.",
            lambda rows, now, _: inspect_news(rows, now),
        ),
        _sound(
            IDENTITIES_TABLE,
            "No symbol borne by two companies at once; every symbol ingested has one.",
            lambda rows, _, lake: inspect_identities(rows, sorted(ingested_symbols(lake))),
        ),
    ]


class _Inspected(Protocol):
    """What an inspection of a reference table found."""

    @property
    def is_sound(self) -> bool: ...

    def as_metadata(self) -> Mapping[str, object]: ...


def _sound(
    table: str,
    description: str,
    inspect: Callable[[pl.DataFrame, dt.datetime, Lake], _Inspected],
) -> dg.AssetChecksDefinition:
    """Return the check of a table; ``inspect`` is given its rows, the moment and the lake."""

    @dg.asset_check(asset=table, name=f"{table}_are_sound", description=description)
    def check(
        context: dg.AssetCheckExecutionContext, stores: dg.ResourceParam[Stores]
    ) -> dg.AssetCheckResult:
        if not stores.lake.exists(table):
            missing = f"the lake has no {table}; the plan may lack them"
            return _warning(passed=False, metadata={"missing": missing})
        found = inspect(stores.lake.scan(table).collect(), moment_of(context), stores.lake)
        return _warning(passed=found.is_sound, metadata=dict(found.as_metadata()))

    return check


def _warning(*, passed: bool, metadata: dict[str, object]) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        passed=passed, severity=dg.AssetCheckSeverity.WARN, metadata=metadata
    )
