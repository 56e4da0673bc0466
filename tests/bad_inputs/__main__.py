"""Write docs/bad_inputs.md: ``python -m tests.bad_inputs``."""

from __future__ import annotations

from tests.bad_inputs import CASES, observe
from tests.bad_inputs.page import PAGE, page

PAGE.write_text(page([(case, observe(case.call)) for case in CASES]), encoding="utf-8")
print(f"{PAGE}: {len(CASES)} cases")
