"""How rows become what a graph is fed: one array, or a column of a table each."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

INPUT = "X"  # name of the input where there is one array
ADAPTER = "adapter"  # name of the input that chooses adapter parameters
BATCH = "batch"  # name of the axis of rows
OUTPUTS = ("label", "probabilities", "embeddings")
MISSING = "nan"  # stands for a missing string: tensors of strings have no other word for it

Feed = dict[str, np.ndarray]  # rows first, by the name of the graph's input

_DTYPES: dict[str, Any] = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(string)": object,
}


@dataclass(frozen=True)
class ArrayInput:
    """One input for all of a row.

    Parameters
    ----------
    dtype : type
        Of the graph's input; object stands for strings.
    row_shape : tuple of int
        Shape of a row.
    owner : str
        Whose parameter `X` is, in errors.
    names : list of str or None
        Names of the columns, where there are some.
    """

    dtype: Any
    row_shape: tuple[int, ...]
    owner: str
    names: list[str] | None = None

    def feed(self, X) -> Feed:
        """Return `X` as the graph takes it.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
        """
        try:
            values = _as_array(X)
        except ValueError as error:  # rows of unlike lengths
            raise ValueError(
                f"The 'X' parameter of {self.owner} must have rows of shape {self.row_shape}. Got "
                f"a {type(X).__name__} that is no array ({error}). Pass rows like those of fit."
            ) from error
        if self.names is not None and hasattr(X, "columns"):
            _check_names(list(X.columns), self.names, self.owner)
        if values.shape[1:] != self.row_shape or values.ndim == 0:
            raise ValueError(
                f"The 'X' parameter of {self.owner} must have rows of shape {self.row_shape}. Got "
                f"an array of shape {values.shape} instead. Pass rows like those of fit."
            )
        return {INPUT: _converted(values, self.dtype, "values", self.owner)}


@dataclass(frozen=True)
class TableInput:
    """One input for each column of a table.

    Parameters
    ----------
    dtypes : dict of str to type
        Of each column, by its name, in the order of `fit`; object stands for strings.
    owner : str
        Whose parameter `X` is, in errors.
    """

    dtypes: dict[str, Any]
    owner: str

    @property
    def names(self) -> list[str]:
        """Names of the columns."""
        return list(self.dtypes)

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of a row."""
        return (len(self.dtypes),)

    def feed(self, X) -> Feed:
        """Return the columns of `X` as the graph takes them.

        Parameters
        ----------
        X : DataFrame, or array-like of shape (n_samples, n_columns)
            A table without names has its columns in the order of `fit`.
        """
        if hasattr(X, "columns"):
            _check_names(list(X.columns), self.names, self.owner)
            # The order is that of fit; pandas hands out all columns sooner than each by its name.
            columns: Iterable = (column for _, column in X.items()) if hasattr(X, "items") else X
        else:
            table = np.asarray(X, dtype=object)
            if table.ndim != 2 or table.shape[1] != len(self.dtypes):
                raise ValueError(
                    f"The 'X' parameter of {self.owner} must be a table with {len(self.dtypes)} "
                    f"columns. Got an array of shape {table.shape} instead. Pass a DataFrame with "
                    f"the columns {self.names!r}."
                )
            columns = table.T
        return {
            name: _converted(_as_array(column), dtype, f"column {name!r}", self.owner)[:, None]
            for (name, dtype), column in zip(self.dtypes.items(), columns, strict=True)
        }


Inputs = ArrayInput | TableInput


