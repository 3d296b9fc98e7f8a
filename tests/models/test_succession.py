"""Champions over time: what serves now, what served then, and where a rollback leads."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from market.errors import ModelError
from models.succession import (
    Event,
    Standing,
    Step,
    after_training,
    dismiss_challenger,
    promote_challenger,
    roll_back,
    standing,
    standing_at,
)

START = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
MOMENT = dt.timedelta(microseconds=1)


def day(n: int) -> dt.datetime:
    return START + dt.timedelta(days=n)


class Story:
    """Days go by; every event happens on a day of its own."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.today = 0
        self.number = 0

    @property
    def now(self) -> Standing:
        return standing(self.events)

    def add(self, event: Event) -> Event:
        self.events.append(event)
        return event

    def train(self, recipe: str, **settings) -> Event:
        self.today += 2
        self.number += 1
        wanted = {"now": day(self.today), "known_at": day(self.today - 1)} | settings
        return self.add(after_training(self.now, number=self.number, recipe=recipe, **wanted))

    def promote(self) -> Event:
        self.today += 1
        return self.add(promote_challenger(self.now, now=day(self.today), reason="better"))

    def back(self) -> Event:
        self.today += 1
        return self.add(roll_back(self.now, now=day(self.today), reason="worse"))

    def dismiss(self) -> Event:
        self.today += 1
        return self.add(dismiss_challenger(self.now, now=day(self.today), reason="no use"))

    @property
    def champion(self) -> int | None:
        return self.now.champion.number if self.now.champion else None

    def champion_at(self, as_of: dt.datetime) -> int | None:
        found = standing_at(self.events, as_of).champion
        return found.number if found else None


def test_the_same_recipe_refreshes_and_another_challenges() -> None:
    story = Story()
    steps = [story.train(r).step for r in ("a", "a", "b", "a", "b")]
    assert [s.value for s in steps] == ["trained", "trained", "challenged", "trained", "challenged"]
    assert story.champion == 4
    assert story.now.challenger is not None
    assert (story.now.challenger.number, story.now.begun) == (5, day(6))


def test_a_champion_that_can_serve_no_more_is_replaced_without_evidence() -> None:
    story = Story()
    story.train("a")
    assert story.train("b").step is Step.CHALLENGED
    replaced = story.train("b", lost=["old_feature"])
    assert replaced.step is Step.TRAINED
    assert "old_feature" in replaced.reason
    assert story.now.challenger is None
    # A replay of the days before finds what served then.
    assert story.champion_at(replaced.at - MOMENT) == 1


@pytest.mark.parametrize("forced", [True, False])
def test_a_hand_may_decide(forced: bool) -> None:
    story = Story()
    story.train("a")
    for recipe in ("a", "b"):
        wanted = Step.CHALLENGED if forced else Step.TRAINED
        assert story.train(recipe, as_challenger=forced).step is wanted


def test_rollbacks_walk_back_and_end_with_an_error() -> None:
    story = Story()
    for recipe in ("a", "a", "b"):
        story.train(recipe)
    story.promote()
    assert story.champion == 3
    assert [story.back().number, story.back().number] == [2, 1]
    with pytest.raises(ModelError, match=r"no earlier champion to go back to.*version 1"):
        story.back()
    # The recipe that serves again is refreshed, the one that was taken back challenges.
    assert story.train("b").step is Step.CHALLENGED
    assert story.train("a").step is Step.TRAINED
    assert story.back().number == 1


def test_a_rollback_after_a_rollback_and_a_promotion() -> None:
    story = Story()
    story.train("a")
    for _ in range(2):
        story.train("b")
        story.promote()
        story.back()
    assert story.champion == 1
    with pytest.raises(ModelError, match="no earlier champion"):
        story.back()


