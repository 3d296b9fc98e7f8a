"""The two renderings: standalone, the same, inert, and honest about what is not there."""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import replace
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from reports.facts import PARITY_SCHEMA, Batch, Report, Trading
from reports.render import escape_markdown, first_screen_of, render_html, render_markdown
from tests.reports.scenes import (
    ACTIVE,
    AS_OF,
    EARLIER,
    Page,
    bare,
    book,
    checks,
    frame,
    full,
    numbers,
    open_orders,
    signal,
    signals,
    unescaped,
)

REPORTS = {"bare": bare(), "full": full(), "first batch": full(previous=None, earlier=signals())}
EACH = pytest.mark.parametrize("report", REPORTS.values(), ids=REPORTS)
NEW_YORK = ZoneInfo("America/New_York")


class TestStandalone:
    @EACH
    def test_nothing_is_fetched_and_nothing_runs(self, report: Report):
        html = render_html(report)
        page = Page.of(html)
        assert not {"script", "link", "iframe", "img", "object", "embed", "base"} & set(page.tags)
        assert "http://" not in html
        assert "https://" not in html
        assert "url(" not in html
        assert "@import" not in html
        for tag, attributes in page.attributes:
            assert not [a for a in attributes if a.startswith("on")], tag
            assert (attributes.get("href") or "#").startswith("#")
            assert "src" not in attributes

    def test_a_browser_is_told_to_fetch_nothing(self):
        policy = [
            a["content"]
            for tag, a in Page.of(render_html(full())).attributes
            if tag == "meta" and a.get("http-equiv") == "Content-Security-Policy"
        ]
        assert len(policy) == 1
        assert "default-src 'none'" in str(policy[0])
        assert "script-src" not in str(policy[0])

    def test_it_has_colours_for_light_and_dark_and_a_form_for_paper(self):
        html = render_html(full())
        assert "@media (prefers-color-scheme: dark)" in html
        assert "@media print" in html
        assert "width=device-width" in html


class TestAccessible:
    @EACH
    def test_headings_heads_and_pictures_have_their_words(self, report: Report):
        page = Page.of(render_html(report))
        levels = [int(t[1]) for t in page.tags if re.fullmatch(r"h[1-6]", t)]
        assert levels.count(1) == 1
        assert levels[0] == 1
        assert all(b - a <= 1 for a, b in pairwise(levels))
        ids = [a["id"] for _, a in page.attributes if "id" in a]
        assert len(ids) == len(set(ids))
        for tag, attributes in page.attributes:
            if tag == "th":
                assert attributes["scope"] in {"row", "col"}
            if tag == "svg":
                assert attributes["role"] == "img"
                assert attributes["aria-label"]
            if tag == "html":
                assert attributes["lang"] == "en"
            if tag == "a":
                assert str(attributes["href"])[1:] in ids
        named = [
            t for t, a in page.attributes if t == "caption" or (t == "table" and "aria-label" in a)
        ]
        assert page.tags.count("table") == len(named)

    def test_a_direction_is_never_told_by_colour_alone(self):
        html = render_html(full())
        marks = re.findall(r'<span class="mark (long|short)">(.*?)</span> ', html)
        assert marks
        assert all(("▲" if side == "long" else "▼") in text for side, text in marks)


