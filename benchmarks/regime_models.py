"""Which model names the regime: the figures of docs/regimes.md, from real daily bars.

`python -m benchmarks.regime_models` prints them; `--write` puts them, and a picture of a
synthetic market, into docs/. Bars are read where ISOBAR_SAMPLE_BARS points; only statistics leave.
"""

import argparse
import datetime as dt
import itertools
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl

from features.market_state import RETURN, market_state
from features.regime import classify_regimes
from features.regime_models import REGIME_MODELS, RefitPlan, RegimeModel, label_walk_forward
from market.actions import forward_adjust, session_factors
from market.replay_data import load_bars_file
from market.synthetic import SyntheticSpec, generate

FILE = "daily_us504_raw_1999_2014.parquet"
PLAN = RefitPlan()
MONTH = 21
BLOCK = 63
RESAMPLES = 2000
CUTS = 12
WORDS = ("bull", "neutral", "bear")
DECLINES = {
    "2008": (dt.date(2007, 1, 1), dt.date(2008, 6, 30)),
    "2011": (dt.date(2011, 1, 1), dt.date(2011, 8, 31)),
}
PAGE = Path(__file__).parent.parent / "docs" / "regimes.md"
PICTURE = PAGE.parent / "images" / "regimes.svg"
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"


@dataclass
class Judged:
    """What one model did."""

    name: str
    labels: np.ndarray
    spell: float
    switches: float
    shares: dict[str, float]
    returns: dict[str, tuple[float, float, float]]
    volatility: dict[str, tuple[float, float, float]]
    contrast: dict[str, tuple[float, float, float]]
    delays: dict[str, int | None]
    refit: float
    changed: int
    cuts: int
    seconds: float
    draws: dict[str, np.ndarray] = field(repr=False, default_factory=dict)


def read_adjusted(folder: Path) -> pl.DataFrame:
    made = load_bars_file(folder / FILE, as_of=dt.datetime(2020, 1, 1, tzinfo=dt.UTC))
    assert made.daily is not None
    return forward_adjust(made.daily, session_factors(made.daily, made.splits, made.dividends))


