"""What a newcomer runs first: the quickstart and the code on the pages."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_quickstart_reports_and_exports(capsys):
    quickstart = runpy.run_path(str(ROOT / "examples" / "quickstart.py"), run_name="quickstart")
    assert quickstart["main"](max_epochs=2, max_observations=10) == 0
    printed = capsys.readouterr().out
    assert "guard, after" in printed
    assert "euros per 100 digits" in printed
    assert "597 of 597 labels agree" in printed


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "docs/user_guide.md",
        "docs/retrieval.md",
        "docs/post_shift.md",
        "docs/inspection.md",
        "docs/deployment.md",
        "docs/reliability.md",
    ],
)
def test_code_on_page_runs(page, tmp_path, monkeypatch):
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text("utf-8"), re.S | re.M)
    assert blocks
    script = tmp_path / "page.py"
    script.write_text("\n".join(blocks), "utf-8")
    monkeypatch.chdir(tmp_path)  # pages export to the current folder
    # Under a name of its own: skorch pickles what it copies, so classes must be importable.
    runpy.run_path(str(script), run_name="page")
