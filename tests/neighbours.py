"""Which libraries and parts of scikit-learn are tried beside ours: the rows of the page on that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "compatibility.md"


@dataclass(frozen=True)
class Neighbour:
    """A row of docs/compatibility.md.

    Attributes
    ----------
    package : str
        As it is installed.
    what : str
        What of it is tried, and how.
    test : str
        Name of the test that does.
    """

    package: str
    what: str
    test: str


NEIGHBOURS: list[Neighbour] = []


def version(package: str) -> str | None:
    """Return the version that is installed, None without one."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def neighbour(package: str, what: str) -> Callable[[Callable], Callable]:
    """Mark a test as that of a row of the page; skip it where the package is missing."""

    def marked(test: Callable) -> Callable:
        NEIGHBOURS.append(Neighbour(package, what, test.__name__))
        missing = version(package) is None
        return pytest.mark.skipif(missing, reason=f"{package} is not installed")(test)

    return marked


def listed(page: str) -> list[tuple[str, ...]]:
    """Return (package, what) of each row of the page."""
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line[:2] == "| "]
    return [(row[0], row[2]) for row in rows if row[0] != "neighbour"]
