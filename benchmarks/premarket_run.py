"""A scheduled premarket run for 500 symbols with settled data in the lake, start to end.

What the schedule's run does, in a process of its own: features, scoring, publication, report; and
a parity check after it. Time is printed by step, and the peak of memory. The installation (two
years of daily bars, six weeks of minutes, synthetic; models with small budgets) is made once,
under var/.
"""

import datetime as dt
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil

from benchmarks.wanted import Wanted
from execution.paper import ReplayClock
from isobar.bootstrap import bootstrap
from market import calendar
from market.horizons import Run, find_horizon, scheduled_for
from market.replay import create_app as create_vendor
from market.serving import BackgroundServer
from market.synthetic import SyntheticSpec, generate
from market.synthetic_reference import serve_synthetic
from pipelines.launch import Launcher
from pipelines.profiles import SMALL
from pipelines.settings import load_settings

SYMBOLS, SESSIONS, MINUTE_SESSIONS = 500, 504, 31
HORIZONS = ("4h", "1d", "14d", "1M")
MOST_SECONDS, MOST_GB = 30, 3
HOME = Path("var/bench/premarket")
BEFORE = HOME / "before"
LEDGER = ("ledger.db", "signal_heads.jsonl")
KEY = "synthetic"
READY = "ready.json"
POLL_SECONDS = 0.05
CODE = """
import json, sys, time
began = time.perf_counter()
from pipelines.startup import collect_seldom
collect_seldom()  # As the command line does.
import datetime as dt
from market.horizons import Run
from pipelines.launch import Launcher
from pipelines.settings import load_settings
imported = time.perf_counter() - began
now, session = dt.datetime.fromisoformat(sys.argv[1]), dt.date.fromisoformat(sys.argv[2])
launcher = Launcher(load_settings(), now=now)
ready = time.perf_counter() - began
made = launcher.scheduled_run(Run.PREMARKET, session)
published = time.perf_counter() - began
# There is no batch of the day before: what a parity check costs is seen on this one.
from market.horizons import scheduled_for
from pipelines.signal_run import make_again, read_inputs
from signals.parity import compare_signals
from signals.publish import read_signals
stores, as_of = launcher.stores, scheduled_for(Run.PREMARKET, session)
with stores.ledger as ledger:
    batch = made["signals_premarket"]["batch"]
    rows, inputs = read_signals(ledger, batch=batch), read_inputs(ledger, batch)
differences = compare_signals(rows, make_again(stores, inputs, as_of).rows)
assert not differences, differences
steps = {
    "imports": imported,
    "definitions": ready - imported,
    "job": published - ready,
    "the same batch again (parity)": time.perf_counter() - began - published,
}
print(json.dumps({"steps": steps, "made": made}, default=str))
"""


def settings_file(market, today: dt.date) -> str:
    budgets = [
        line
        for name in HORIZONS
        for family in find_horizon(name).families
        if family in SMALL
        for line in (
            f'[models.tuned."{name}".{family}.params]',
            *(f"{key} = {value}" for key, value in SMALL[family].items()),
        )
    ]
    lines = [
        f"symbols = {json.dumps(market.tickers['symbol'].to_list())}",
        "[history]",
        f"start = {market.daily['session'].min()}",
        f"end = {today}",
        f"minute_sessions = {MINUTE_SESSIONS - 1}",
        "[models]",
        f"horizons = {json.dumps(HORIZONS)}",
        "matrix_gb = 0.25",
        "daily_test_sessions = 126",
        "daily_min_train_sessions = 252",
        "intraday_min_train_sessions = 15",
        "intraday_test_sessions = 10",
        *budgets,
    ]
    return "\n".join(lines) + "\n"


def make_installation() -> dict[str, str]:
    """Ingest, compute features and train, once; return the run's moment and session."""
    ready = HOME / READY
    if ready.exists():
        return json.loads(ready.read_text())
    HOME.mkdir(parents=True, exist_ok=True)  # What an earlier one left half-done is taken up.
    market = generate(
        SyntheticSpec(symbols=SYMBOLS, sessions=SESSIONS, minute_sessions=MINUTE_SESSIONS)
    )
    today = market.daily["session"].max()
    yesterday = calendar.previous_session(today)
    clock = ReplayClock(scheduled_for(Run.EOD, yesterday))
    vendor = create_vendor(serve_synthetic(market), api_key=KEY, now=clock.now)
    (HOME / "isobar.toml").write_text(settings_file(market, today))
    with BackgroundServer(vendor) as server:
        os.environ |= environment(server.url)
        bootstrap(Launcher(load_settings(), now=clock.now(), progress=say))
        launcher = Launcher(load_settings(), now=clock.now(), progress=say)
        launcher.scheduled_run(Run.EOD, yesterday)
    BEFORE.mkdir(exist_ok=True)
    for name in LEDGER:
        shutil.copy(HOME / name, BEFORE / name)
    moment = scheduled_for(Run.PREMARKET, today)
    found = {"now": moment.isoformat(), "session": today.isoformat()}
    ready.write_text(json.dumps(found))
    return found


def say(what: str, done: int, total: int) -> None:
    if done in (0, total):
        print(f"{time.strftime('%H:%M:%S')} {what} {done} of {total}", file=sys.stderr, flush=True)


def environment(url: str) -> dict[str, str]:
    return {"ISOBAR_HOME": str(HOME), "POLYGON_API_KEY": KEY, "POLYGON_BASE_URL": url}


def run_once(found: dict[str, str]) -> tuple[dict, float, float]:
    """Run it in a process; return what it said, its seconds and its peak in GB."""
    market = generate(
        SyntheticSpec(symbols=SYMBOLS, sessions=SESSIONS, minute_sessions=MINUTE_SESSIONS)
    )
    for name in LEDGER:
        # What an earlier measurement published is forgotten: this one publishes it again.
        shutil.copy(BEFORE / name, HOME / name)
    clock = ReplayClock(dt.datetime.fromisoformat(found["now"]))
    vendor = create_vendor(serve_synthetic(market), api_key=KEY, now=clock.now)
    with BackgroundServer(vendor) as server:
        words = [sys.executable, "-c", CODE, found["now"], found["session"]]
        began = time.perf_counter()
        child = psutil.Popen(
            words, env={**os.environ, **environment(server.url)}, stdout=subprocess.PIPE, text=True
        )
        peak = 0
        while child.poll() is None:
            try:
                family = [child, *child.children(recursive=True)]
                peak = max(peak, sum(p.memory_info().rss for p in family))
            except psutil.NoSuchProcess:
                continue
            time.sleep(POLL_SECONDS)
        seconds = time.perf_counter() - began
    if child.returncode:
        raise SystemExit("the run failed")
    return json.loads(child.stdout.read()), seconds, peak / 1e9


def main() -> None:
    """Make what is needed, run, print."""
    found = make_installation()
    said, seconds, peak = run_once(found)
    print(f"{SYMBOLS} symbols, {len(HORIZONS)} horizons")
    for step, spent in said["steps"].items():
        print(f"{step:40s} {spent:9.2f} s")
    for asset, made in said["made"].items():
        for name, value in made.items():
            if name.startswith("seconds"):
                print(f"{asset} {name:30s} {float(value):9.2f} s")
    wanted = Wanted()
    print(f"{'process':40s} {seconds:9.2f} s   {wanted.at_most(seconds, MOST_SECONDS)}")
    print(f"{'peak memory':40s} {peak:9.2f} GB  {wanted.at_most(peak, MOST_GB)}")
    wanted.end()


if __name__ == "__main__":
    main()
