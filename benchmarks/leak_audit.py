"""The leak audit's score: planted leaks that it catches, clean columns that it accuses."""

from benchmarks.wanted import Wanted
from features.audited import barriers_subject, features_subject, labels_subject, regimes_subject
from features.leakage import Subject, audit, choose_cuts
from features.registry import FAMILIES, select_features
from market.horizons import HORIZONS
from market.timeframes import Timeframe
from tests.features.planted_leaks import audit_tables, planted_leaks

TIMEFRAMES = (Timeframe.D1, Timeframe.M30, Timeframe.M5, Timeframe.M1)


def measure(wanted: Wanted) -> list[str]:
    tables = audit_tables()
    cuts = choose_cuts(tables, 8, seed=4)
    leaks = planted_leaks()
    missed = [s.name for s in leaks if not audit(s, tables, cuts)]
    caught = len(leaks) - len(missed)
    clean = _clean()
    accused = [str(f) for s, _ in clean for f in audit(s, tables, cuts)]
    columns = sum(n for _, n in clean)
    return [
        f"{len(cuts)} cut-offs, all symbols, compared to the bit",
        f"planted leaks caught    {caught} of {len(leaks)}   {wanted.at_least(caught, len(leaks))}",
        *(f"  missed: {name}" for name in missed),
        f"clean columns accused   {len(accused)} of {columns}, in {len(clean)} subjects"
        f"   {wanted.at_most(len(accused), 0)}",
        *(f"  {finding}" for finding in accused),
    ]


def _clean() -> list[tuple[Subject, int]]:
    """Return everything that the registry, the labels and the regimes hold, and how much."""
    made: list[tuple[Subject, int]] = [(regimes_subject(), 1)]
    for timeframe in TIMEFRAMES:
        for family in FAMILIES:
            features = select_features(family=family, timeframe=timeframe)
            if features:
                made.append((features_subject(features, timeframe), len(features)))
    for horizon in HORIZONS:
        made += [(labels_subject(horizon), 9), (barriers_subject(horizon), 5)]
    return made


if __name__ == "__main__":
    wanted = Wanted()
    print("\n".join(measure(wanted)))
    wanted.end()
