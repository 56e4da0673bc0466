"""Pages: code runs and prints what they show, links lead somewhere, no public name is missing."""

from __future__ import annotations

import re

import pytest

from tests.pages import ROOT, pages, run
from tests.test_docstrings import MODULES

HOSTED = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"]
HOSTED += [page for page in sorted(ROOT.glob("docs/**/*.md")) if "_build" not in page.parts]
LINK = re.compile(r"\]\(([^)\s]*)\)")
HEADING = re.compile(r"^#{1,3} (.*)$", re.M)  # as deep as conf.py has anchors


def without_digits(page: str) -> str:
    """Return what is the same on all machines: numbers may differ a little."""
    return re.sub(r"[\d.]+(e-\d+)?", "#", page)


@pytest.mark.parametrize("page", pages())
def test_code_on_page_runs_and_prints_what_the_page_shows(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # pages write files
    shown = (ROOT / page).read_text("utf-8")
    hint = f"if this is as it should be: python -m tests.pages --write {page}"
    assert without_digits(run(page)) == without_digits(shown), hint


def prose(path) -> str:
    """Return a page without its code blocks, fenced and indented ones."""
    text = re.sub(r"^```.*?^```", "", path.read_text("utf-8"), flags=re.S | re.M)
    return re.sub(r"^    .*$", "", text, flags=re.M)


def anchors(path) -> set[str]:
    """Return what links to sections of a page may say, as code hosts and MyST have it."""
    plain = (re.sub(r"[`*]|\]\([^)]*\)|\[", "", title) for title in HEADING.findall(prose(path)))
    return {re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-") for title in plain}


@pytest.mark.parametrize("page", HOSTED, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_page_lead_somewhere(page):
    for link in LINK.findall(prose(page)):
        if link.startswith(("http://", "https://")):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), f"{link}: there is no such file"
        if anchor:
            assert anchor in anchors(target), f"{link}: no such section"


def test_anchors_are_those_of_code_hosts(tmp_path):
    page = tmp_path / "page.md"
    page.write_text('# Costs: `weighting="full"`\n\n## What, if [any](x.md)?\n\n#### Deep\n')
    assert anchors(page) == {"costs-weightingfull", "what-if-any"}


def test_every_public_name_is_in_the_reference():
    text = (ROOT / "docs" / "api.md").read_text("utf-8")
    sections = text.split(".. module:: ")[1:]
    listed = {part.split()[0]: set(re.findall(r"^   (\w+)$", part, re.M)) for part in sections}
    assert listed == {m.__name__: set(m.__all__) - {"__version__"} for m in MODULES}
