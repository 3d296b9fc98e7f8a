"""Macro data, news and identities from the vendor into the lake."""

import datetime as dt
from collections.abc import Callable

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
    return [yields_check, indices_check, news_check, identities_check]


def _warning(
    lake: Lake, table: str, judge: Callable[[pl.DataFrame], tuple[bool, dict[str, object]]]
) -> dg.AssetCheckResult:
    if lake.exists(table):
        passed, metadata = judge(lake.scan(table).collect())
    else:
        passed, metadata = False, {"missing": f"the lake has no {table}; the plan may lack them"}
    return dg.AssetCheckResult(
        passed=passed, severity=dg.AssetCheckSeverity.WARN, metadata=metadata
    )


@dg.asset_check(
    asset=YIELDS_TABLE,
    name="treasury_yields_are_sound",
    description="Yields in range, no holes on days of the bond market, none overdue.",
)
def yields_check(
    context: dg.AssetCheckExecutionContext, stores: dg.ResourceParam[Stores]
) -> dg.AssetCheckResult:
    """Judge the yields."""

    def judge(rows: pl.DataFrame) -> tuple[bool, dict[str, object]]:
        found = inspect_yields(rows, moment_of(context))
        return found.is_sound, dict(found.as_metadata())

    return _warning(stores.lake, YIELDS_TABLE, judge)


@dg.asset_check(
    asset=INDICES_TABLE,
    name="indices_are_sound",
    description="VIX in range, closes between low and high, no session missing or overdue.",
)
def indices_check(
    context: dg.AssetCheckExecutionContext, stores: dg.ResourceParam[Stores]
) -> dg.AssetCheckResult:
    """Judge the VIX."""

    def judge(rows: pl.DataFrame) -> tuple[bool, dict[str, object]]:
        found = inspect_index(rows.filter(pl.col("symbol") == VIX), moment_of(context))
        return found.is_sound, dict(found.as_metadata())

    return _warning(stores.lake, INDICES_TABLE, judge)


@dg.asset_check(
    asset=NEWS_TABLE,
    name="news_are_sound",
    description="Labels known, nothing known before it was published, an article this week.",
)
def news_check(
    context: dg.AssetCheckExecutionContext, stores: dg.ResourceParam[Stores]
) -> dg.AssetCheckResult:
    """Judge the news."""

    def judge(rows: pl.DataFrame) -> tuple[bool, dict[str, object]]:
        found = inspect_news(rows, moment_of(context))
        return found.is_sound, dict(found.as_metadata())

    return _warning(stores.lake, NEWS_TABLE, judge)


@dg.asset_check(
    asset=IDENTITIES_TABLE,
    name="identities_are_sound",
    description="No symbol borne by two companies at once; every symbol ingested has one.",
)
def identities_check(
    context: dg.AssetCheckExecutionContext, stores: dg.ResourceParam[Stores]
) -> dg.AssetCheckResult:
    """Judge the identities."""

    def judge(rows: pl.DataFrame) -> tuple[bool, dict[str, object]]:
        found = inspect_identities(rows, sorted(ingested_symbols(stores.lake)))
        return found.is_sound, dict(found.as_metadata())

    return _warning(stores.lake, IDENTITIES_TABLE, judge)
