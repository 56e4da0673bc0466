"""Loads file after file and says of each what became of it: a process that may be killed by one.

Run as `python -m tests.loader_worker warm-up...`: pairs of subject and path to load first, so that
whatever is imported later is news. Reads pairs, one a line, and answers each with a line of JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import sys
import warnings

import numpy as np
import torch

from sk_metricopt._journal import Journal
from sk_metricopt.exceptions import CheckpointError, CheckpointWarning
from sk_metricopt.export import OnnxPredictor
from sk_metricopt.value_functions import BaseValueFunction

ADDRESSES = 3 * 2**30  # bytes beyond those of a process that has loaded a file
CODE = {"exec", "compile", "import", "marshal.loads", "pickle.find_class", "ctypes.dlopen"}
CODE |= {"os.exec", "os.fork", "os.posix_spawn", "os.system", "socket.connect", "subprocess.Popen"}
GRAMMAR = re.compile(
    r"The '(model|X|checkpoint_dir)' parameter of (OnnxPredictor|Fuzz) must .+\. Got .+"
    r"|The 'path' parameter must be .+\. Got .+",
    re.DOTALL,
)
MOST_VALUES = 10**6  # of a row that a file asks for


def model(path):
    predictor = OnnxPredictor(path)
    inputs = predictor._inputs
    if np.prod(inputs.row_shape, dtype=float) > MOST_VALUES:
        return
    dtypes = getattr(inputs, "dtypes", None)
    if dtypes is None:
        X = np.full((3, *inputs.row_shape), "a" if inputs.dtype is object else 1)
    else:
        columns = [["a"] * 3 if dtype is object else [1] * 3 for dtype in dtypes.values()]
        X = np.array(columns, dtype=object).T
    for method in ("predict", "predict_proba", "transform"):
        if hasattr(predictor, method):
            getattr(predictor, method)(X)
            getattr(predictor, method)(X[:0])


def journal(path):
    with Journal(path, "Fuzz") as opened:
        seed = opened.seed
        assert seed is None or isinstance(seed, int)
        assert all(isinstance(record, dict) for record in opened.records)


def value(path):
    read = BaseValueFunction.from_file(path)
    width = getattr(read, "n_params_", None) or sum(read._sizes)
    if width < MOST_VALUES:
        assert len(read.predict(torch.zeros(3, width))) == 3


SUBJECTS = {"model": model, "journal": journal, "value": value}
NAMED = {"model": (ValueError, OSError), "journal": (CheckpointError,), "value": (ValueError,)}


def outcome(subject, path):
    try:
        SUBJECTS[subject](path)
    except Exception as exc:  # noqa: BLE001 - whatever it is, it is told
        known = isinstance(exc, NAMED[subject]) and GRAMMAR.match(str(exc))
        return ("refused" if known else "unnamed"), f"{type(exc).__name__}: {exc}"[:600]
    return "loaded", ""


def main():
    told = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # so that nothing else is read as an answer
    warnings.simplefilter("error")
    warnings.simplefilter("ignore", CheckpointWarning)
    warnings.simplefilter("ignore", RuntimeWarning)  # numpy's, of numbers that overflow
    events = []
    warm_up = sys.argv[1:]
    for subject, path in zip(warm_up[::2], warm_up[1::2], strict=True):
        got = outcome(subject, path)
        assert got == ("loaded", ""), got
    with contextlib.suppress(ValueError):
        np.dtype("timedelta64[s]")
    with open("/proc/self/statm") as statm:
        size = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + ADDRESSES,) * 2)
    sys.addaudithook(
        lambda event, args: events.append((event, str(args)[:200])) if event in CODE else None
    )
    print("ready", file=told, flush=True)
    for line in sys.stdin:
        subject, path = line.rstrip("\n").split("\t")
        del events[:]
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        what, why = outcome(subject, path)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        answer = {"outcome": what, "why": why, "code": list(events), "grown_mb": grown >> 10}
        print(json.dumps(answer), file=told, flush=True)


if __name__ == "__main__":
    main()
