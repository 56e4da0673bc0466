"""Run the code of documentation pages, and write what it prints below it.

    python -m tests.pages docs/tutorial.md           # run; words, minutes to read, seconds to run
    python -m tests.pages --write docs/tutorial.md   # the same, and write the output on the page

The ``python`` blocks of a page run from top to bottom as one module. A ``text`` block that follows
one directly shows what it printed. Tests compare all of it but the digits, which differ a little
from machine to machine.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import sys
import tempfile
import time
import types
from pathlib import Path

from sklearn import config_context

ROOT = Path(__file__).parents[1]
WORDS_PER_MINUTE = 200
BLOCK = re.compile(r"^```python\n(?P<code>.*?)^```\n(?P<shown>\n```text\n.*?^```\n)?", re.S | re.M)


def pages() -> list[str]:
    """Return the pages that have code, relative to the repository."""
    found = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
    found = [page for page in found if "_build" not in page.parts]
    return [str(page.relative_to(ROOT)) for page in found if BLOCK.search(page.read_text("utf-8"))]


def run(page: str) -> str:
    """Run a page in the current folder; return it with what its code printed now."""
    text = (ROOT / page).read_text("utf-8")
    # A module that can be imported: skorch pickles what it copies.
    module = types.ModuleType("page")
    sys.modules["page"] = module
    try:
        with config_context():  # a page may set what holds for the process
            return BLOCK.sub(lambda block: _run_block(block, page, text, module), text)
    finally:
        del sys.modules["page"]


def _run_block(block: re.Match, page: str, text: str, module: types.ModuleType) -> str:
    printed = io.StringIO()
    above = text.count("\n", 0, block.start("code"))  # so that tracebacks name lines of the page
    with contextlib.redirect_stdout(printed):
        exec(compile("\n" * above + block["code"], page, "exec"), module.__dict__)
    code = f"```python\n{block['code']}```\n"
    return f"{code}\n```text\n{printed.getvalue()}```\n" if block["shown"] else code


def main() -> int:
    """Run pages, report on them, and write them if asked to."""
    parser = argparse.ArgumentParser(prog="python -m tests.pages")
    parser.add_argument("pages", nargs="*", default=pages())
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    for page in arguments.pages:
        began = time.process_time()
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            new = run(page)
        seconds = time.process_time() - began
        words = len(re.findall(r"\w+(?:['’.-]\w+)*", new))
        print(
            f"{page}: {words} words, {words / WORDS_PER_MINUTE:.1f} min; ran in {seconds:.1f} CPU s"
        )
        if arguments.write:
            (ROOT / page).write_text(new, "utf-8")
    return 0


if __name__ == "__main__":
    os.environ.setdefault("MPLBACKEND", "agg")
    raise SystemExit(main())
