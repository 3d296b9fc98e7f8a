"""What a batch of signals was made from: enough to make it again, and to say what changed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import polars as pl

from market.errors import SignalError
from market.frame_hash import frame_hash
from market.hash_chain import canonical_json
from models.forecast import Prediction
from signals.score import Scores

FORECASTS = "forecasts"
"""The digest of what came out; all others are of what went in."""


@dataclass(frozen=True)
class HorizonInputs:
    """What the signals of one horizon were made from.

    Attributes
    ----------
    champions, challengers : mapping
        Family to the version of its model.
    digests : mapping
        What to a digest of it: ``features``, ``regimes``, ``weights``, ``calibrators``,
        ``residuals``, ``scale``, ``prices``, ``forecasts``, and ``meta-learner`` where there is
        one.
    """

    champions: Mapping[str, str]
    challengers: Mapping[str, str]
    digests: Mapping[str, str]


@dataclass(frozen=True)
class BatchInputs:
    """What a batch was made from.

    Attributes
    ----------
    code : str
        Version of the code.
    settings : mapping
        JSON: all settings that can change a number.
    tables : mapping
        Table of the lake to its version.
    horizons : mapping
        Horizon to its inputs.
    """

    code: str
    settings: Mapping[str, Any]
    tables: Mapping[str, int]
    horizons: Mapping[str, HorizonInputs]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Self:
        """Return what :meth:`to_json` made.

        Raises
        ------
        SignalError
            When it is something else.
        """
        try:
            horizons = {h: HorizonInputs(**one) for h, one in found["horizons"].items()}
            return cls(found["code"], found["settings"], found["tables"], horizons)
        except (KeyError, TypeError, AttributeError) as error:
            raise SignalError(
                f"the inputs of a batch cannot be read ({error})",
                got=str(found)[:80],
                allowed="what publication stored",
                remedy="restore the ledger from a backup",
            ) from error


def horizon_inputs(scores: Scores, prices: Mapping[str, float]) -> HorizonInputs:
    """Return what one horizon's signals are made from.

    Parameters
    ----------
    scores : Scores
        What the models made of the newest bar.
    prices : mapping
        Last price of each symbol, USD.
    """
    ensemble = scores.ensemble
    symbols = scores.predictions[Prediction.SYMBOL].unique().sort().to_list()
    digests = {
        "features": scores.data_hash,
        "regimes": frame_hash(ensemble.regimes.select("as_of", "regime").sort("as_of")),
        "weights": frame_hash(ensemble.weights.sort("regime", "engine")),
        "calibrators": _digest({e: c.to_json() for e, c in ensemble.calibrators.items()}),
        "scale": _digest(ensemble.scale),
        "residuals": _digest({e: r.to_json() for e, r in ensemble.residuals.items()}),
        "prices": _digest({s: prices.get(s) for s in symbols}),
        FORECASTS: _forecasts(scores.predictions),
    }
    if ensemble.stacked is not None:
        digests["meta-learner"] = frame_hash(ensemble.stacked)
    champions, challengers = (
        {m.family.name: m.version for m in models}
        for models in (ensemble.champions, ensemble.challengers)
    )
    return HorizonInputs(champions, challengers, digests)


def changed_inputs(before: BatchInputs, after: BatchInputs) -> list[str]:
    """Return what went into a batch and is not what went into it again, in words.

    Horizons that are in one alone are compared with nothing.
    """
    found: list[str] = []
    if before.settings != after.settings:
        names = {*before.settings, *after.settings}
        of = sorted(n for n in names if before.settings.get(n) != after.settings.get(n))
        found.append(f"settings: {', '.join(of)}")
    names = sorted({*before.tables, *after.tables})
    versions = ((n, before.tables.get(n), after.tables.get(n)) for n in names)
    found += [f"table {n}: version {old}, now {new}" for n, old, new in versions if old != new]
    for name in before.horizons.keys() & after.horizons.keys():
        old, new = before.horizons[name], after.horizons[name]
        for role in ("champions", "challengers"):
            if getattr(old, role) != getattr(new, role):
                found.append(f"{name}: {role}")
        kinds = {*old.digests, *new.digests} - {FORECASTS}
        found += [
            f"{name}: {kind}"
            for kind in sorted(kinds)
            if old.digests.get(kind) != new.digests.get(kind)
        ]
    if before.code != after.code:
        found.append(f"code: {before.code}, now {after.code}")
    return found


def _forecasts(predictions: pl.DataFrame) -> str:
    keys = [Prediction.SYMBOL, Prediction.ENGINE]
    return frame_hash(predictions.sort(keys).select(sorted(predictions.columns)))


def _digest(value: object) -> str:
    return hashlib.sha256(canonical_json(value)).hexdigest()[:16]
