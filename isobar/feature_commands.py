"""Commands about features: what there is, what each one means, and whether any looks ahead."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from features.catalogue import describe, summarise
from features.registry import FAMILIES, select_features
from isobar import output
from isobar.arguments import JsonFlag, read_timeframe, usage
from isobar.leak_audit import AuditReport, load_features, run_audit
from pipelines.settings import load_settings

_SHOWN = 40

features_app = typer.Typer(no_args_is_help=True, help="The registered features.")
audit_app = typer.Typer(no_args_is_help=True, help="Audits of what must always hold.")


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.add_typer(features_app, name="features")
    app.add_typer(audit_app, name="audit")


@features_app.command("list")
def list_features(
    family: Annotated[str, typer.Option("--family", help="Only this family.")] = "",
    timeframe: Annotated[str, typer.Option(help="Only what is computed on such bars.")] = "",
    as_json: JsonFlag = False,
) -> None:
    """List the registered features: name, family, lookback, meaning."""
    found = usage(
        lambda: select_features(
            family=family or None, timeframe=read_timeframe(timeframe) if timeframe else None
        )
    )
    if as_json:
        output.print_json([summarise(f) for f in found])
        return
    rows = [(f.name, f.family, f.lookback, f.memory.value, f.meaning) for f in found]
    title = f"{len(found)} features in {len({f.family for f in found})} of {len(FAMILIES)} families"
    output.out.print(output.table(title, ("name", "family", "bars", "memory", "meaning"), rows))


@features_app.command("describe")
def describe_feature(name: str, as_json: JsonFlag = False) -> None:
    """Say what a feature means, what it reads, how far back, and where it comes from."""
    feature = usage(lambda: select_features([name]))[0]
    if as_json:
        output.print_json(describe(feature))
    else:
        output.print_mapping(feature.name, describe(feature))


@audit_app.command("leaks")
def audit_leaks(
    timeframe: Annotated[
        list[str] | None, typer.Option("--timeframe", help="Bars to audit; those in use.")
    ] = None,
    feature: Annotated[
        list[str] | None,
        typer.Option("--feature", help="A feature of yours, FILE.py:NAME, instead of all."),
    ] = None,
    cuts: Annotated[int, typer.Option(help="Cut-offs for each table.", min=1)] = 4,
    sessions: Annotated[int, typer.Option(help="Newest sessions of daily bars.", min=40)] = 500,
    minutes: Annotated[int, typer.Option(help="Newest sessions of minutes.", min=3)] = 20,
    seed: Annotated[int, typer.Option(help="Of the choice of cut-offs.")] = 1,
    synthetic: Annotated[
        bool, typer.Option("--synthetic", help="On a generated market, without a lake.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Cut off the future and compare to the bit; exit with 1 when anything had seen it."""
    chosen = None
    if feature:
        chosen = [f for place in feature for f in load_features(place)]
    with output.progress_bars(quiet=as_json) as progress:
        report = run_audit(
            load_settings(),
            timeframes=[read_timeframe(t) for t in timeframe] if timeframe else None,
            features=chosen,
            cuts=cuts,
            sessions=sessions,
            minute_sessions=minutes,
            seed=seed,
            synthetic=synthetic,
            progress=progress,
        )
    if as_json:
        output.print_json(report.as_dict())
    else:
        _show(report)
    if report.findings:
        raise typer.Exit(1)


def _show(report: AuditReport) -> None:
    rows: list[tuple[Any, ...]] = [(a.name, a.columns, a.cuts, a.findings) for a in report.audited]
    output.out.print(output.table("Leak audit", ("audited", "columns", "cut-offs", "found"), rows))
    for finding in report.findings:
        output.out.print(output.styled(("leak", "bold red"), f" {finding}"), soft_wrap=True)
    starts = report.depend_on_start
    if starts:
        shown = [
            (s.feature, s.lookback, "never here" if s.settles_bars is None else s.settles_bars)
            for s in starts[:_SHOWN]
        ]
        title = f"{len(starts)} features depend on where history starts"
        output.out.print(output.table(title, ("feature", "first value", "settled after"), shown))
        if len(starts) > _SHOWN:
            output.out.print(f"... and {len(starts) - _SHOWN} more: use --json")
    if not report.findings:
        output.out.print(output.styled(("Nothing had seen the future.", "bold green")))