class TestContent:
    def test_every_number_of_the_strongest_signals_is_in_both(self):
        report = full()
        words = Page.of(render_html(report)).words
        text = unescaped(render_markdown(report))
        directed = report.signals.filter(pl.col("direction") != "neutral")
        assert directed.height > 5
        for row in directed.to_dicts():
            until = row["valid_until"].astimezone(NEW_YORK)
            cells = [
                row["symbol"],
                row["direction"],
                f"{row['expected_return_bps']:+.1f}".replace("-", "−"),
                f"{100 * row['confidence']:.0f} %",
                f"{row['targets'][0]:.2f}",
                f"{row['stops'][0]:.2f}",
                f"{until:%Y-%m-%d %H:%M}",
            ]
            signs = {"long": "▲ ", "short": "▼ "}
            cells[1] = signs[row["direction"]] + cells[1]
            assert " ".join(cells) in words
            assert " | ".join(cells) in text
        # The strongest in size, whichever way, are those with their reasons.
        size = pl.col("expected_return_bps").abs()
        for row in directed.sort(size, descending=True).head(5).to_dicts():
            expected = row["expected_return_bps"]
            third = f"{expected / 3:+.1f} bps of it, all else {2 * expected / 3:+.1f}."
            why = f"The strongest features make {third}".replace("-", "−")
            assert why in words
            assert why in text
            moved = f"rsi_14 {row['features'][0]['contribution']:+.1f} bps".replace("-", "−")
            assert moved in words
            assert moved in text

    def test_a_reason_says_what_its_chips_and_columns_do_not(self):
        long, short = (signal("ZZA", h, b) for h, b in (("1d", 20.0), ("1h", -20.0)))
        alike = signal("ZZA", "4h", 10.0)
        silent = signal("ZZA", "14d", 1.0)
        before = [
            signal("ZZA", "1d", 8.5, as_of=EARLIER, batch_id="batch-premarket"),
            signal("ZZA", "1h", 9.5, as_of=EARLIER, batch_id="batch-premarket"),
            signal("ZZA", "1M", -70.0, as_of=EARLIER, batch_id="batch-premarket"),
        ]
        told = unescaped(
            render_markdown(
                bare(signals=signals(long, short, alike, silent), earlier=signals(*before))
            )
        )
        ending = (
            "Long over 4h too. But short over 1h, 1M. Before: long, +8.5 bps. [rsi_14 +6.7 bps]"
        )
        assert ending in told
        # A horizon of an hour is new at every run: there is no before.
        assert "all else −13.3. Short over 1M too. But long over 4h, 1d. [rsi_14" in told
        # Without contributions the sentence of the signal itself is all there is.
        bare_one = signals(signal("ZZA", "1d", 20.0, features=[]))
        assert "ZZA over 1d for a reason." in unescaped(render_markdown(bare(signals=bare_one)))

    @EACH
    def test_both_renderings_hold_the_same_numbers(self, report: Report):
        page = Page.of(render_html(report))
        markdown = re.sub(r"(?m)^\|[-:|]+\|$|^---$", "", render_markdown(report))
        assert numbers(page.words) == numbers(unescaped(markdown))

    def test_each_time_has_its_utc(self):
        html, text = render_html(full()), render_markdown(full())
        stamp = f'datetime="{AS_OF.isoformat()}" title="2025-06-30 16:15 UTC">2025-06-30 12:15<'
        assert stamp in html
        assert "2025-06-30 12:15 (16:15 UTC)" in text
        late = replace(full(), as_of=dt.datetime(2025, 7, 1, 1, 0, tzinfo=dt.UTC))
        assert "2025-06-30 21:00 (2025-07-01 01:00 UTC)" in render_markdown(late)

    def test_disagreement_is_shown_by_horizon_and_not_averaged(self):
        rows = [signal("ZZA", "1h", 20.0), signal("ZZA", "1d", -9.0), signal("ZZB", "1d", 9.0)]
        text = unescaped(render_markdown(full(signals=signals(*rows), earlier=signals())))
        assert "| ZZA | ▲ +20.0 | ▼ −9.0 |" in text
        assert "1 symbol of 2 point both ways" in text

    def test_outcomes_come_with_intervals_and_verdicts(self):
        text = unescaped(render_markdown(full()))
        # Wilson's interval of one in two.
        assert "| 1d | 1 of 2 | 50 % (9 % to 91 %) | +19.0 | +11.6 | 1 | 1 | 1 |" in text
        assert "✓ right, target first" in text
        assert "✕ wrong, stop first" in text

    def test_positions_are_told_with_exposure_and_strangers(self):
        text = unescaped(render_markdown(full()))
        assert "Gross exposure: $14,030 (14 % of equity, limit 200 %)" in text
        assert "Net exposure: $10,030 (10 % of equity, limit 100 %)" in text
        assert "Equity: $100,030 (+0.03 % since the last close)" in text
        assert "20 shares are not Isobar's: never traded" in text

    def test_denials_are_counted_with_their_meaning(self):
        text = unescaped(render_markdown(full()))
        assert "| ✕ gross leverage | 1 | Gross exposure" in text
        assert "| ✕ bad signal | 2 | A number of" in text
        assert "| ✕ order count | 1 | The run has reached" in text

    def test_the_first_screen_alone_is_the_beginning(self):
        whole = render_markdown(full())
        first = first_screen_of(whole)
        assert whole.startswith(first.rstrip())
        assert re.findall(r"(?m)^## (.*)", first) == [
            "What is different",
            "What to do",
            "What not to trust",
        ]


