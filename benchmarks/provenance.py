"""What a measured row says of how it came about: seconds, versions, commit, machine."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import time
from importlib.metadata import version
from pathlib import Path

import torch

import sk_metricopt


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


def machine() -> str:
    """Return processor, cores and GPU, in words."""
    parts = [_processor(), f"{os.cpu_count()} cores"]
    parts.append(torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU")
    return ", ".join(parts)


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text("utf-8").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def source_digest(measuring: tuple[str, ...]) -> str:
    """Return a digest of the code measured: "modified" alone would not tell two states apart.

    Parameters
    ----------
    measuring : tuple of str
        Modules of this folder that have a part in it, beside the package.
    """
    digest, package = hashlib.sha256(), Path(sk_metricopt.__file__).parent
    own = [Path(__file__).with_name(f"{name}.py") for name in measuring]
    for path in [*sorted(package.rglob("*.py")), *own]:
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:12]
