"""``python -m sk_metricopt`` is the command sk-metricopt."""

from __future__ import annotations

import sys

from sk_metricopt._command_line import main

if __name__ == "__main__":
    sys.exit(main())
