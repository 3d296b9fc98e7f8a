"""A kept backtest as a notebook shows it: the verdict, the numbers, and where its page is."""

from __future__ import annotations

import html
import webbrowser
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from backtest.comparison import Run
from backtest.metric_names import headline
from market.errors import BacktestError


@dataclass(frozen=True)
class TearSheet:
    """A backtest and its page.

    Attributes
    ----------
    run : Run
        Its name, metrics and sessions; :func:`backtest.pictures.draw_equity` draws it.
    page : Path
        The standalone HTML page, about 5 MB.
    """

    run: Run
    page: Path

    @property
    def sessions(self) -> pl.DataFrame:
        """Equity, costs so far, turnover and exposure at the end of each session."""
        return self.run.sessions

    @property
    def table(self) -> pl.DataFrame:
        """Every metric of the whole period, as text: ``metric``, ``value``, ``95%``."""
        rows = headline(self.run.metrics)
        return pl.DataFrame(rows, schema=["metric", "value", "95%"], orient="row")

    @property
    def verdict(self) -> str:
        """What the number of looks leaves of the Sharpe ratio, in words."""
        return str(self.run.metrics["overfitting"]["verdict"])

    def open(self) -> None:
        """Open the page in a browser.

        Raises
        ------
        BacktestError
            When it is gone.
        """
        if not self.page.is_file():
            raise BacktestError(
                "the page of this backtest is gone",
                got=self.page.as_posix(),
                remedy="run `isobar backtest` again",
            )
        webbrowser.open(self.page.resolve().as_uri())

    def __repr__(self) -> str:
        return f"TearSheet({self.run.name}, {self._span}): {self.verdict}"

    def _repr_html_(self) -> str:
        rows = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
            for row in headline(self.run.metrics)
        )
        return (
            f"<p><b>{html.escape(self.run.name)}</b>, {self._span}. {html.escape(self.verdict)}"
            "</p><table><thead><tr><th>metric</th><th>value</th><th>95%</th></tr></thead>"
            f"<tbody>{rows}</tbody></table><p><code>.open()</code> shows the whole page: "
            f"<code>{html.escape(self.page.as_posix())}</code></p>"
        )

    @property
    def _span(self) -> str:
        m = self.run.metrics
        return f"{m['start']} to {m['end']}, {m['sessions']:,} sessions"
