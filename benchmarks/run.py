"""Measure a suite of benchmarks; a run that was stopped goes on where it was.

    python -m benchmarks.run --suite gain --tasks confirm --seeds 5 --jobs 2 --out gain.csv
    python -m benchmarks.run --suite gain --methods ours,bias --budgets 25,50,150 --out budgets.csv
    python -m benchmarks.run --suite guidance --tasks confirm --out guidance.csv
    python -m benchmarks.run --suite speed --out speed.csv

Suites are the modules `benchmarks.gain`, `benchmarks.guidance` and `benchmarks.speed`. The data
folder is named by SK_METRICOPT_DATA_HOME. Rows are added to a CSV as they come, with machine,
versions and commit; `benchmarks.gain_report` and `benchmarks.speed_report` make pages of them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks import gain, guidance, speed
from benchmarks.provenance import machine, provenance
from benchmarks.rows import measure_all, measured
from benchmarks.tasks import BUILT_IN, data_home, select_tasks

PACKAGES = ("torch", "skorch", "scikit-learn", "numpy", "scipy")
SETTINGS = ("labelled", "opaque", "either")


def gain_jobs(options: argparse.Namespace, done: set) -> list[tuple]:
    """One job per task and seed, with all that is to be measured on its net."""
    methods = options.methods or list(gain.METHODS)
    about = _about()
    jobs = []
    for seed in range(options.seeds):
        for task in select_tasks(options.tasks, gain.TASKS):
            wanted = [
                (setting, method, budget)
                for budget in options.budgets
                for setting in options.settings
                for method in methods
                if gain.applies(method, task, setting)
                and (setting, task.name, str(seed), method, str(budget)) not in done
            ]
            if wanted:
                jobs.append((task, seed, wanted, about))
    return jobs


def guidance_jobs(options: argparse.Namespace, done: set) -> list[tuple]:
    """One job per task and seed."""
    methods = options.methods or list(guidance.METHODS)
    about = _about()
    jobs = []
    for seed in range(options.seeds):
        for task in select_tasks(options.tasks, guidance.TASKS):
            wanted = [m for m in methods if (task.name, str(seed), m) not in done]
            if wanted:
                jobs.append((task, seed, wanted, about))
    return jobs


def speed_jobs(options: argparse.Namespace, done: set) -> list[tuple]:
    """One job per task that has no rows yet."""
    known = {key[0] for key in done}
    names = speed.TASKS if options.tasks == "all" else options.tasks.split(",")
    unknown = sorted(set(names) - set(speed.TASKS))
    if unknown:
        raise ValueError(f"unknown tasks {unknown}; choose from {list(speed.TASKS)}")
    return [(name, options.repeats) for name in names if name not in known]


def _about() -> dict[str, str]:
    return {"machine": machine(), **provenance(PACKAGES)}


SUITES: dict[str, tuple] = {
    "gain": (gain, gain_jobs),
    "guidance": (guidance, guidance_jobs),
    "speed": (speed, speed_jobs),
}


def main(arguments: list[str] | None = None) -> int:
    """Measure what is missing; return the number of jobs that failed."""
    parser, options = _parse(arguments)
    suite, make_jobs = SUITES[options.suite]
    try:
        jobs = make_jobs(options, measured(options.out, suite.COLUMNS, suite.KEY))
        if suite is not speed and any(job[0].dataset not in BUILT_IN for job in jobs):
            data_home()
    except (FileNotFoundError, ValueError) as error:
        parser.error(str(error))
    return measure_all(jobs, suite.measure, options.out, suite.COLUMNS, options.jobs)


def _parse(arguments: list[str] | None) -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run")
    add = parser.add_argument
    add("--suite", choices=SUITES, default="gain")
    add("--tasks", default="all", help="design, confirm, all, or names, comma separated")
    add("--methods", type=_names, help="names, comma separated; all if left out")
    add("--settings", type=_names, default=SETTINGS, help="gain: labelled, opaque, either")
    add("--budgets", type=_numbers, default=[150], help="gain: metric observations of a run")
    add("--seeds", type=int, default=5, help="number of seeds, from 0")
    add("--repeats", type=int, default=5, help="speed: timings, of which the least counts")
    add("--jobs", type=int, default=1, help="measured at the same time")
    add("--out", type=Path, default=Path("results.csv"), help="CSV to add to")
    options = parser.parse_args(arguments)
    methods = getattr(SUITES[options.suite][0], "METHODS", ())
    for given, known in ((options.methods or (), methods), (options.settings, SETTINGS)):
        unknown = sorted(set(given) - set(known))
        if unknown:
            parser.error(f"unknown names {unknown}; choose from {list(known)}")
    return parser, options


def _names(text: str) -> list[str]:
    return text.split(",")


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


if __name__ == "__main__":
    sys.exit(min(main(), 1))
