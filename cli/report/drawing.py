"""How every chart of the page looks, and its way into the page: SVG of two widths, for a screen and for a telephone."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from cli.report.pictures import data_uri

TEXT = "#1f2933"
MUTED = "#52606d"
GRID = "#e4e7eb"
BLUE, VERMILION, GREEN, ORANGE = "#0072b2", "#d55e00", "#00795c", "#e69f00"
"""Told apart with any colour vision (Okabe and Ito, 2008; the green darker)."""
SHADE = "#fbe9df"
WIDE, NARROW = 9.6, 3.7
"""Inches."""
MEASURED_FONT = "DejaVu Sans"
"""Comes with matplotlib, so that texts are placed alike everywhere; and is wider than those that are shown."""
SHOWN_FONTS = "system-ui, 'Segoe UI', 'Helvetica Neue', Arial, sans-serif"
STYLE: Any = {
    "font.family": MEASURED_FONT,
    "font.size": 9,
    "text.color": TEXT,
    "text.parse_math": False,
    "axes.labelcolor": TEXT,
    "axes.edgecolor": "#9aa5b1",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": GRID,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": TEXT,
    "ytick.labelcolor": TEXT,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "svg.fonttype": "none",
    "svg.hashsalt": "modelwatch",
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}
NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))
Draw = Callable[[Figure, bool], None]
"""Draws into a figure; True: it is a narrow one."""


@dataclass(frozen=True)
class Chart:
    """A chart as data URIs, and what it shows in words for who cannot see it."""

    wide: str
    narrow: str
    alt: str


def chart(draw: Draw, alt: str, height: float, narrow_height: float | None = None, width: float = WIDE) -> Chart:
    """The chart that `draw` makes, in both widths.

    Args:
        height: inches.
        narrow_height: of the narrow one; default `height`.
        width: of the wide one, if it does not take the whole page.
    """
    return Chart(_svg(draw, width, height, False), _svg(draw, NARROW, narrow_height or height, True), alt)


def shortened(text: str, length: int = 18) -> str:
    """A label that fits beside an axis."""
    return text if len(text) <= length else text[: length - 1] + "…"


def plain_numbers(axis: Axis) -> None:
    """Numbers as they are beside a logarithmic axis, which would else write formulas; at whole powers only."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}" if value > 9e-5 else f"{value:.0e}"))
    axis.set_minor_formatter(NullFormatter())


def one_axes(figure: Figure) -> Axes:
    """The axes of a chart that has one."""
    axes: Axes = figure.add_subplot()
    return axes


def _svg(draw: Draw, width: float, height: float, narrow: bool) -> str:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure, narrow)
        output = io.BytesIO()
        figure.savefig(output, format="svg", metadata=NO_METADATA)
    shown = output.getvalue().replace(f"'{MEASURED_FONT}'".encode(), SHOWN_FONTS.encode())
    return data_uri(shown, "image/svg+xml")
