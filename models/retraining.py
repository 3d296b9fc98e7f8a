"""Whether a model should be trained again, from what has drifted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import polars as pl

from market.errors import ModelError
from models.decay import CalibrationDrift, SkillDrift


class Reason(StrEnum):
    """Why a model should be trained again."""

    FEATURES = "features"
    CALIBRATION = "calibration"
    SKILL = "skill"


@dataclass(frozen=True, slots=True)
class DriftLimits:
    """From where on drift asks for a training.

    Attributes
    ----------
    drifted_share : float
        Share of the features, by importance, that may have drifted.
    calibration_error : float
        Worsening of the calibration error that is borne even when the interval supports it.
    rank_ic : float
        Loss of rank IC that is borne even when the interval supports it.
    """

    drifted_share: float = 0.25
    calibration_error: float = 0.01
    rank_ic: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.drifted_share <= 1.0 or min(self.calibration_error, self.rank_ic) < 0.0:
            raise ModelError(
                "limits of drift",
                got=str(self),
                allowed="a share from 0 to 1, and losses of 0 or more",
                remedy="correct the settings",
            )


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether to train again, and why.

    Attributes
    ----------
    reasons : tuple of Reason
        Empty when nothing asks for it.
    findings : tuple of str
        One sentence for each thing that was looked at.
    drifted_share : float
        Share of the features, by importance, that drifted; NaN when not looked at.
    """

    reasons: tuple[Reason, ...]
    findings: tuple[str, ...]
    drifted_share: float

    @property
    def retrain(self) -> bool:
        """Whether to train again."""
        return bool(self.reasons)


def needs_retraining(
    *,
    features: pl.DataFrame | None = None,
    calibration: CalibrationDrift | None = None,
    skill: SkillDrift | None = None,
    importance: Mapping[str, float] | None = None,
    limits: DriftLimits | None = None,
) -> Verdict:
    """Combine what was found about features, probabilities and skill.

    Parameters
    ----------
    features : pl.DataFrame, optional
        From :func:`models.drift.feature_drift`.
    calibration : CalibrationDrift, optional
        From :func:`models.decay.calibration_drift`.
    skill : SkillDrift, optional
        From :func:`models.decay.skill_drift`.
    importance : mapping, optional
        What each feature weighs in the model, 0 or more; alike by default. A feature that is not
        named weighs nothing.
    limits : DriftLimits, optional
        The thresholds; the defaults of :class:`DriftLimits`.

    Returns
    -------
    Verdict
        Each reason is enough. What was not given is not judged, and the findings do not name it.

    Raises
    ------
    ModelError
        When nothing is given, or no feature weighs anything.

    Examples
    --------
    >>> found = pl.DataFrame({"feature": ["a", "b", "c"], "drifted": [True, False, False]})
    >>> needs_retraining(features=found).reasons
    (<Reason.FEATURES: 'features'>,)
    >>> needs_retraining(features=found, importance={"b": 3.0, "a": 1.0}).retrain
    False
    """
    allowed = limits if limits is not None else DriftLimits()
    if features is None and calibration is None and skill is None:
        raise ModelError(
            "nothing to judge a model by",
            allowed="drift of features, calibration or skill",
            remedy="compute at least one of them",
        )
    reasons: list[Reason] = []
    findings: list[str] = []
    share = float("nan")
    if features is not None:
        share = _drifted_share(features, importance)
        findings.append(
            f"{share:.0%} of the features by importance drifted, {allowed.drifted_share:.0%} may"
        )
        if share > allowed.drifted_share:
            reasons.append(Reason.FEATURES)
    if calibration is not None:
        gap = calibration.calibration_error.difference
        findings.append(
            f"calibration error changed by {gap.mean:+.4f} ({gap.low:+.4f} to {gap.high:+.4f})"
        )
        if calibration.worsened and gap.mean > allowed.calibration_error:
            reasons.append(Reason.CALIBRATION)
    if skill is not None:
        lost = skill.difference
        findings.append(
            f"rank IC changed by {lost.mean:+.4f} ({lost.low:+.4f} to {lost.high:+.4f})"
        )
        if skill.decayed and -lost.mean > allowed.rank_ic:
            reasons.append(Reason.SKILL)
    return Verdict(tuple(reasons), tuple(findings), share)


def _drifted_share(features: pl.DataFrame, importance: Mapping[str, float] | None) -> float:
    names = features["feature"].to_list()
    weight = [1.0 if importance is None else importance.get(n, 0.0) for n in names]
    total = sum(weight)
    if min(weight, default=0.0) < 0.0 or not total > 0.0:
        raise ModelError(
            "importance of the features",
            got=f"a sum of {total} over {len(names)} features",
            allowed="0 or more for each, above 0 for some",
            remedy="pass the model's own, or leave it out",
        )
    drifted = features["drifted"].to_list()
    return sum(w for w, d in zip(weight, drifted, strict=True) if d) / total
