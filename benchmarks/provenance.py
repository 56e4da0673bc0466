"""What a measured row says of how it came about: seconds, versions, commit."""

from __future__ import annotations

import platform
import subprocess
import time
from importlib.metadata import version
from pathlib import Path


def clock() -> tuple[float, float]:
    """Return wall and CPU time now, in seconds."""
    return time.perf_counter(), time.process_time()


def seconds_since(started: tuple[float, float]) -> dict[str, float]:
    """Return wall and CPU seconds since a `clock`, as columns."""
    wall, cpu = clock()
    return {
        "fit_seconds": round(wall - started[0], 3),
        "cpu_seconds": round(cpu - started[1], 3),
    }


def provenance(packages: tuple[str, ...]) -> dict[str, str]:
    """Return versions and the commit that is checked out, marked where files differ from it."""
    versions = [f"python {platform.python_version()}"]
    versions += [f"{package} {version(package)}" for package in packages]
    command = ["git", "describe", "--always", "--dirty=-modified", "--exclude=*"]
    folder = Path(__file__).parent
    answer = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return {"versions": "; ".join(versions), "commit": answer.stdout.strip() or "unknown"}
