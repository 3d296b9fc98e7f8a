"""Features, regimes and the version of the dataset that models learn from."""

import datetime as dt
from collections.abc import Sequence

import dagster as dg
import polars as pl

from features.definitions import definitions_hash
from features.regime import classify_regimes
from features.spec import Feature
from market.bars import read_adjusted
from market.errors import MarketError
from market.frame_hash import frame_hash
from market.ingest import bars_table
from market.ingest_log import read_log
from market.lake import Lake
from market.lineage import changed_sessions, dataset_digest
from market.timeframes import Timeframe
from pipelines.cluster import bulk_request
from pipelines.feature_run import (
    FeatureRun,
    definitions_of,
    feature_inputs,
    feature_table,
    kept_features,
    used_timeframes,
    warm_up_sessions,
)
from pipelines.freshness import EVERY_SESSION
from pipelines.partitions import session_partitions
from pipelines.resources import Stores, sessions_of
from pipelines.settings import Settings
from pipelines.side_tables import side_reader
from pipelines.table_metadata import as_table, count_rows, describe_table

GROUP = "features"
OWNERS = ["team:research"]
_FEATURES_SHOWN = 5


def build_feature_assets(settings: Settings) -> list[dg.AssetsDefinition]:
    """Return one features asset per input bar in use, regimes, and the dataset version."""
    frames = used_timeframes(settings)
    made = [_features_asset(t, kept_features(settings, t), settings) for t in frames]
    return [*made, regimes, _version_asset(frames)]


def build_feature_inputs(settings: Settings) -> list[dg.AssetsDefinition]:
    """Return one external asset per input bar in use: what each session's features rest on.

    A session's features rest on the bars of hundreds of sessions before it, and Dagster compares
    no data versions through a hundred or more upstream partitions. So each session has one
    digest of all of that here, reported by whatever changes it, and features become stale in
    Dagster exactly where it is another one than they were made from.
    """
    partitions = session_partitions(settings)
    # Each by itself: specs that are given together must reach back equally far.
    return [
        dg.AssetsDefinition(
            specs=[_inputs_spec(timeframe, kept_features(settings, timeframe), partitions)]
        )
        for timeframe in used_timeframes(settings)
    ]


def _inputs_spec(
    timeframe: Timeframe, features: Sequence[Feature], partitions: dg.PartitionsDefinition
) -> dg.AssetSpec:
    back = dg.TimeWindowPartitionMapping(
        start_offset=-warm_up_sessions(timeframe, features),
        allow_nonexistent_upstream_partitions=True,
    )
    return dg.AssetSpec(
        inputs_name(timeframe),
        partitions_def=partitions,
        deps=[
            *(dg.AssetDep(name, partition_mapping=back) for name in _bars_under(timeframe)),
            *("splits", "dividends", "treasury_yields", "indices", "news"),
        ],
        group_name=GROUP,
        owners=OWNERS,
        kinds={"deltalake"},
        description=f"Digest of the bars, actions, macro values, news and definitions that "
        f"{timeframe} features of a session rest on. Its data version is reported when it changes; "
        "not materialised by hand.",
    )


def inputs_name(timeframe: Timeframe) -> str:
    """Return the name of the external asset that stands for the inputs of these features."""
    return f"inputs_of_{feature_table(timeframe)}"


def report_changed_inputs(context: dg.AssetExecutionContext, stores: Stores) -> int:
    """Tell Dagster which existing features rest on something else by now; return how many."""
    count = 0
    for timeframe in used_timeframes(stores.settings):
        features = kept_features(stores.settings, timeframe)
        definitions = definitions_of(features, stores.settings.features.sectors_file)
        inputs = feature_inputs(stores.lake, timeframe, features)
        changed = changed_sessions(stores.lake, timeframe, inputs, definitions)
        # The newest one always: Dagster holds later versions only against an earlier record.
        for session in {*changed, *sorted(inputs)[-1:]}:
            context.log_event(
                dg.AssetObservation(
                    inputs_name(timeframe),
                    partition=session.isoformat(),
                    tags={"dagster/data_version": definitions.version(inputs[session])},
                )
            )
        count += len(changed)
    return count


def _bars_under(timeframe: Timeframe) -> list[str]:
    return ["bars_1d"] if timeframe is Timeframe.D1 else ["bars_1d", "bars_1m"]


