"""A case, and what happens when it is called."""

from __future__ import annotations

import faulthandler
import re
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sk_metricopt import exceptions

WORKS = "works"
_OPTIONS = re.compile(r"\{('[^}]*')\}")  # a set, as scikit-learn prints it
_HANGS = 60  # seconds; the slowest case takes a few
_FLOOD = 3  # warnings of one call
_NAMED = (ValueError, TypeError, exceptions.ExportError, exceptions.CheckpointError)
# What our own errors say first, or how scikit-learn names X, y, a parameter and an unfitted state.
_GRAMMAR = re.compile(
    r"The '\w+' parameter (of \w+|is not one)|In 'X_val' and 'y_val' of \w+|The metric of \w+"
    r"|\w+\.transform must return|\w+\.\w+ needs|\w+\.(__init__|fit)\(\) |Invalid parameter"
    r"|Passing extra keyword|scoring value|Input (X|y|relevance) contains|Input contains NaN"
    r"|X has \d+ features|Found array with|Found input variables|Expected 2D array"
    r"|Expected a 2-dimensional|(This )?\w+ (estimator )?requires y|y should be|y contains"
    r"|Unknown label type|The type of target|Classification metrics can|Mix of label"
    r"|Sparse data was passed|Complex data not supported|could not convert|dtype="
    r"|The feature names should|Feature names are only|This \w+ instance is not fitted"
)


@dataclass(frozen=True)
class Case:
    """One call and what it should do.

    Attributes
    ----------
    entry : str
        What is called.
    passed : str
        What is bad or odd about the input, in words.
    call : callable
        Makes the call, checks a result as far as there is one, and says what it is.
    expected : str
        `WORKS`, or a regular expression that the message must contain.
    """

    entry: str
    passed: str
    call: Callable[[], str]
    expected: str

    @property
    def name(self) -> str:
        """What tells the case from all others."""
        return f"{self.entry}: {self.passed}"


@dataclass(frozen=True)
class Outcome:
    """What happened.

    Attributes
    ----------
    result : str or None
        What came back, where there was no error.
    error : Exception or None
    warned : list of str
        Warnings, in words.
    """

    result: str | None
    error: Exception | None
    warned: list[str]

    @property
    def told(self) -> str:
        """The result, or the class of the error and what it says first."""
        if self.error is None:
            return str(self.result)
        said = _OPTIONS.sub(_sorted, " ".join(str(self.error).split()))
        first = re.match(r".*?[.?!](?= [A-Z]|$)", said)
        return f"{type(self.error).__name__}: {first.group() if first else said}"

    def fault(self) -> str | None:
        """Say what is wrong with how the call ended, if anything is."""
        if len(self.warned) > _FLOOD:
            return f"{len(self.warned)} warnings: {self.warned[:5]}"
        return None if self.error is None else _fault_of(self.error)


def _sorted(options: re.Match) -> str:
    """Return a set of strings in an order that is the same in every process."""
    return "{" + ", ".join(sorted(options.group(1).split(", "))) + "}"


def observe(call: Callable[[], str]) -> Outcome:
    """Make a call; end the process where it hangs."""
    faulthandler.dump_traceback_later(_HANGS, exit=True)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                result, error = call(), None
            except AssertionError:
                raise
            except Exception as raised:  # noqa: BLE001  any of them is judged below
                result, error = None, raised
    finally:
        faulthandler.cancel_dump_traceback_later()
    return Outcome(result, error, [f"{w.category.__name__}: {w.message}" for w in caught])


def _fault_of(error: Exception) -> str | None:
    if not isinstance(error, _NAMED):
        return f"{type(error).__name__} is none of the classes that are promised: {error}"
    if not _GRAMMAR.match(str(error)):
        return f"the message names no parameter: {error}"
    path = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
    if {"torch", "skorch", "onnx", "onnxruntime"} & set(path.parts):
        return f"raised inside a library, in {path}"
    return None
