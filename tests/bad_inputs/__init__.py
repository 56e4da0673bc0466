"""Bad and odd input as data: what is passed, and what has to happen then.

``python -m tests.bad_inputs`` writes what happens to docs/bad_inputs.md.
"""

from __future__ import annotations

from tests.bad_inputs import extensions, parameters, rows, scoring, search, serving
from tests.bad_inputs.case import WORKS, Case, Outcome, observe

__all__ = ["CASES", "WORKS", "Case", "Outcome", "observe"]

CASES = [
    case
    for module in (rows, parameters, scoring, extensions, search, serving)
    for case in module.CASES
]
