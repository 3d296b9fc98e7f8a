"""Pictures of backtests as PNG, for asset metadata and notebooks; the tear sheet has its own."""

from __future__ import annotations

from collections.abc import Sequence

from backtest.comparison import Run
from backtest.metrics import drawdowns
from models.canvas import COLOURS, INK, card, concise_dates, legend, png


def draw_equity(runs: Sequence[Run], scale: float = 1.0) -> bytes:
    """Draw the equity of one or several backtests from the same start, and their drawdowns.

    Parameters
    ----------
    runs : sequence of Run
        At most seven are told apart by colour. One alone is also drawn with its costs added back.
    scale : float
        2 for dense screens.

    Returns
    -------
    bytes
        PNG.
    """
    figure, (above, below) = card(8.0, 4.6, rows=2)
    above.get_gridspec().set_height_ratios([2.4, 1.0])
    for place, run in enumerate(runs):
        days, equity = run.sessions["session"].to_numpy(), run.sessions["equity_usd"].to_numpy()
        colour = COLOURS[place % len(COLOURS)]
        above.plot(days, 100.0 * equity / equity[0], color=colour, linewidth=1.5, label=run.name)
        if len(runs) == 1:
            gross = equity + run.sessions["costs_usd"].to_numpy()
            above.plot(
                days, 100.0 * gross / equity[0], color=INK, linewidth=0.8, linestyle=":",
                label="with costs added back",
            )  # fmt: skip
        down = drawdowns(equity)
        below.plot(days, down, color=colour, linewidth=0.9)
        below.fill_between(days, down, 0.0, color=colour, alpha=0.12, linewidth=0)
    above.axhline(100.0, color=INK, linewidth=0.8)
    above.set_ylabel("equity, start = 100")
    above.set_title("Equity after costs, and below it the drawdown", color=INK)
    above.tick_params(labelbottom=False)
    below.sharex(above)
    below.set_ylabel("drawdown")
    below.yaxis.set_major_formatter(lambda value, _: f"{value:.1%}")
    concise_dates(below)
    legend(figure, above, columns=3)
    return png(figure, scale)
