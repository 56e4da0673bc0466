"""Try every neighbour and write docs/compatibility.md: ``python -m tests.compatibility``."""

from __future__ import annotations

import platform
from collections import defaultdict
from pathlib import Path

import pytest

from tests.neighbours import NEIGHBOURS, PAGE, version

_HEAD = """# Compatibility

What people have beside this library, and whether it works with it. Each row is a test in
`tests/test_neighbours.py`; `python -m tests.compatibility` runs them and writes this page, so a
version here is one that was tried. Written under Python {python} with {versions}.

| neighbour | version | what is tried | result |
|---|---|---|---|
"""
_NOTES = """
Good to know:

- **skorch callbacks** act while the net itself trains. Finetuning begins from the net as training
  left it, with `Checkpoint(load_best=True)` from the best epoch, and does not call them; what is
  called after each metric observation is the parameter `callbacks` of the finetuner.
- **Samplers of imbalanced-learn** copy or invent rows. Where the finetuner then splits its
  validation rows off itself, copies of them are among the training rows. Pass `X_val, y_val`, which
  no sampler touches.
- **A threshold or a calibration around a finetuner** is fitted to what the finetuner decided; the
  metric is then that of the outer estimator. Give both the same metric, or calibrate only where
  probabilities are read.
- **dask** scores candidates of one fit as well: see [Workers](reliability.md#workers).
"""


class Outcomes:
    """A plugin of pytest that notes how the tests of each function ended."""

    def __init__(self):
        self.of: dict[str, set[str]] = defaultdict(set)

    def pytest_runtest_logreport(self, report) -> None:
        if report.when == "call" or report.outcome != "passed":
            self.of[report.location[2].partition("[")[0]].add(report.outcome)


def main() -> int:
    """Run the tests and write the page; return 0 if all rows work."""
    outcomes = Outcomes()
    tests = Path(__file__).with_name("test_neighbours.py")
    options = ["-q", "-m", "slow or not slow", "-k", "not the_page"]
    pytest.main([str(tests), *options], plugins=[outcomes])
    told = {frozenset({"passed"}): "works", frozenset({"skipped"}): "not tried"}
    rows = [(n, told.get(frozenset(outcomes.of[n.test]), "fails")) for n in NEIGHBOURS]
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "numpy", "scipy"))
    page = _HEAD.format(python=platform.python_version(), versions=versions)
    for n, result in rows:
        page += f"| {n.package} | {version(n.package) or '-'} | {n.what} | {result} |\n"
    PAGE.write_text(page + _NOTES, encoding="utf-8")
    return int(any(result != "works" for _, result in rows))


if __name__ == "__main__":
    raise SystemExit(main())