def next_month(change: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each session's log return over the next month and its yearly volatility."""
    ahead = np.lib.stride_tricks.sliding_window_view(change[1:], MONTH)
    missing = np.full(len(change) - len(ahead), np.nan)
    return (
        np.append(ahead.sum(axis=1), missing),
        np.append(np.sqrt((ahead**2).mean(axis=1) * 252), missing),
    )


def resampled_counts(length: int, seed: int = 0) -> np.ndarray:
    """Return how often each session is drawn, in circular blocks; (resamples, sessions)."""
    rng = np.random.default_rng(seed)
    out = np.empty((RESAMPLES, length))
    for row in out:
        starts = rng.integers(0, length, -(-length // BLOCK))
        drawn = (starts[:, None] + np.arange(BLOCK)).ravel()[:length] % length
        row[:] = np.bincount(drawn, minlength=length)
    return out


def interval(value: float, draws: np.ndarray) -> tuple[float, float, float]:
    low, high = np.nanquantile(draws, [0.025, 0.975])
    return float(value), float(low), float(high)


def means_by_regime(
    labels: np.ndarray, values: np.ndarray, counts: np.ndarray
) -> dict[str, tuple[float, np.ndarray]]:
    out = {}
    for word in WORDS:
        mask = (labels == word).astype(float)
        weight = counts @ mask
        with np.errstate(invalid="ignore", divide="ignore"):
            out[word] = (
                float(values[mask > 0].mean()) if mask.any() else np.nan,
                counts @ (mask * values) / weight,
            )
    return out


def changed_by_tomorrow(model: RegimeModel, daily: pl.DataFrame, whole: pl.DataFrame) -> int:
    """Count labels that differ when the bars after a cut-off are taken away."""
    sessions = whole["session"]
    places = np.random.default_rng(1).integers(PLAN.first, sessions.len() - 1, CUTS)
    changed = 0
    for place in places:
        seen = market_state(daily.filter(pl.col("session") <= sessions[int(place)]))
        labels = label_walk_forward(model, seen, PLAN)
        changed += int((labels != whole["regime"].head(labels.len())).sum())
    return changed


def changed_by_refit(model: RegimeModel, state: pl.DataFrame) -> float:
    """Return the share of past labels that the next fit gives otherwise, over all refits."""
    if not model.is_fitted:
        return 0.0
    cuts = PLAN.cuts(state.height)
    filters = [model.fit(state.head(cut)) for cut in cuts]
    different = total = 0
    for cut, before, after in zip(cuts, filters, filters[1:], strict=False):
        past = state.head(cut)
        one, two = np.array(before(past)), np.array(after(past))
        different += int((one != two).sum())
        total += cut
    return different / total


def peak_of(state: pl.DataFrame, first: dt.date, last: dt.date) -> int:
    """Return the place of the session with the market's highest close between two dates."""
    level = state.with_columns(pl.col(RETURN).cum_sum().alias("level")).with_row_index("place")
    inside = level.filter(pl.col("session").is_between(first, last)).sort("level")
    return int(inside["place"][-1])


def delay(labels: np.ndarray, peak: int) -> int | None:
    """Return the sessions from a peak to the first bear label at or after it."""
    after = np.flatnonzero(labels[peak:] == "bear")
    return int(after[0]) if len(after) else None


def judge(
    model: RegimeModel, daily: pl.DataFrame, state: pl.DataFrame, counts: np.ndarray
) -> Judged:
    begin = time.perf_counter()
    whole = state.with_columns(label_walk_forward(model, market_state(daily), PLAN))
    seconds = time.perf_counter() - begin
    every = whole["regime"].to_numpy()
    labels = every[PLAN.first :]
    spells = 1 + int((labels[1:] != labels[:-1]).sum())
    month, scatter = (v[PLAN.first : -MONTH] for v in next_month(state[RETURN].to_numpy()))
    ahead = means_by_regime(labels[:-MONTH], month, counts)
    rough = means_by_regime(labels[:-MONTH], scatter, counts)
    draws = {
        "return": ahead["bull"][1] - ahead["bear"][1],
        "volatility": np.log(rough["bear"][1] / rough["bull"][1]),
    }
    points = {
        "return": ahead["bull"][0] - ahead["bear"][0],
        "volatility": float(np.log(rough["bear"][0] / rough["bull"][0])),
    }
    return Judged(
        name=model.name,
        labels=every,
        spell=len(labels) / spells,
        switches=(spells - 1) / len(labels) * 252,
        shares={w: float((labels == w).mean()) for w in WORDS},
        returns={w: interval(*ahead[w]) for w in WORDS},
        volatility={w: interval(*rough[w]) for w in WORDS},
        contrast={k: interval(points[k], draws[k]) for k in points},
        delays={k: delay(every, peak_of(state, *span)) for k, span in DECLINES.items()},
        refit=changed_by_refit(model, state),
        changed=changed_by_tomorrow(model, daily, whole),
        cuts=CUTS,
        seconds=seconds,
        draws=draws,
    )


def difference(one: Judged, other: Judged, what: str) -> tuple[float, float, float]:
    return interval(
        one.contrast[what][0] - other.contrast[what][0], one.draws[what] - other.draws[what]
    )


def able(one: Judged) -> list[str]:
    """Return which of the criterion's conditions a model misses."""
    checks = {
        "labels change": one.changed == 0,
        "short spells": one.spell >= MONTH,
        "a rare regime": min(one.shares.values()) >= 0.10,
        "refits change labels": one.refit <= 0.05,
        "slow": one.seconds < 1.0,
    }
    return [name for name, passed in checks.items() if not passed]


def in_words(value: tuple[float, float, float], scale: float = 1.0, digits: int = 2) -> str:
    middle, low, high = (f"{v * scale:.{digits}f}" for v in value)
    return f"{middle} ({low} to {high})"


def tables(judged: list[Judged], state: pl.DataFrame) -> Iterator[str]:
    sessions = state["session"].to_list()
    judged_over = sessions[PLAN.first :]
    peaks = " and ".join(str(sessions[peak_of(state, *span)]) for span in DECLINES.values())
    yield (
        f"{len(judged_over):,} sessions from {judged_over[0]} to {judged_over[-1]} are judged; the "
        f"market's peaks before the two declines are {peaks}. In brackets: 95 percent intervals "
        f"from {RESAMPLES:,} resamples in circular blocks of {BLOCK} sessions.\n"
    )
    yield "| | " + " | ".join(j.name for j in judged) + " |"
    yield "|---" * (len(judged) + 1) + "|"
    rows: list[tuple[str, Callable[[Judged], str]]] = [
        ("mean spell, sessions", lambda j: f"{j.spell:.0f}"),
        ("switches a year", lambda j: f"{j.switches:.1f}"),
        (
            "share bull / neutral / bear, %",
            lambda j: " / ".join(f"{j.shares[w]:.0%}"[:-1] for w in WORDS),
        ),
        *(
            (f"next month's return in {w}, %", lambda j, w=w: in_words(j.returns[w], 100))
            for w in WORDS
        ),
        *(
            (
                f"next month's volatility in {w}, % a year",
                lambda j, w=w: in_words(j.volatility[w], 100, 1),
            )
            for w in WORDS
        ),
        ("return, bull less bear, %", lambda j: in_words(j.contrast["return"], 100)),
        ("log volatility, bear over bull", lambda j: in_words(j.contrast["volatility"])),
        *(
            (f"sessions from the peak to bear, {k}", lambda j, k=k: str(j.delays[k]))
            for k in DECLINES
        ),
        ("past labels changed by a refit, %", lambda j: f"{j.refit:.1%}"[:-1]),
        (
            "labels changed by a later bar",
            lambda j: f"{j.changed} at {j.cuts} cut-offs",
        ),
        ("seconds for all labels, fits included", lambda j: f"{j.seconds:.1f}"),
        ("not able to serve for", lambda j: ", ".join(able(j)) or "nothing"),
    ]
    for title, cell in rows:
        yield f"| {title} | " + " | ".join(cell(j) for j in judged) + " |"
    yield "\nLess the trend rule, on the same resampled sessions:\n"
    yield "| | return, bull less bear, % | log volatility, bear over bull |"
    yield "|---|---|---|"
    for j in judged[1:]:
        gaps = difference(j, judged[0], "return"), difference(j, judged[0], "volatility")
        yield f"| {j.name} | {in_words(gaps[0], 100)} | {in_words(gaps[1])} |"


def draw(state: pl.DataFrame, labels: list[str]) -> str:
    """Draw the level of a market over its regimes."""
    width, height, margin = 860, 260, 28
    colours = {"bull": "#cfe8d5", "bear": "#f3c9c4", "neutral": "#eceff1"}
    level = state[RETURN].cum_sum().to_numpy()
    low, high = float(level.min()), float(level.max())
    step = (width - 2 * margin) / max(1, len(level) - 1)
    x = margin + step * np.arange(len(level))
    y = height - margin - (level - low) / (high - low) * (height - 2 * margin)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    edges = [0, *(n for n in range(1, len(labels)) if labels[n] != labels[n - 1]), len(labels)]
    for begin, end in itertools.pairwise(edges):
        parts.append(
            f'<rect x="{x[begin]:.1f}" y="{margin}" width="{step * (end - begin):.1f}" '
            f'height="{height - 2 * margin}" fill="{colours[labels[begin]]}"/>'
        )
    path = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
    parts.append(f'<polyline points="{path}" fill="none" stroke="#263238" stroke-width="1.2"/>')
    for n in range(0, len(level), 126):
        parts.append(f'<text x="{x[n]:.1f}" y="{height - 9}">{state["session"][n]}</text>')
    for n, (word, colour) in enumerate(colours.items()):
        at = margin + 76 * n
        parts.append(f'<rect x="{at}" y="8" width="12" height="12" fill="{colour}"/>')
        parts.append(f'<text x="{at + 17}" y="18">{word}</text>')
    return "\n".join([*parts, "</svg>", ""])


def write(figures: str) -> None:
    page = PAGE.read_text(encoding="utf-8")
    before, rest = page.split(BEGIN)
    after = rest.split(END)[1]
    PAGE.write_text(f"{before}{BEGIN}\n{figures}\n{END}{after}", encoding="utf-8")
    market = generate(SyntheticSpec(symbols=30, sessions=1008, minute_sessions=0))
    daily = forward_adjust(
        market.daily, session_factors(market.daily, market.splits, market.dividends)
    )
    labels = classify_regimes(daily)["regime"].to_list()
    PICTURE.write_text(draw(market_state(daily), labels), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--write", action="store_true", help="write docs/regimes.md and its picture"
    )
    args = parser.parse_args()
    folder = os.environ.get("ISOBAR_SAMPLE_BARS")
    if not folder:
        sys.exit("ISOBAR_SAMPLE_BARS names no folder of real bars: set it and run again.")
    daily = read_adjusted(Path(folder))
    state = market_state(daily)
    counts = resampled_counts(state.height - PLAN.first - MONTH)
    judged = []
    for model in REGIME_MODELS.values():
        label_walk_forward(model, state.head(PLAN.first + 1), PLAN)
        judged.append(judge(model, daily, state, counts))
        print(f"{model.name}: judged", file=sys.stderr, flush=True)
    figures = "\n".join(tables(judged, state))
    print(figures)
    if args.write:
        write(figures)


if __name__ == "__main__":
    main()
