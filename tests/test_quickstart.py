"""What a newcomer runs first: the quickstart."""

from __future__ import annotations

import runpy
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_quickstart_reports_and_exports(capsys):
    quickstart = runpy.run_path(str(ROOT / "examples" / "quickstart.py"), run_name="quickstart")
    assert quickstart["main"](max_epochs=2, max_observations=10) == 0
    printed = capsys.readouterr().out
    assert "guard, after" in printed
    assert "euros per 100 digits" in printed
    assert "597 of 597 labels agree" in printed