class TestWhatMustBeSeen:
    @pytest.mark.parametrize("state", ["halted", "reducing"])
    def test_a_stopped_switch_comes_before_everything(self, state: str):
        trading = Trading(state, enabled=True, mode="paper", since=EARLIER, reason="fat finger")
        html, text = render_html(full(trading=trading)), render_markdown(full(trading=trading))
        assert html.index("TRADING IS") < html.index("<h2")
        assert html.count('role="alert"') == 1
        assert text.index("TRADING IS") < text.index("## ")
        assert text.index("fat finger") < text.index("## ")
        actions = text[text.index("## What to do") :]
        assert "isobar resume" in actions[: actions.index("## What not")]

    def test_no_banner_where_all_is_well(self):
        assert 'role="alert"' not in render_html(full())

    def test_a_late_batch_and_broken_parity_are_banners(self):
        batch = Batch("b", "midday", AS_OF, AS_OF + dt.timedelta(minutes=95), late=True, rows=1)
        parity = frame(
            PARITY_SCHEMA,
            {"run": "eod", "as_of": EARLIER, "checked_at": AS_OF, "equal": False}
            | {"findings": ["bars_1d has another version"]},
        )
        top = render_markdown(full(batch=batch, parity=parity)).split("## ")[0]
        assert "LATE BATCH" in top
        assert "13:50" in top
        assert "bars\\_1d has another version" in top

    def test_what_not_to_trust_begins_with_what_failed(self):
        text = unescaped(render_markdown(full()))
        doubts = text[text.index("## What not to trust") : text.index("## Strongest")]
        items = re.findall(r"(?m)^- (.*)", doubts)
        assert items[0] == "✕ 1 check failed: features_1d_are_finite."
        assert "! 1 check warned: bars_1d_hole." in items
        assert "! Drift: 1d features." in items
        assert any("2 rows in quarantine" in i for i in items)
        assert any("rank IC not above zero" in i and "−0.004 to +0.066" in i for i in items)
        assert "! No backtest on file for 1h." in items

    def test_unresolved_orders_are_something_to_do(self):
        text = render_markdown(full())
        actions = text[text.index("## What to do") : text.index("## What not")]
        assert "✕ Look at the broker: 1 order" in actions


class TestWhatIsNotThere:
    def test_every_empty_section_says_so(self):
        text = unescaped(render_markdown(bare()))
        for said in (
            "NO SIGNALS",
            "Regime unknown: none is on file.",
            "This run published no signals.",
            "No symbol is long over one horizon and short over another.",
            "No outcomes known yet.",
            "No open position",
            "None in the journal.",
            "No plan of orders is on file.",
            "No parity check since the session before.",
            "No check is on file.",
            "No row of the last sessions is in quarantine.",
            "No bars are on file.",
            "Equity: unknown",
            "Cash: unknown",
        ):
            assert said in text

    def test_a_first_batch_says_that_all_is_new(self):
        text = render_markdown(full(previous=None, earlier=signals()))
        assert "No batch of signals before this one: everything is new." in text

    def test_a_horizon_without_directions_says_how_near_it_came(self):
        text = unescaped(render_markdown(full()))
        assert "No symbol is expected to pay its costs over 1h (nearest ZZJ +2.9 bps)." in text

    def test_a_broker_that_was_not_heard_leaves_equity_unknown(self):
        silent = replace(
            book(),
            cash_usd=None,
            equity_usd=None,
            last_equity_usd=None,
            source="Isobar's own fills",
            problem="no keys for the broker are set.",
        )
        text = unescaped(render_markdown(full(book=silent)))
        assert "Equity: unknown" in text
        assert "share of equity unknown, limit 200 %" in text
        assert "no keys for the broker are set." in text

    def test_a_source_that_could_not_be_read_is_named(self):
        text = unescaped(render_markdown(full(unread=("quarantine_1m (a torn file)",))))
        assert text.count("Could not be read: quarantine_1m (a torn file)") == 2