def test_a_promotion_holds_from_its_moment_and_changes_nothing_before() -> None:
    story = Story()
    story.train("a")
    story.train("b")
    promoted = story.promote()
    assert story.champion_at(promoted.at - MOMENT) == 1
    assert story.champion_at(promoted.at) == 2
    # An edition of the promoted recipe on older data serves from the promotion on, no earlier.
    older = story.train("b", known_at=day(1), now=None)
    assert older.at == promoted.at
    assert story.champion_at(promoted.at - MOMENT) == 1
    assert story.champion_at(promoted.at) == older.number


def test_days_before_the_first_training_are_replayed_with_what_could_have_been_known() -> None:
    story = Story()
    story.train("a", known_at=day(-30), now=day(1))
    story.train("a", known_at=day(-10), now=day(2))
    story.train("b", known_at=day(-40), now=day(3))
    story.promote()
    at = {-31: None, -30: 1, -11: 1, -10: 2, 0: 2, 1: 1, 2: 2}
    assert {n: story.champion_at(day(n)) for n in at} == at


def test_what_replaced_a_champion_stands_in_for_nothing_before() -> None:
    story = Story()
    story.train("a", known_at=day(-30), now=day(1))
    story.train("b", known_at=day(-20), now=day(2), lost=["x"])
    assert [story.champion_at(day(n)) for n in (-10, 1, 2)] == [1, 1, 2]


@given(st.lists(st.sampled_from(["a", "b", "c", "promote", "back", "dismiss"]), max_size=25))
def test_no_story_lets_a_challenger_serve_or_changes_what_was(moves: list[str]) -> None:
    story = Story()
    seen: dict[dt.datetime, int | None] = {}
    served: list[int] = []
    for move in moves:
        before = story.now
        try:
            if move == "promote":
                wanted = before.challenger.number if before.challenger else None
                story.promote()
                served.append(wanted)
            elif move == "back":
                story.back()
                served.pop()
            elif move == "dismiss":
                story.dismiss()
                assert story.now.challenger is None
            elif story.train(move).step is Step.TRAINED:
                served.append(story.number)
        except ModelError:
            nobody = move in ("promote", "dismiss") and before.challenger is None
            assert nobody or (move == "back" and len(served) < 2)
            continue
        # An independent book: a stack of those who served.
        assert story.champion == (served[-1] if served else None)
        seen[story.events[-1].at] = story.champion
    assert {m: story.champion_at(m) for m in seen} == seen
    assert [Event.from_json(e.to_json()) for e in story.events] == story.events


def test_a_dismissed_challenger_waits_no_more_and_may_come_again() -> None:
    story = Story()
    for recipe in ("a", "b"):
        story.train(recipe)
    begun = story.now.begun
    event = story.dismiss()
    assert (event.step, event.number, event.previous) == (Step.DISMISSED, 2, 1)
    assert story.champion == 1
    assert standing_at(story.events, event.at - MOMENT).challenger is not None
    assert standing_at(story.events, event.at).challenger is None
    with pytest.raises(ModelError, match="no challenger to dismiss"):
        story.dismiss()
    again = story.train("b")
    assert again.step is Step.CHALLENGED
    assert story.now.begun == again.at > begun


def test_what_is_promoted_or_taken_back_needs_a_reason_and_a_present() -> None:
    story = Story()
    with pytest.raises(ModelError, match="no challenger to promote"):
        story.promote()
    story.train("a")
    story.train("b")
    late = day(100)
    for reason in ("", "  ", "x" * 501):
        with pytest.raises(ModelError, match="reason for a change of champion"):
            promote_challenger(story.now, now=late, reason=reason)
    with pytest.raises(ModelError, match="cannot be changed in the past"):
        promote_challenger(story.now, now=day(1), reason="why")
    with pytest.raises(ModelError, match="time without a zone"):
        promote_challenger(story.now, now=late.replace(tzinfo=None), reason="why")


@pytest.mark.parametrize("text", ["", "{}", '{"at": 3}', "[1]"])
def test_a_history_that_cannot_be_read_is_an_error(text: str) -> None:
    with pytest.raises(ModelError, match="history of a champion cannot be read"):
        Event.from_json(text)