def inputs_like(X, by_column: bool, dtype_of: Callable[[np.ndarray], Any], owner: str) -> Inputs:
    """Return what takes tables or arrays like `X`.

    Parameters
    ----------
    X : array-like of shape (n_samples, ...) or DataFrame
    by_column : bool
        Whether the columns of a table are told apart by their names.
    dtype_of : callable
        Returns the dtype of the graph's input from an array of numbers.
    owner : str
        Whose parameter `X` is, in errors.

    Raises
    ------
    TypeError, ValueError
        If there are no rows, or they are neither numbers nor strings.
    """
    if X is None:
        raise ValueError(_wanted("None", owner))
    if hasattr(X, "columns"):
        _check_columns(list(X.columns), owner)
        dtypes = {name: _column_dtype(X[name], name, owner) for name in X.columns}
        if by_column or object in dtypes.values():
            _check_some_rows(len(X), X, owner)
            return TableInput(dtypes, owner)
    try:
        values = _as_array(X)
    except ValueError as exc:  # rows of unlike lengths
        raise ValueError(_wanted(f"a {type(X).__name__} that is no array ({exc})", owner)) from exc
    if values.ndim == 0 or values.dtype.kind not in "biufOU":
        got = f"{type(X).__name__} of shape {values.shape} and dtype {values.dtype}"
        raise TypeError(_wanted(got, owner))
    _check_some_rows(len(values), X, owner)
    names = list(X.columns) if hasattr(X, "columns") else None
    of_text = values.dtype.kind in "OU" and any(isinstance(v, str) for v in values.ravel())
    dtype = object if of_text else dtype_of(values)
    return ArrayInput(dtype, values.shape[1:], owner, names)


def inputs_of(session, names: list[str] | None, owner: str) -> Inputs:
    """Return what feeds an onnxruntime session.

    Parameters
    ----------
    session : onnxruntime.InferenceSession
    names : list of str or None
        Names of the columns, where the file tells them.
    owner : str
        Whose parameter `X` is, in errors.

    Raises
    ------
    ValueError
        If the session takes neither one array of rows nor single columns.
    """
    found = [value for value in session.get_inputs() if value.name != ADAPTER]
    if all(value.type in _DTYPES for value in found):
        dtypes = {value.name: _DTYPES[value.type] for value in found}
        shapes = [tuple(value.shape[1:]) for value in found]
        if list(dtypes) == [INPUT] and all(isinstance(length, int) for length in shapes[0]):
            return ArrayInput(dtypes[INPUT], shapes[0], owner, names)
        if found and INPUT not in dtypes and set(shapes) == {(1,)}:
            return TableInput(dtypes, owner)
    taken = ", ".join(f"{value.name}: {value.type} of {value.shape}" for value in found)
    raise ValueError(
        f"The 'model' parameter of {owner} must have one input 'X' with rows of a fixed shape, or "
        f"one input of shape [rows, 1] per column. Got ({taken}) instead. Write it with to_onnx."
    )


def _as_array(X) -> np.ndarray:
    if hasattr(X, "to_numpy"):  # asking a Series for attributes that it lacks takes long
        dtype = getattr(X, "dtype", None)
        if hasattr(dtype, "na_value") and dtype.kind in "biuf":
            return X.to_numpy(dtype=np.float64, na_value=np.nan)  # a nullable column of numbers
        return X.to_numpy()
    if hasattr(X, "detach"):  # a tensor
        X = X.detach().cpu()
    return np.asarray(X)


def _converted(values: np.ndarray, dtype: Any, what: str, owner: str) -> np.ndarray:
    """Return `values` as `dtype`, which strings in the place of numbers do not become."""
    if dtype is object:
        flat = values.ravel().tolist()
        # A plain string needs no more: many thousands are to be fed at once.
        flat = [v if type(v) is str and v != MISSING else _word(v, what, owner) for v in flat]
        words = np.empty(len(flat), dtype=object)
        words[:] = flat
        return words.reshape(values.shape)
    if values.dtype.kind == "O":
        values = _numbers(values)
    if values.dtype.kind not in "biuf":
        raise TypeError(
            f"The 'X' parameter of {owner} must have numbers in {what}. Got dtype {values.dtype} "
            "instead. Convert them, or pass the columns that fit saw, in their order."
        )
    whole = np.dtype(dtype).kind == "i"
    if whole and values.dtype.kind == "f" and not np.array_equal(values, np.trunc(values)):
        raise ValueError(
            f"The 'X' parameter of {owner} must have whole numbers in {what}. Got fractions or "
            "NaN instead. Pass indices as integers."
        )
    return np.ascontiguousarray(values, dtype=dtype)


