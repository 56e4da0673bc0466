"""The rows of a CSV file as a model takes them, some at a time."""

from __future__ import annotations

import os
import warnings
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sk_metricopt._optional import import_optional_dependency

if TYPE_CHECKING:
    from pandas import DataFrame

_COMPRESSIONS = {".bz2": "bz2", ".gz": "gzip", ".xz": "xz", ".zip": "zip", ".zst": "zstd"}
_SHOWN = 5  # of what is wrong


class LabelWords:
    """Labels as they are written in a file.

    Parameters
    ----------
    classes : ndarray of shape (n_classes,)

    Attributes
    ----------
    unknown : Counter of str
        What was looked up and is none of them, and how often.
    """

    def __init__(self, classes: np.ndarray):
        self._index: dict[Any, int] = {str(c): i for i, c in enumerate(classes.tolist())}
        self._are_numbers = classes.dtype.kind in "biuf"
        if self._are_numbers:
            self._index.update({float(c): i for i, c in enumerate(classes.tolist())})
        self.unknown: Counter[str] = Counter()

    def index(self, word: str) -> int:
        """Return which class a word means; -1 is none."""
        found = self._index.get(word)
        if found is None and self._are_numbers:
            found = self._index.get(_number(word))
        if found is None:
            self.unknown[word] += 1
            return -1
        return found


class CsvRows:
    """Reads a CSV file.

    Parameters
    ----------
    path : str
    target : str
        Column of the labels.
    na_values : sequence of str
        What stands for a missing value, beside what pandas takes for one.
    """

    def __init__(self, path: str, target: str, na_values: Sequence[str]):
        self._pandas = import_optional_dependency("pandas", "cli")
        self._path = path
        self._target = target
        self._na_values = list(na_values)
        if not Path(path).is_file():
            raise FileNotFoundError(f"DATA must be a CSV file. Got {path!r} instead.")
        self._header = self._read_header()
        self._check_named([target], "the column of --target")

    def features(self, names: Sequence[str] | None, n_features: int) -> list[str]:
        """Return the columns that a model takes.

        Parameters
        ----------
        names : sequence of str or None
            Their names. None means that all columns but the target are some.
        n_features : int
            How many they are.
        """
        if names is None:
            found = [name for name in self._header if name != self._target]
            if len(found) != n_features:
                raise ValueError(
                    f"DATA must have {n_features} columns besides --target, as MODEL does not name "
                    f"those it takes. Got {len(found)} instead. Leave out the others, and see that "
                    "the rest is in the order of fit."
                )
            names = found
        self._check_named(names, "the columns that MODEL takes")
        if self._target in names:
            raise ValueError(
                f"--target must be no column that MODEL takes. Got {self._target!r}, which is one."
            )
        return list(names)

    def chunks(
        self, features: Sequence[str], texts: Sequence[str], words: LabelWords, size: int
    ) -> Iterator[tuple[DataFrame, np.ndarray, int]]:
        """Yield tables of `features`, the classes of their rows, and the bytes read so far.

        Parameters
        ----------
        features : sequence of str
        texts : sequence of str
            Those of them that hold strings, whatever these look like.
        words : LabelWords
        size : int
            Rows of a table.
        """
        numbers = [name for name in features if name not in set(texts)]
        options = {
            "dtype": dict.fromkeys(texts, str),
            "converters": {self._target: words.index},
            "na_values": self._na_values,
            "chunksize": size,
            "low_memory": False,  # else parts of a chunk may differ in dtype
        }
        n_rows = 0
        with self._open() as file, self._named_errors(), self._read(file, options) as reader:
            for chunk in reader:
                for name in numbers:
                    chunk[name] = self._as_numbers(chunk[name], n_rows)
                n_rows += len(chunk)
                yield chunk[list(features)], chunk[self._target].to_numpy(), file.tell()
        self._check_labels(words, n_rows)

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return os.path.getsize(self._path)

    def _open(self):
        return open(self._path, "rb")

    def _read(self, file, options: dict[str, Any]):
        compression = _COMPRESSIONS.get(Path(self._path).suffix.lower())
        # Columns that are not needed are read as well: only then is a row that has more fields
        # than the header an error, and not one whose values are in the wrong columns.
        return self._pandas.read_csv(file, compression=compression, index_col=False, **options)

    def _read_header(self) -> list[str]:
        # Two rows, so that a header that is shorter than the rows fails.
        options = {"header": None, "nrows": 2, "dtype": str, "keep_default_na": False}
        with self._open() as file, self._named_errors():
            return self._read(file, options).iloc[0].tolist()

    def _named_errors(self) -> _NamedErrors:
        return _NamedErrors(self._pandas, self._path)

    def _check_named(self, names: Sequence[str], what: str) -> None:
        counts = Counter(self._header)
        missing = [name for name in names if not counts[name]]
        if missing:
            raise ValueError(
                f"DATA must have {what}. Got a header without {_some(missing)}. It has "
                f"{_some(self._header)}."
            )
        twice = [name for name in names if counts[name] > 1]
        if twice:
            raise ValueError(
                f"DATA must have {what} once each. Got {_some(twice)} several times. Rename the "
                "others."
            )

    def _as_numbers(self, column, n_before: int):
        """Return a column of numbers; words among them are an error."""
        if not any(isinstance(value, str) for value in column):
            return column
        numbers = self._pandas.to_numeric(column, errors="coerce")
        wrong = np.flatnonzero(numbers.isna() & column.notna())
        if len(wrong):
            word = column.iloc[wrong[0]]
            raise ValueError(
                f"DATA must have numbers in column {column.name!r}, which MODEL takes as numbers. "
                f"Got {word!r} in row {n_before + wrong[0] + 1} instead. Pass --na-values "
                f"{word!r} if it stands for a missing value."
            )
        return numbers

    def _check_labels(self, words: LabelWords, n_rows: int) -> None:
        if n_rows == 0:
            raise ValueError(f"DATA must have at least one row. Got {self._path!r} with none.")
        if words.unknown:
            raise ValueError(
                f"DATA must have classes of MODEL in column {self._target!r}. Got "
                f"{_some(list(words.unknown))} instead, in {words.unknown.total()} of {n_rows} "
                "rows. See the classes with: sk-metricopt inspect MODEL"
            )


class _NamedErrors:
    """Says which file it was that pandas cannot read."""

    def __init__(self, pandas, path: str):
        self._path = path
        self._errors = (
            pandas.errors.ParserError,
            pandas.errors.ParserWarning,
            pandas.errors.EmptyDataError,
            UnicodeDecodeError,
            EOFError,
            zlib.error,
        )

    def __enter__(self) -> None:
        self._caught = warnings.catch_warnings()
        self._caught.__enter__()
        warnings.simplefilter("error", self._errors[1])

    def __exit__(self, kind, exc, trace) -> None:
        self._caught.__exit__(kind, exc, trace)
        if isinstance(exc, self._errors):
            raise ValueError(
                f"DATA must be a CSV file in UTF-8 whose rows are as long as its header. Got "
                f"{self._path!r}, which cannot be read: {exc}"
            ) from exc


def _number(word: str) -> float | None:
    """Return the number that a word is; True and False are some as well."""
    word = {"true": "1", "false": "0"}.get(word.strip().lower(), word)
    try:
        return float(word)
    except ValueError:
        return None


def _some(words: Sequence[str]) -> str:
    more = f" and {len(words) - _SHOWN} more" if len(words) > _SHOWN else ""
    return ", ".join(map(repr, words[:_SHOWN])) + more
