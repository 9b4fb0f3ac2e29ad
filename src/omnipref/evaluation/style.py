"""Colours that rows, curves and figures share, told apart by colour-blind readers.

Source: Okabe and Ito 2008, darkened for text on white.
"""

from __future__ import annotations

LIGHT = ("#767b85", "#0072b2", "#c2660a", "#00825f", "#b0568c", "#2d9bd6", "#a08400", "#7357a8")
DARK = ("#9aa1ad", "#5aa9e6", "#f0a04b", "#3cc49a", "#e08fc0", "#8fd0f5", "#d9c04a", "#b39ae0")
WRONG = "#c4272b"
RIGHT = "#1f6f4a"


def colour(place: int) -> str:
    """Colour of the row with this number; colours repeat after eight, line styles differ then."""
    return LIGHT[place % len(LIGHT)]


DASHES = ("solid", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))
"""Line styles; a row's style goes with its number, so that curves are told apart without colour too."""
INK, MUTED, RULE = "#1d2129", "#646b78", "#e4e5e9"
