"""What a picture of a report is, and what all of them have in common.

Every picture comes with its words: a caption that says what it shows, for those who cannot see it.
Colours are Okabe and Ito's, told apart by the colour-blind; no colour says anything alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import plotly.graph_objects as go

BLUE, ORANGE, GREEN, VERMILLION, PURPLE, GREY = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#888888",
)
# Of the highest loss to the lowest, from where on their axis is logarithmic.
_WIDE = 8


@dataclass
class Picture:
    """One picture.

    Attributes:
        name: For its file and its place in the page.
        title: What it is.
        caption: What it shows, in words.
        figure: Of plotly.
        section: To which part of the page it belongs.
    """

    name: str
    title: str
    caption: str
    figure: go.Figure
    section: str


def scale_of(figure: go.Figure) -> str:
    """Of the losses' axis: logarithmic where they would else be pressed onto the bottom."""
    losses = [y for trace in figure.data for y in trace.y if y is not None and math.isfinite(y)]
    wide = bool(losses) and 0 < min(losses) < max(losses) / _WIDE
    return "log" if wide else "linear"


def without_looks(figure: go.Figure) -> None:
    """The page gives colours to text and background, and the title is in it."""
    figure.layout.template = None
    figure.update_layout(
        title=None,
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        margin={"l": 60, "r": 20, "t": 30, "b": 50},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "xanchor": "left"},
        autosize=True,
    )
