"""Tables of strings: as text, Markdown and HTML."""

from __future__ import annotations

import html
from collections.abc import Iterable
from dataclasses import dataclass

_SHOWN = 10  # rows at most


@dataclass(frozen=True)
class Table:
    """A table whose first column names the rows.

    Parameters
    ----------
    title : str
    header : tuple of str
    rows : list of tuple of str
    """

    title: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]

    @property
    def _shown(self) -> list[tuple[str, ...]]:
        return self.rows[:_SHOWN]

    @property
    def _more(self) -> str:
        n = len(self.rows) - _SHOWN
        return f"and {n} more" if n > 0 else ""

    def text(self) -> str:
        """Return aligned columns, the first one to the left."""
        lines = [self.header, *self._shown]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        aligned = [
            "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip()
            for line in lines
        ]
        return "\n".join(filter(None, [self.title, *(f"  {a}" for a in aligned), self._more]))

    def markdown(self) -> str:
        """Return a table of GitHub's kind."""
        rule = (":--", *["--:"] * (len(self.header) - 1))
        lines = [_piped(self.header), _piped(rule, escape=False), *map(_piped, self._shown)]
        more = [f"\n{self._more}"] if self._more else []
        return "\n".join([f"**{self.title}**\n", *lines, *more])

    def html(self) -> str:
        """Return a table element with the title as its caption."""
        head = "".join(f"<th>{html.escape(cell)}</th>" for cell in self.header)
        body = "".join(f"<tr>{_cells(row)}</tr>" for row in self._shown)
        more = f"<p>{self._more}</p>" if self._more else ""
        return (
            f"<table><caption>{html.escape(self.title)}</caption><thead><tr>{head}</tr></thead>"
            f"<tbody>{body}</tbody></table>{more}"
        )


def _piped(cells: Iterable[str], escape: bool = True) -> str:
    shown = (cell.replace("|", "\\|").replace("\n", " ") if escape else cell for cell in cells)
    return f"| {' | '.join(shown)} |"


def _cells(row: tuple[str, ...]) -> str:
    first, *others = map(html.escape, row)
    return f"<th>{first}</th>" + "".join(f"<td>{cell}</td>" for cell in others)
