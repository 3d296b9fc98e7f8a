"""docs/benchmarks.md: what every benchmark printed last, with its command, machine and date."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "benchmarks.md"

_HEAD = """\
# Benchmarks

`make bench` runs them and writes this page from what they print; `make bench-peers` runs the two
beside pyqlib, whose environment it builds in `.venv-peers`. Each compares with the peer or the
physical limit in one run, after checking that the values agree. What is wanted stands behind a
figure in brackets; a benchmark that falls short says so. Seconds depend on the machine and on
what runs beside; ratios less.

The machine is a virtual one whose processor others use as well. On 2026-11-27, the day of most
figures, it took about twice as long for everything as two days before, the peers included:
pyqlib's Alpha158 73 s for 44 s, its backtest 49 s for 29 s, pandas-ta-classic 306 s for 148 s, a
fit of XGBoost 6.8 s for 3.4 s. Of what is wanted in seconds, five benchmarks reached theirs only
two days before; measured again on 2026-11-28, on another processor, two of them reached it and
three came near (scoring of one symbol, changes of an order, the latest batch on PostgreSQL). Of
what is wanted as a ratio all was reached on every day; once in between, Alpha158 gave 19.1 for
the 20 that are wanted.
"""


@dataclass(frozen=True)
class Entry:
    """A benchmark on the page: its name, a heading, what a reader should know, how it is run.

    It is the module of its name without arguments, unless ``command`` says otherwise.
    """

    name: str
    title: str
    note: str = ""
    command: tuple[str, ...] = ()

    @property
    def words(self) -> tuple[str, ...]:
        """The module of ``python -m``, and its arguments."""
        return self.command or (f"benchmarks.{self.name}",)


SECTIONS: dict[str, tuple[Entry, ...]] = {
    "Bars": (
        Entry(
            "ingest_rest",
            "REST, from the vendor's page to the judged, written partition",
            "At least three times the bars a second of iterating the official client's "
            "`list_aggs` alone. The margin is thin, and goes where "
            "other work runs.",
        ),
        Entry("flat_files", "A flat file of 1.7 million minutes, from S3 to the settled partition"),
        Entry("ingest_again", "A year of settled minutes of 500 symbols, ingested again"),
        Entry("lake_reads", "Reads of the lake beside a file of exactly those rows"),
    ),
    "Features": (
        Entry(
            "alpha158_vs_pyqlib",
            "Alpha158 beside pyqlib 0.9.7",
            "800 symbols over 3,393 sessions; all values agree first. Compiling every kernel takes "
            "some seconds, once: installation does it (`python -m features.warm`).",
        ),
        Entry("technical_vs_pandas_ta", "Technical features beside pandas-ta-classic"),
        Entry(
            "feature_scaling",
            "How features grow, and the midday step",
            "The midday step took 0.67 s two days before, and 2.40 s in the slowest hour of this "
            "day.",
        ),
        Entry("leak_audit", "Planted leaks caught, clean columns accused"),
    ),
    "Models": (
        Entry("dataset_assembly", "The matrix that models learn from"),
        Entry(
            "tree_training",
            "Trees and forests beside the library alone",
            "On the ready matrix the library by itself gives the same forecasts.",
        ),
        Entry(
            "neural_training",
            "Networks",
            "One thread is the default: a second took up to a third off an epoch where the other "
            "core was free, and made it up to five times "
            "as long where it was not.",
        ),
        Entry(
            "neural_training_gpu",
            "Networks on a GPU",
            "Steps of four times and epochs of eight times as many rows, in bfloat16. For 2 of "
            "the 6 ms of an LSTM's step the GPU computes, "
            "the rest is Python that tells it to. Two fits with one seed forecast the same to "
            "the bit. Forecasts are made on the CPU in either "
            "case: 20,000 of them took 0.29 s there and 0.24 s on the GPU (LSTM).",
        ),
        Entry("training_memory", "Memory of a training on minutes"),
        Entry(
            "scoring",
            "Scoring",
            "A symbol alone is forecast as beside all others. Most of the time is the models' own. "
            "The day before, in a slower hour: 165 ms (99th percentile) and 0.90 s. On another "
            "processor: 70 to 99 ms (six runs) and 0.52 to 0.60 s; in its slower hours 151 and "
            "170 ms, 0.92 and 1.04 s.",
        ),
    ),
    "Signals and orders": (
        Entry(
            "execution",
            "From a published batch to orders",
            "A change of an order is an update, the last hash of the audit log, an inserted row "
            "and a commit on disk. The day before, when bare SQLite committed 3,764 rows a second: "
            "1,174. On another machine, whose disk took 11,359: 2,820 to 2,946; in its slower "
            "hours 1,251 and 1,919.",
        ),
        Entry(
            "ledger_reads",
            "Reads of a ledger with a million signals",
            "As typed Polars frames, medians and ranges of 21, from a warm cache. Time goes with "
            "rows, 6 microseconds each on a quick machine and 8 to 13 on this one. The day "
            "before, in a slower hour: the latest batch in 77 ms (SQLite) and 64 ms (PostgreSQL). "
            "On another processor: 35 to 40 and 39 to 42 ms; in a slower hour 87 and 78 ms.",
        ),
        Entry(
            "premarket_run",
            "A whole premarket run",
            "Two years of daily bars, six weeks of minutes, 1.8 million past predictions. What "
            "is read of them is bounded: of each horizon the "
            "newest 504 sessions (120 of intraday bars); what is kept of the others: "
            "[models.md](models.md). Half of the job is to load models and weights. "
            "The day before, in a slower hour: 40.95 s, of which 2 s were spent after the last "
            "step and are not any more. On another processor: 24.9 and 28.7 s; in its slower hours "
            "38.64 and 43.12 s.",
        ),
    ),
    "Backtest": (
        Entry(
            "simulate_backtest",
            "The decision loop through targets, planning and all risk checks",
            "Planted forecasts of a synthetic market; settings as installed but for the two "
            "limits that would end the trading. The day before, in a slower hour: 148.3 s. On "
            "another processor: 87.1 s, and 178.6 s in a slower hour.",
        ),
        Entry(
            "backtest_vs_pyqlib",
            "The replay beside pyqlib's TopkDropout and a bare vectorbt call",
            "pyqlib's equity and that of our replay of its trades agree within 1e-7 at every "
            "close (its prices are of single precision), our "
            "replay and our simulation to the cent.",
        ),
    ),
    "More than one machine": (
        Entry(
            "cluster",
            "The demo on a Ray cluster",
            "All workers and servers share the cores of one machine here: what is seen is what "
            "the cluster costs, not how it grows "
            "([cluster.md](cluster.md)).",
        ),
        Entry(
            "cluster_larger",
            "The same with three times as many symbols",
            "Measured on another processor than the 5 symbols above, so roughly: three times "
            "the symbols take 1.4 times as long, with one worker as in one process. Two workers "
            "need 0.83 of the one's time for the trainings, on the two cores that the servers "
            "use as well.",
            command=("benchmarks.cluster", "--symbols", "15"),
        ),
    ),
}
ENTRIES = {
    e.name: e for entries in SECTIONS.values() for e in entries if e.name != "neural_training_gpu"
}


def write_page() -> None:
    """Write the page of every result that is kept."""
    PAGE.write_text(render({f.stem: json.loads(f.read_text()) for f in RESULTS.glob("*.json")}))


def render(results: dict[str, dict[str, Any]]) -> str:
    """Return the page; what was not run is said.

    Parameters
    ----------
    results : dict
        By name of the benchmark: ``command``, ``machine``, ``date``, ``minutes``, ``reached`` and
        the lines of ``output``.
    """
    parts = [_HEAD]
    for section, entries in SECTIONS.items():
        parts.append(f"## {section}\n")
        for entry in entries:
            parts.append(f"### {entry.title}\n")
            parts.append(_told(results.get(entry.name)))
            if entry.note:
                parts.append(f"{entry.note}\n")
    return "\n".join(parts)


def _told(result: dict[str, Any] | None) -> str:
    if result is None:
        return "Not run.\n"
    block = "\n".join(["```text", *result["output"], "```"])
    short = "" if result["reached"] else " **Short of what is wanted.**"
    return (
        f"{block}\n\n`{result['command']}`, {result['date']}, {result['minutes']:g} minutes, "
        f"{result['machine']}.{short}\n"
    )