def _numbers(values: np.ndarray) -> np.ndarray:
    """Return objects as float64 where they are numbers or missing, as they are where not."""
    flat = values.ravel().tolist()
    if any(isinstance(value, str | bytes) for value in flat):
        return values
    try:
        numbers = [np.nan if _is_missing(value) else float(value) for value in flat]
    except (TypeError, ValueError):
        return values
    return np.array(numbers).reshape(values.shape)


def _word(value, what: str, owner: str) -> str:
    if _is_missing(value):
        return MISSING
    if not isinstance(value, str):
        raise TypeError(
            f"The 'X' parameter of {owner} must have strings in {what}. Got {value!r} of type "
            f"{type(value).__name__} instead. Convert it with str, or pass the columns that fit "
            "saw, in their order."
        )
    if value == MISSING:
        raise ValueError(
            f"The 'X' parameter of {owner} must not have the string {MISSING!r} in {what}: to a "
            "graph it stands for a missing value. Pass None where a value is missing, or call the "
            "category otherwise, and fit again."
        )
    return str(value)


def _is_missing(value) -> bool:
    if value is None or type(value).__name__ in ("NAType", "NaTType"):  # pandas' own words
        return True
    return isinstance(value, float) and value != value


def _column_dtype(column, name, owner: str) -> Any:
    values = _as_array(column)
    if values.dtype.kind in "biuf":
        return np.float32
    if values.dtype.kind == "O" and _numbers(values).dtype.kind == "f":
        return np.float32
    if values.dtype.kind in "OU":
        return object
    raise TypeError(
        f"The 'X' parameter of {owner} must have columns of numbers or strings. Got {name!r} of "
        f"dtype {values.dtype} instead. Convert it before the estimator, and fit again."
    )


def _check_columns(names: list, owner: str) -> None:
    if len(set(names)) < len(names) or not all(isinstance(name, str) for name in names):
        raise ValueError(
            f"The 'X' parameter of {owner} must have a different string as the name of every "
            f"column. Got {names!r} instead. Rename the columns, and fit again."
        )
    taken = {"", ADAPTER, *OUTPUTS} & set(names)
    if taken or (INPUT in names and len(names) > 1):
        raise ValueError(
            f"The 'X' parameter of {owner} must have columns with other names than {INPUT!r}, "
            f"{ADAPTER!r} and {', '.join(map(repr, OUTPUTS))}, which are those of a graph's own "
            f"inputs and outputs, and than ''. Got {names!r} instead. Rename the columns, and fit "
            "again."
        )


def _check_names(got: list, expected: list[str], owner: str) -> None:
    if got == expected:
        return
    absent = [name for name in expected if name not in got]
    foreign = [name for name in got if name not in expected]
    if absent or foreign:
        problem = f"without {absent!r}" if absent else f"with {foreign!r} besides"
    else:
        problem = "in another order"
    wanted = repr(expected) if len(expected) <= 20 else "list(feature_names_in_)"
    raise ValueError(
        f"The 'X' parameter of {owner} must have the columns of fit in their order. Got columns "
        f"{problem}. Pass X[{wanted}]."
    )


def _check_some_rows(n_rows: int, X, owner: str) -> None:
    if n_rows == 0:
        raise ValueError(_wanted(f"an empty array of shape {np.shape(X)}", owner))


def _wanted(got: str, owner: str) -> str:
    return (
        f"The 'X' parameter of {owner} must be an array of numbers, a table of strings or a "
        f"DataFrame, with at least one row. Got {got} instead. Pass rows that the estimator takes, "
        "such as a validation set: they give the graph its input and are used to check it."
    )
