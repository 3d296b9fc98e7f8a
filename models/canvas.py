"""The paper that all PNG pictures are drawn on: one size of type, one palette, one white card.

They read in light and in dark pages, since each brings its own background. The only module that
imports matplotlib.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 100
INK, FAINT = "#24292f", "#d0d7de"
# Told apart by those who do not see all colours (Okabe and Ito 2008).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31")


def card(width: float, height: float, columns: int = 1, rows: int = 1) -> tuple[Figure, list[Axes]]:
    """Return an empty white figure and its axes, row by row.

    Parameters
    ----------
    width, height : float
        In hundreds of pixels.
    columns, rows : int
        Of axes.
    """
    # Takes half a second to import, which reading a card need not wait.
    from matplotlib.figure import Figure

    # A figure by itself draws with Agg and is known to no global state.
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white")
    axes: list[Axes] = list(figure.subplots(rows, columns, squeeze=False).ravel())
    for axis in axes:
        axis.set_facecolor("white")
        axis.grid(color=FAINT, linewidth=0.5, alpha=0.7)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8, colors=INK)
        axis.title.set_fontsize(11)
    return figure, axes


def legend(figure: Figure, axis: Axes, columns: int = 5) -> None:
    """Write the legend of an axis under the figure, where it lies on no line."""
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=8
    )


def png(figure: Figure, scale: float = 1.0, colours: int = 64) -> bytes:
    """Return a figure as PNG.

    Parameters
    ----------
    figure : Figure
        From :func:`card`.
    scale : float
        2 is for dense screens.
    colours : int
        Of the file, 256 at most; few make a third of the bytes.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    figure.set_dpi(DPI * scale)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())[:, :, :3])
    out = io.BytesIO()
    image.quantize(colours, dither=Image.Dither.NONE).save(out, format="PNG", optimize=True)
    return out.getvalue()


def concise_dates(axis: Axes) -> None:
    """Write the dates of a horizontal axis with no more words than needed."""
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    locator = AutoDateLocator(minticks=3, maxticks=8)
    axis.xaxis.set_major_locator(locator)
    axis.xaxis.set_major_formatter(ConciseDateFormatter(locator))
