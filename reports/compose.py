"""From a report's facts to its document."""

from __future__ import annotations

from reports.book_sections import data_section, positions_section
from reports.document import Bullets, Code, Document, Line, Moment, Section
from reports.facts import Report
from reports.first_screen import (
    RUN_NAMES,
    actions,
    banners,
    differences,
    doubts,
    headline,
)
from reports.signal_sections import (
    disagreement_section,
    outcomes_section,
    regime_section,
    signals_section,
    turned_section,
)

DIFFERENT, ACT, DOUBT = "different", "act", "doubt"


def compose(report: Report) -> Document:
    """Return the document that both renderings show.

    Parameters
    ----------
    report : Report
        The facts.

    Returns
    -------
    Document
        Its first screen answers what is different, what to do, and what not to trust.
    """
    return Document(
        title=f"{RUN_NAMES[report.run].capitalize()} report, {report.session:%A %-d %B %Y}",
        subtitle=headline(report),
        banners=banners(report),
        summaries=(
            Section(DIFFERENT, "What is different", (Bullets(differences(report)),)),
            Section(ACT, "What to do", (Bullets(actions(report)),)),
            Section(DOUBT, "What not to trust", (Bullets(doubts(report)),)),
        ),
        sections=(
            signals_section(report),
            turned_section(report),
            disagreement_section(report),
            outcomes_section(report),
            positions_section(report),
            regime_section(report),
            data_section(report),
        ),
        footer=_footer(report),
    )


def _footer(report: Report) -> tuple[Line, ...]:
    notes: list[Line] = [
        (
            "Times are New York's; UTC stands beside each, on the page where it is pointed at. "
            "Nothing here became known after ",
            Moment(report.known_by),
            ".",
        ),
        (
            "Expected and realised returns are in basis points (bps, hundredths of a percent) "
            "against the market and before costs. Confidence is the calibrated probability of the "
            "direction.",
        ),
        (
            "Targets and stops are prices at publication, not adjusted for later corporate "
            "actions. Contributions say what moved the model, not what moves the market.",
        ),
        (
            "The same as text: ",
            Code(f"isobar report {report.run} --session {report.session} --markdown"),
            ".",
        ),
    ]
    if report.made_at is not None:
        notes.append(("Made ", Moment(report.made_at), "."))
    return tuple(notes)
