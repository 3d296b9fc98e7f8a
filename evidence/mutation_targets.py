"""What mutation testing goes through: modules, the tests that guard them, and known equivalents."""

from __future__ import annotations

from evidence.mutant_trials import Target

_RISK = (
    "tests/execution/test_risk.py",
    "tests/execution/test_risk_boundaries.py",
    "tests/execution/test_risk_small_numbers.py",
    "tests/execution/test_checks_with_exits.py",
)
_GUARD = ("tests/execution/test_guard_boundaries.py", "tests/execution/test_guard.py")
_LEAK = ("tests/features/test_leakage_differences.py", "tests/features/test_settling.py")

AREAS: dict[str, tuple[Target, ...]] = {
    "risk checks": (
        Target("execution.checks", _RISK),
        Target("execution.exposure", ("tests/execution/test_exposure.py",)),
        Target("execution.risk", _RISK),
        Target("execution.risk_context", _RISK),
        Target("execution.day_trading", ("tests/execution/test_day_trading.py",)),
        Target("execution.guard", _GUARD),
    ),
    "splitters": (
        Target("models.splits", ("tests/models/test_splits.py",)),
        Target("models.combinatorial", ("tests/models/test_combinatorial.py",)),
        Target("models.inner_windows", ("tests/models/test_inner_windows.py",)),
        Target("models.walk_forward", ("tests/models/test_walk_forward.py",)),
    ),
    "leak audit": (
        Target("features.leakage", _LEAK),
        Target("features.audited", ("tests/features/test_audited.py",)),
        Target("models.audited", ("tests/models/test_audited.py",)),
        Target("isobar.leak_audit", ("tests/isobar/test_leak_audit.py",)),
    ),
}
"""By the words of ``docs/reliability.md``."""

_DENIED_BEFORE = "what is missing is denied before there is a scene"
_ORDER = "the order of equals decides the last bit of a sum alone, and not on every machine"
_RANGE = "where the upper end is below zero, the lower one is farther from it"
_ANY_BAND = "any seed and any neutral band do, as long as they stay the same"
_SIGN = "only the sign is looked at, and no order or fill is of nothing"

EQUIVALENT: dict[str, dict[str, str]] = {
    "execution.checks": {
        "Scene.__init__: context.own_quantities or {} -> context.own_quantities": _DENIED_BEFORE,
        "Scene.__init__: context.positions or () -> context.positions": _DENIED_BEFORE,
        "Scene.__init__: context.positions or () -> context.positions (2)": _DENIED_BEFORE,
        "Scene.__init__: context.open_orders or () -> context.open_orders": _DENIED_BEFORE,
        "Scene.__init__: context.open_orders or () -> context.open_orders (2)": _DENIED_BEFORE,
        "Scene.__init__: context.journalled or () -> context.journalled": _DENIED_BEFORE,
        "Scene.remember: opened * intent.signed_quantity -> opened / intent.signed_quantity": _SIGN,
        "_check_model: intent.horizon or '' -> intent.horizon": "no model is known under either",
        "Scene.__init__: context.sectors or {} -> context.sectors": "the check is not made then",
        **dict.fromkeys(
            (
                f"_check_day_trading: {a} is not None and {b} is not None -> {less}"
                for a, b in (
                    ("rule.day_trades", "rule.equity_usd"),
                    ("rule.long_margin", "rule.short_margin"),
                )
                for less in (
                    f"{a} is not None or {b} is not None",
                    f"{a} is not None",
                    f"{b} is not None",
                )
            ),
            "every rule sets both or neither",
        ),
        "_check_day_trading: day.opened_today.get(intent.symbol, Decimal(0)) * "
        "intent.signed_quantity "
        "-> day.opened_today.get(intent.symbol, Decimal(0)) / intent.signed_quantity": _SIGN,
    },
    "execution.day_trading": {
        "count_day_trades: before * signed -> before / signed": _SIGN,
    },
    "models.audited": dict.fromkeys(
        (
            "scalers_subject.compute: 1 -> 2",
            "scalers_subject.compute: 1 -> 0",
            ": 6.0 -> 7.0",
            ": 6.0 -> 5.0",
        ),
        _ANY_BAND,
    ),
    "features.audited": dict.fromkeys((": 6.0 -> 7.0", ": 6.0 -> 5.0"), _ANY_BAND),
    "models.inner_windows": {
        "session_scores: True -> False": _ORDER,
        "session_scores: True -> False (2)": "sessions are sorted already",
        "_rank_ic_of_times: pl.col('session').first() -> pl.col('session').last()": "a time is of "
        "one session",
    },
    "execution.guard": {
        ": 0 -> -1": "only the order of states by severity counts",
        ": 2 -> 3": "only the order of states by severity counts",
        "_rejects: 0 -> -1": "none refused is below every share",
        "_blindness: fresh is None or not found.positions -> fresh is None": "of no position the "
        "total is nothing, which ends it too",
    },
    "execution.exposure": {
        "ExposureBook.reduces_own: own * intent.signed_quantity -> own / intent.signed_quantity": (
            _SIGN
        ),
        "ExposureBook.reduces_own: own * intent.signed_quantity < 0 "
        "-> own * intent.signed_quantity <= 0": "nothing is left to reduce of nothing",
        "ExposureBook.add: self._own.get(symbol, _ZERO) * signed < 0 "
        "-> self._own.get(symbol, _ZERO) * signed <= 0": "nothing is left to reduce of nothing",
        "ExposureBook._count: abs(high) -> high": _RANGE,
        "ExposureBook._figures: abs(high) -> high": _RANGE,
        "ExposureBook._figures: abs(high_usd) -> high_usd": _RANGE,
    },
    "isobar.leak_audit": {
        "_subjects: 0 -> -1": "one horizon is of the next day",
        "_universe_subject.compute: rule.kind == 'membership' and rule.membership_file is not None "
        "-> rule.kind == 'membership'": "settings refuse a membership without its file",
    }
    | dict.fromkeys(
        (
            "load_features: spec is None or spec.loader is None "
            "-> spec is None and spec.loader is None",
            "load_features: spec is None or spec.loader is None -> spec.loader is None",
            "load_features: spec is None or spec.loader is None -> spec is None",
            "load_features: raise UsageError('this file cannot be imported', got=file, "
            "remedy='name a Python file') -> pass",
        ),
        "a file that ends in .py has both",
    )
    | dict.fromkeys(
        (f"_generated: {change}" for change in ("6 -> 7", "6 -> 5", "5 -> 6", "5 -> 4")),
        "a generated market of a symbol more or of another seed is audited alike",
    ),
    "features.leakage": {
        "choose_cuts: place + shift -> place - shift": "the shift is drawn from both sides alike",
        "settling: 'left' -> 'right' (2)": "both are in the order of their keys",
        "_unlike: 0.0 -> 1.0": "nulls are compared apart from what stands in their place",
        "_unlike: 0.0 -> -1.0": "nulls are compared apart from what stands in their place",
        "_unlike: True -> False": "as many names as columns are compared at once",
        ": 64 -> 65": "how many are compared at once changes no verdict",
        ": 64 -> 63": "how many are compared at once changes no verdict",
    },
}
"""By module, the key of a fault that no test can see, and why."""
