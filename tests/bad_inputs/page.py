"""The page of what happens."""

from __future__ import annotations

import re
from pathlib import Path

from tests.bad_inputs.case import Case, Outcome

PAGE = Path(__file__).parents[2] / "docs" / "bad_inputs.md"
_HEAD = """# What bad input does

Each row is a call that a test makes. It ends in an error that names what was wrong, of which the
first sentence is shown, or in a result that the test checks. `python -m tests.bad_inputs` writes
this page.

| called | passed | what happens |
|---|---|---|
"""


def page(outcomes: list[tuple[Case, Outcome]]) -> str:
    """Return the page in Markdown."""
    rows = [_row(case, outcome) for case, outcome in outcomes]
    return _HEAD + "".join(rows)


def named_on(text: str) -> list[str]:
    """Return the names of the cases on a page, as `cell` writes them."""
    rows = [re.split(r"(?<!\\)\|", line)[1:3] for line in text.split(_HEAD)[-1].splitlines()]
    return [": ".join(part.strip() for part in row) for row in rows]


def cell(text: str) -> str:
    """Return `text` as a cell of a table holds it."""
    text = re.sub(r" at 0x[0-9a-f]+", "", " ".join(text.split()))
    text = text if len(text) <= 240 else text[:240] + "..."
    return text.replace("|", "\\|").replace("<", "&lt;")


def _row(case: Case, outcome: Outcome) -> str:
    return f"| {cell(case.entry)} | {cell(case.passed)} | {cell(outcome.told)} |\n"
