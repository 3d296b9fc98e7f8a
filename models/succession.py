"""Who is champion, who is challenger, and who was when: a list of events and what follows from it.

Every change of a family's champion is one event, written once and never altered. What serves now,
what served at a past moment and where a rollback leads are all read from that list.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

import orjson
import polars as pl

from market.errors import ModelError
from market.schema import UTC_MICROSECONDS

Evidence = Mapping[str, float | int | str | None]
_LONGEST_REASON = 500

HISTORY_SCHEMA = pl.Schema(
    {
        "horizon": pl.String(),
        "family": pl.String(),
        "step": pl.String(),
        "number": pl.Int64(),
        "previous": pl.Int64(),
        "at": UTC_MICROSECONDS,
        "known_at": UTC_MICROSECONDS,
        "recipe": pl.String(),
        "reason": pl.String(),
        "evidence": pl.String(),
    }
)
"""One row per event; ``evidence`` is JSON."""


class Step(StrEnum):
    """What happened to a version."""

    TRAINED = "trained"
    CHALLENGED = "challenged"
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled back"
    DISMISSED = "dismissed"


_OF_CHALLENGERS = (Step.CHALLENGED, Step.DISMISSED)


@dataclass(frozen=True)
class Event:
    """One change, as it is kept in the registry.

    Attributes
    ----------
    step : Step
        What happened.
    number, previous : int
        Version in the registry that it happened to, and the champion until then.
    at : datetime
        UTC; since when it holds.
    known_at : datetime
        UTC; when the version's training data was known.
    recipe : str
        The version's recipe (:mod:`models.recipe`).
    reason : str
        For people.
    evidence : mapping
        Figures on which it rests; empty where there are none.
    """

    step: Step
    number: int
    previous: int | None
    at: dt.datetime
    known_at: dt.datetime
    recipe: str
    reason: str
    evidence: Evidence = field(default_factory=dict[str, float | int | str | None])

    def to_json(self) -> str:
        """Return the event as text; :meth:`from_json` brings it back."""
        return orjson.dumps(self).decode()

    @classmethod
    def from_json(cls, text: str) -> Event:
        """Return the event that :meth:`to_json` wrote.

        Raises
        ------
        ModelError
            When the text is no event.
        """
        try:
            values: dict[str, Any] = orjson.loads(text)
            moments = {k: dt.datetime.fromisoformat(values[k]) for k in ("at", "known_at")}
            read: dict[str, Any] = {**values, **moments, "step": Step(values["step"])}
            return cls(**read)
        except (ValueError, KeyError, TypeError) as error:
            raise ModelError(
                f"the history of a champion cannot be read ({error})",
                got=text[:80],
                allowed="what Isobar wrote into the registry's tags",
                remedy="restore the tracking store from a backup",
            ) from error


@dataclass(frozen=True)
class Standing:
    """What a list of events amounts to.

    Attributes
    ----------
    reigns : tuple of Event
        How each champion came to be one, the present one last; a rollback drops the last.
    challenger : Event or None
        The newest edition of the challenger.
    begun : datetime or None
        Since when its recipe has been a challenger.
    chosen_at : datetime or None
        When anything but the first recipe was last made champion, or a champion taken back.
    newest : datetime or None
        The latest moment of all events.
    """

    reigns: tuple[Event, ...] = ()
    challenger: Event | None = None
    begun: dt.datetime | None = None
    chosen_at: dt.datetime | None = None
    newest: dt.datetime | None = None

    @property
    def champion(self) -> Event | None:
        """How the champion came to be it."""
        return self.reigns[-1] if self.reigns else None

    def then(self, event: Event) -> Standing:
        """Return the standing after one more event."""
        newest = event.at if self.newest is None else max(self.newest, event.at)
        after = replace(self, newest=newest)
        if event.step is Step.CHALLENGED:
            same = self.challenger is not None and self.challenger.recipe == event.recipe
            return replace(after, challenger=event, begun=self.begun if same else event.at)
        if event.step is Step.DISMISSED:
            return replace(after, challenger=None, begun=None)
        if event.step is Step.ROLLED_BACK:
            kept = [k for k, e in enumerate(self.reigns[:-1]) if e.number == event.number]
            reigns = self.reigns[: kept[-1] + 1] if kept else (*self.reigns, event)
            return replace(after, reigns=reigns, chosen_at=event.at)
        # A challenger of the recipe that serves now has nothing left to challenge.
        over = event.step is Step.PROMOTED or (
            self.challenger is not None and self.challenger.recipe == event.recipe
        )
        if over:
            after = replace(after, challenger=None, begun=None)
        if self.champion is not None and self.champion.recipe != event.recipe:
            after = replace(after, chosen_at=event.at)
        return replace(after, reigns=(*self.reigns, event))


def standing(events: Sequence[Event]) -> Standing:
    """Return what a list of events, in the order in which they were written, amounts to."""
    found = Standing()
    for event in events:
        found = found.then(event)
    return found


def standing_at(events: Sequence[Event], as_of: dt.datetime) -> Standing:
    """Return the standing at a past moment.

    Parameters
    ----------
    events : sequence of Event
        In the order in which they were written.
    as_of : datetime
        Aware.

    Returns
    -------
    Standing
        From the events until then. Where none had made a champion yet, the first recipe's models
        stand in from when their training data was known: no evidence chose them, so a replay
        of older days may use them. What was promoted on evidence never serves before that.
    """
    found = standing([e for e in events if e.at <= as_of])
    if found.champion is not None:
        return found
    stands_in: Event | None = None
    first = next((e for e in events if e.step not in _OF_CHALLENGERS), None)
    for event in events:
        if event.step in _OF_CHALLENGERS:
            continue
        if first is None or event.step is not Step.TRAINED or event.recipe != first.recipe:
            break
        if event.known_at <= as_of:
            stands_in = event
    return replace(found, reigns=(stands_in,) if stands_in else ())


def after_training(
    before: Standing,
    *,
    number: int,
    recipe: str,
    known_at: dt.datetime,
    now: dt.datetime | None,
    lost: Collection[str] = (),
    as_challenger: bool | None = None,
) -> Event:
    """Decide what a newly stored model becomes.

    Parameters
    ----------
    before : Standing
        Until now.
    number, recipe, known_at
        Of the new model.
    now : datetime, optional
        Aware; when the training happens. When its data was known, where absent.
    lost : collection of str
        Features of the champion that exist no longer.
    as_challenger : bool, optional
        Decides it by hand.

    Returns
    -------
    Event
        The first model of a family, a newer edition of the champion's recipe, and the successor
        of a champion that can serve no more (its features are gone) are champions. Every other
        recipe is a challenger.

    Raises
    ------
    ModelError
        When ``now`` has no zone.
    """
    at = known_at if now is None else max(_utc(now), known_at)
    champion = before.champion
    if champion is None:
        reason, challenges = "the first of its family", False
    elif champion.recipe == recipe:
        reason, challenges = "newer data, same recipe", False
    elif lost:
        shown = ", ".join(sorted(lost)[:5])
        reason, challenges = f"the champion's features are gone: {shown}", False
    else:
        reason, challenges = "another recipe", True
    if as_challenger is not None and as_challenger != challenges:
        reason, challenges = f"{reason}; as_challenger={as_challenger}", as_challenger
    # Nothing that comes after a choice may serve before it.
    at = at if before.chosen_at is None else max(at, before.chosen_at)
    return Event(
        step=Step.CHALLENGED if challenges else Step.TRAINED,
        number=number,
        previous=champion.number if champion else None,
        at=at,
        known_at=known_at,
        recipe=recipe,
        reason=reason[:_LONGEST_REASON],
    )


def promote_challenger(
    before: Standing, *, now: dt.datetime, reason: str, evidence: Evidence | None = None
) -> Event:
    """Return the event that makes the challenger champion.

    Raises
    ------
    ModelError
        When there is no challenger, no reason, or ``now`` lies before an earlier event.
    """
    return replace(
        _challenger_of(before, "promote"),
        step=Step.PROMOTED,
        previous=before.champion.number if before.champion else None,
        at=_moment(before, now),
        reason=_reason(reason),
        evidence=dict(evidence or {}),
    )


def dismiss_challenger(before: Standing, *, now: dt.datetime, reason: str) -> Event:
    """Return the event that ends a challenge; the champion goes on serving.

    Raises
    ------
    ModelError
        When there is no challenger, no reason, or ``now`` lies before an earlier event.
    """
    return replace(
        _challenger_of(before, "dismiss"),
        step=Step.DISMISSED,
        previous=before.champion.number if before.champion else None,
        at=_moment(before, now),
        reason=_reason(reason),
    )


def roll_back(before: Standing, *, now: dt.datetime, reason: str) -> Event:
    """Return the event that brings back the champion before the present one.

    Raises
    ------
    ModelError
        When there is none before it, no reason, or ``now`` lies before an earlier event.
    """
    if before.champion is None or len(before.reigns) < 2:
        raise ModelError(
            "there is no earlier champion to go back to",
            got=f"champion: version {before.champion.number}" if before.champion else "no model",
            allowed="a family that has had two champions",
            remedy="train again, or see `isobar models history`",
        )
    return replace(
        before.reigns[-2],
        step=Step.ROLLED_BACK,
        previous=before.champion.number,
        at=_moment(before, now),
        reason=_reason(reason),
        evidence={},
    )


def _challenger_of(before: Standing, what: str) -> Event:
    if before.challenger is None:
        raise ModelError(
            f"there is no challenger to {what}",
            got=f"champion: version {before.champion.number}" if before.champion else "no model",
            allowed="a challenger, which a training with another recipe makes",
            remedy="change the recipe and train, or see `isobar models list`",
        )
    return before.challenger


def _moment(before: Standing, now: dt.datetime) -> dt.datetime:
    moment = _utc(now)
    if before.newest is not None and moment < before.newest:
        raise ModelError(
            "a champion cannot be changed in the past",
            got=moment.isoformat(),
            allowed=f"from {before.newest.isoformat()}, the newest event, on",
            remedy="give the present as `now`, and check this machine's clock",
        )
    return moment


def _utc(now: dt.datetime) -> dt.datetime:
    if now.tzinfo is None:
        raise ModelError(
            "a time without a zone",
            got=now.isoformat(),
            allowed="an aware datetime",
            remedy="give it in UTC",
        )
    return now.astimezone(dt.UTC)


def _reason(text: str) -> str:
    if not text.strip() or len(text) > _LONGEST_REASON:
        raise ModelError(
            "the reason for a change of champion",
            got=f"{len(text.strip())} characters",
            allowed=f"1 to {_LONGEST_REASON}",
            remedy="say in a sentence why, for those who ask later",
        )
    return text.strip()