_FRAGMENTS = (
    "<b>",
    "</td>",
    "<!--",
    '"><i x="',
    "&amp;",
    "&lt;",
    "<script>",
    "</script>",
    "<img src=x>",
)
_MARKS = tuple("<>&\"'`|*_[]()#\\!~$-\n\r\t{}%/:")
NASTY = st.lists(
    st.one_of(
        st.sampled_from(_FRAGMENTS),
        st.sampled_from(_MARKS),
        st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")),
    ),
    min_size=1,
    max_size=12,
).map(lambda parts: f"q{''.join(parts)}q")


def poisoned(text: str) -> Report:
    """A report in which a stranger chose every word that comes from data."""
    rows = [
        signal(text, "1d", 20.0, explain=text, features=[{"feature": text, "contribution": 1.0}]),
        signal(text, "1h", -20.0, explain=text),
    ]
    made = full(signals=signals(*rows), earlier=signals(), unread=(text,))
    named: Any = pl.lit(text)
    return replace(
        made,
        trading=Trading("halted", enabled=True, mode="paper", since=EARLIER, reason=text),
        book=replace(
            made.book,
            positions=made.book.positions.with_columns(symbol=named),
            problem=text,
            source=text,
        ),
        open_orders=open_orders().with_columns(symbol=named),
        checks=checks().with_columns(detail=named),
        held_rows=made.held_rows.with_columns(
            symbols=pl.concat_list(named), reason=pl.lit("spike")
        ),
        models=made.models.with_columns(model_version=named),
    )


class TestInert:
    @settings(max_examples=25)
    @given(NASTY)
    @example("q<b>q")
    def test_no_text_from_data_changes_a_page(self, text: str):
        # Of about the same length: how long a cell is decides about its width on a telephone.
        harmless = Page.of(render_html(poisoned("x" * len(text))))
        page = Page.of(render_html(poisoned(text)))
        assert page.tags == harmless.tags
        names = [(t, sorted(a)) for t, a in page.attributes]
        assert names == [(t, sorted(a)) for t, a in harmless.attributes]
        assert " ".join(text.split()) in page.words

    @settings(max_examples=25)
    @given(NASTY)
    @example("q|q")
    @example("q\\|q\nq")
    def test_no_text_from_data_changes_a_markdown_table(self, text: str):
        def shape(markdown: str) -> list[int]:
            lines = markdown.splitlines()
            return [len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) for line in lines]

        nasty, harmless = render_markdown(poisoned(text)), render_markdown(poisoned("x"))
        assert shape(nasty) == shape(harmless)

    @given(NASTY)
    def test_markdown_is_escaped_and_reads_as_it_was(self, text: str):
        escaped = escape_markdown(text)
        assert not re.search(r"(?<!\\)(?:\\\\)*[<>|`*_\[\]]", escaped)
        assert "://" not in escaped
        assert unescaped(escaped) == unescaped(" ".join(text.split()).replace("\\", "\\\\"))

    def test_a_script_stays_text(self):
        text = "<script>alert(1)</script><img src=x onerror=alert(1)>"
        html = render_html(poisoned(text))
        assert "<script" not in html
        assert "<img" not in html
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
        assert "<script" not in render_markdown(poisoned(text)).replace("\\<", "")


def test_rendering_is_a_function_of_the_report():
    assert render_html(full()) == render_html(full())
    assert render_html(full(trading=replace(ACTIVE, enabled=False))) != render_html(full())