def _features_asset(
    timeframe: Timeframe, kept: Sequence[Feature], settings: Settings
) -> dg.AssetsDefinition:
    @dg.asset(
        name=feature_table(timeframe),
        partitions_def=session_partitions(settings),
        op_tags=bulk_request(settings.cluster),
        # Bars and actions set the order of work; what makes features stale are their inputs.
        deps=[*_bars_under(timeframe), "splits", "dividends", inputs_name(timeframe)],
        code_version=definitions_hash(kept),
        backfill_policy=dg.BackfillPolicy.single_run(),
        group_name=GROUP,
        owners=OWNERS,
        kinds={"polars", "deltalake"},
        freshness_policy=EVERY_SESSION,
        description=f"{len(kept)} features on {timeframe} bars, forward-adjusted. Only what is "
        "missing, or was made from other bars or definitions, is computed.",
    )
    def features(
        context: dg.AssetExecutionContext, stores: dg.ResourceParam[Stores]
    ) -> dg.MaterializeResult:
        stores.refuse_adjusted()
        sessions = sessions_of(context)
        _refuse_unfetched(stores.lake, timeframe, sessions)
        shown = ["symbol", *(f.name for f in kept[:_FEATURES_SHOWN])]
        side = side_reader(stores.settings, stores.lake, timeframe)
        sectors = stores.settings.features.sectors_file
        run = FeatureRun(stores.lake, timeframe, kept, side, sectors)
        made = run.refresh(sessions)
        _report_dataset(context, stores)
        return dg.MaterializeResult(
            metadata={
                "rows written": made.rows,
                "features": len(kept),
                "values computed": made.values,
                "sessions": made.sessions,
                "null share": round(made.null_share, 4),
                **describe_table(stores.lake, feature_table(timeframe), shown),
            }
        )

    return features


def _refuse_unfetched(lake: Lake, timeframe: Timeframe, sessions: Sequence[dt.date]) -> None:
    """Refuse sessions whose bars were never asked for: filled partitions would hide the hole."""
    source = Timeframe.M1 if timeframe.is_intraday else Timeframe.D1
    missing = sorted(set(sessions) - read_log(lake, source).keys())
    if missing:
        raise MarketError(
            f"features of sessions whose {source} bars were never fetched",
            got=f"{len(missing)} of {len(sessions)} sessions, {missing[0]} to {missing[-1]}",
            allowed="sessions that were ingested, with bars or found to have none",
            remedy=f"materialise {bars_table(source)} of these sessions first, or with them",
        )


def _report_dataset(context: dg.AssetExecutionContext, stores: Stores) -> None:
    # Models become stale as soon as what they learn from is another, whoever recomputed it.
    version = dataset_digest(stores.lake, used_timeframes(stores.settings))
    context.log_event(
        dg.AssetMaterialization("dataset_version", tags={"dagster/data_version": version})
    )


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds={"polars", "deltalake"},
    deps=["bars_1d"],
    freshness_policy=EVERY_SESSION,
)
def regimes(
    context: dg.AssetExecutionContext, stores: dg.ResourceParam[Stores]
) -> dg.MaterializeResult:
    """Label each session bull, bear or neutral from what was known at its close."""
    stores.refuse_adjusted()
    made = classify_regimes(read_adjusted(stores.lake, Timeframe.D1, None, None))
    stores.lake.replace("regimes", made, None)
    counts = dict(made["regime"].value_counts().iter_rows())
    return dg.MaterializeResult(
        data_version=dg.DataVersion(frame_hash(made)),
        metadata={
            **describe_table(stores.lake, "regimes"),
            **counts,
            "newest": as_table(made.sort("session").tail(5)),
        },
    )


def _version_asset(timeframes: list[Timeframe]) -> dg.AssetsDefinition:
    # Dagster works out no staleness through a hundred or more upstream partitions: models
    # depend on this one unpartitioned asset instead.
    @dg.asset(
        deps=[feature_table(t) for t in timeframes],
        group_name=GROUP,
        owners=OWNERS,
        kinds={"deltalake"},
        freshness_policy=EVERY_SESSION,
        description="Identity of the features that models learn from; its data version changes "
        "when any of them does.",
    )
    def dataset_version(
        context: dg.AssetExecutionContext, stores: dg.ResourceParam[Stores]
    ) -> dg.MaterializeResult:
        version = dataset_digest(stores.lake, timeframes)
        return dg.MaterializeResult(
            data_version=dg.DataVersion(version),
            metadata={
                "dataset version": version,
                **{
                    f"rows: {feature_table(t)}": count_rows(stores.lake, feature_table(t))
                    for t in timeframes
                    if stores.lake.exists(feature_table(t))
                },
            },
        )

    return dataset_version


def build_feature_checks(settings: Settings) -> list[dg.AssetChecksDefinition]:
    """Return the checks on features."""
    return [_features_check(t) for t in used_timeframes(settings)]


def _features_check(timeframe: Timeframe) -> dg.AssetChecksDefinition:
    table = feature_table(timeframe)

    @dg.asset_check(
        asset=table,
        name=f"{table}_are_finite",
        description="No infinite or NaN value: what is not known is null.",
    )
    def check(
        context: dg.AssetCheckExecutionContext, stores: dg.ResourceParam[Stores]
    ) -> dg.AssetCheckResult:
        frame = stores.lake.scan(table)
        names = [n for n, t in frame.collect_schema().items() if t == pl.Float32]
        bad = frame.select(
            pl.sum_horizontal((~pl.col(n).is_finite()).sum() for n in names).alias("bad"),
            pl.len().alias("rows"),
        ).collect()
        return dg.AssetCheckResult(
            passed=bad["bad"][0] == 0,
            metadata={"not finite": int(bad["bad"][0]), "rows": int(bad["rows"][0])},
        )

    return check
