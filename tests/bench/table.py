"""Tables of Markdown, which a person reads as they are."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

Row = tuple[str, ...]


def table(headings: Row, rows: Sequence[Row]) -> str:
    """The first column is words, the others are numbers."""
    widths = [
        max(len(row[column]) for row in (headings, *rows))
        for column in range(len(headings))
    ]

    def line(row: Row) -> str:
        cells = [row[0].ljust(widths[0])]
        cells += [text.rjust(width) for text, width in zip(row[1:], widths[1:])]
        return f"| {' | '.join(cells)} |"

    rule = ["-" * widths[0]] + ["-" * (width - 1) + ":" for width in widths[1:]]
    return "\n".join([line(headings), f"| {' | '.join(rule)} |", *map(line, rows)])


def spread(values: Sequence[float]) -> str:
    """Median, and the extremes where there is more than one value."""
    middle = f"{statistics.median(values):.2f}"
    if len(values) == 1:
        return middle
    return f"{middle} ({min(values):.2f} to {max(values):.2f})"
