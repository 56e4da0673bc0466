"""Scorers of embeddings: from an estimator with `transform` to a retrieval metric."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable

import numpy as np
import torch
from sklearn.utils._param_validation import StrOptions, validate_parameter_constraints
from sklearn.utils.metaestimators import available_if
from torch import Tensor

from sk_metricopt._search import METRICS
from sk_metricopt.metrics._protocol import Retrieval, retrieval
from sk_metricopt.metrics._ranking import LONE, PARAMS, PER_QUERY, PUBLIC, depth, settled
from sk_metricopt.metrics._relevance import Relevance

_MAKER = "make_retrieval_scorer"
_CALLER = "RetrievalScorer"


def make_retrieval_scorer(
    metric,
    *,
    k=None,
    gallery="self",
    similarity="auto",
    relevance=None,
    lone="skip",
    per_query=False,
    **options,
):
    """Make a scorer of embeddings from a retrieval metric.

    The scorer embeds rows by the estimator's `transform`, compares them to a gallery, and asks
    the metric whether the nearest are right answers. Use it wherever scikit-learn takes a
    `scoring`.

    Parameters
    ----------
    metric : str or callable
        Name of a metric of :mod:`sk_metricopt.metrics`, such as "recall_at_k", or a callable
        ``metric(relevance, similarity, **options)`` on arrays of shape (n_queries, n_gallery)
        that returns a number, greater is better. A callable gets neither queries without any
        relevant item nor, where rows query each other, an item for the query itself: then its
        arrays have one column less than there are rows.
    k : int, default=None
        How many of the nearest items count, for metrics that take it; their own default where
        None.
    gallery : {"self", "fitted"}, default="self"
        "self": every row of X queries the others. "fitted": the rows of X query the estimator's
        `gallery_embeddings_`, whose labels are its `gallery_labels_`.
    similarity : {"auto", "cosine", "dot", "euclidean"}, default="auto"
        How embeddings are compared. "auto": as the `metric` of the estimator says (or of what it
        wraps), by cosine where it has none.
    relevance : callable, default=None
        ``relevance(y_query, y_gallery)`` that returns grades of shape (n_queries, n_gallery), 0
        for irrelevant items; it may be called for some queries at a time. By default the items
        with the label of the query are relevant.
    lone : {"skip", "zero", "raise"}, default="skip"
        What becomes of a query without any relevant item: it is left out, counts 0, or is an
        error.
    per_query : bool, default=False
        Whether a callable returns an array with the value of each query, of which the score is
        the mean. It is then called for some queries at a time.
    **options : dict
        Passed to the metric, such as ``counts="all"`` to "recall_at_k".

    Returns
    -------
    scorer : callable
        ``scorer(estimator, X, y)``. Where the metric has a value for each query,
        ``scorer.decomposes`` is True and ``scorer.per_query(estimator, X, y)`` returns them, NaN
        for queries left out; the score is the mean of the others.

    Raises
    ------
    ValueError
        If a parameter is unknown or out of range.
    TypeError
        If the metric does not take an option.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.preprocessing import FunctionTransformer
    >>> from sk_metricopt.metrics import make_retrieval_scorer
    >>> X = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [1.0, 0.9]])
    >>> y = ["cat", "cat", "dog", "dog"]
    >>> scorer = make_retrieval_scorer("recall_at_k", k=1)
    >>> scorer
    make_retrieval_scorer('recall_at_k', k=1)
    >>> scorer(FunctionTransformer(), X, y)
    0.75
    >>> scorer.per_query(FunctionTransformer(), X, y).tolist()
    [1.0, 1.0, 1.0, 0.0]
    """
    values = {"gallery": gallery, "similarity": similarity, "relevance": relevance}
    values |= {"lone": lone, "per_query": per_query}
    constraints = {
        "gallery": [StrOptions({"self", "fitted"})],
        "similarity": [StrOptions({"auto", *METRICS})],
        "relevance": [callable, None],
        "lone": [LONE],
        "per_query": ["boolean"],
    }
    validate_parameter_constraints(constraints, values, caller_name=_MAKER)
    metric = _resolved(metric)
    options = options if k is None else {"k": k} | options
    _check_options(metric, options)
    if lone == "zero" and callable(metric) and not per_query:
        raise ValueError(
            f"The 'lone' parameter of {_MAKER} must be 'skip' or 'raise' for a callable that "
            "returns one number. Got 'zero' instead. Have it return the value of each query, and "
            "pass per_query=True."
        )
    return RetrievalScorer(metric, options, **values)


def _resolved(metric) -> str | Callable:
    """Return the name of a metric of ours, however it was passed, or the user's callable."""
    if callable(metric):
        return next((name for name, public in PUBLIC.items() if public is metric), metric)
    if isinstance(metric, str) and metric in PUBLIC:
        return metric
    near = difflib.get_close_matches(str(metric), PUBLIC)
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    raise ValueError(
        f"The 'metric' parameter of {_MAKER} must be one of {', '.join(map(repr, PUBLIC))} or a "
        f"callable metric(relevance, similarity). Got {metric!r} instead.{hint}"
    )


def _check_options(metric: str | Callable, options: dict) -> None:
    named = metric if isinstance(metric, str) else getattr(metric, "__name__", repr(metric))
    known = PARAMS[metric] if isinstance(metric, str) else _parameters(metric)
    unknown = set() if known is None else options.keys() - known
    if unknown:
        name = min(unknown)
        near = difflib.get_close_matches(name, known)
        hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
        raise TypeError(
            f"The {name!r} parameter of {_MAKER} must be one that the metric takes. The metric "
            f"{named} has no parameter {name!r}.{hint} Leave it out."
        )
    if isinstance(metric, str):
        validate_parameter_constraints(PARAMS[metric], options, caller_name=metric)


def _parameters(metric: Callable) -> list[str] | None:
    """Return the names that a callable takes, None for any."""
    try:
        parameters = inspect.signature(metric).parameters
    except (TypeError, ValueError):  # some callables of other languages do not tell
        return None
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    return None if takes_any else list(parameters)


class RetrievalScorer:
    """What `make_retrieval_scorer` returns; see there for the parameters.

    Attributes
    ----------
    metric : str or callable
        A metric of ours goes by its name.
    options : dict
        What is passed to it.
    decomposes : bool
        Whether `per_query` is there: the score is the mean of the values of the queries.
    """

    def __init__(self, metric, options, *, gallery, similarity, relevance, lone, per_query):
        self.metric = metric
        self.options = options
        self.gallery = gallery
        self.similarity = similarity
        self.relevance = relevance
        self.lone = lone
        self.decomposes = isinstance(metric, str) or per_query

    @property
    def short_name(self) -> str:
        """What people call the metric."""
        metric = self.metric
        name = metric if isinstance(metric, str) else getattr(metric, "__name__", repr(metric))
        options = ", ".join(f"{option}={value!r}" for option, value in self.options.items())
        return name + (options and f"({options})")

    def __repr__(self) -> str:
        named = isinstance(self.metric, str)
        metric = repr(self.metric) if named else getattr(self.metric, "__name__", repr(self.metric))
        defaults = {"gallery": "self", "similarity": "auto", "relevance": None, "lone": "skip"}
        changed = {
            name: getattr(self, name)
            for name, default in defaults.items()
            if getattr(self, name) != default
        }
        changed |= {} if named or not self.decomposes else {"per_query": True}
        shown = [f"{name}={value!r}" for name, value in (self.options | changed).items()]
        return f"{_MAKER}({', '.join([metric, *shown])})"

    def __call__(self, estimator, X, y) -> float:
        """Return the score of the rows of `X` as queries."""
        if self.decomposes:
            return float(np.nanmean(self.per_query(estimator, X, y)))
        return self._whole(self._retrieval(estimator, X, y))

    @available_if(lambda self: self.decomposes)
    def per_query(self, estimator, X, y, queries: np.ndarray | None = None) -> np.ndarray:
        """Return the value of each row of `X` as a query, NaN where it is left out.

        Parameters
        ----------
        estimator : estimator with ``transform``
        X : array-like
        y : array-like of shape (n_samples,)
        queries : ndarray of int, default=None
            Rows of `X` that search; the others are only found, and NaN. By default all search.

        Returns
        -------
        ndarray of shape (n_samples,)
        """
        search = self._retrieval(estimator, X, y)
        named = isinstance(self.metric, str)
        options = self._options(search.n_found) if named else self.options
        values = np.full(len(search.queries), np.nan)
        for rows, relevance, similarity in search.blocks(in_order=not named, asked=queries):
            if named:
                found = PER_QUERY[self.metric](relevance, similarity, **options)
                values[rows.cpu().numpy()] = found.cpu().numpy()
            else:
                own = None if search.own is None else search.own[rows]
                answered, *arrays = _arrays(relevance, similarity, own)
                if answered.any():
                    values[rows.cpu().numpy()[answered]] = self._called(*arrays)
        if queries is None:
            return settled(values, self.lone, _CALLER)
        if self.lone != "skip":
            values[queries] = settled(values[queries], self.lone, _CALLER)
        return values

    def _retrieval(self, estimator, X, y) -> Retrieval:
        return retrieval(estimator, X, y, self.gallery, self.similarity, self.relevance)

    def _options(self, n_found: int) -> dict:
        """All options of a named metric."""
        signature = inspect.signature(PUBLIC[self.metric]).parameters
        options = {name: signature[name].default for name in PARAMS[self.metric]} | self.options
        if "k" in options:
            options["k"] = depth(options["k"], n_found, repr(self))
        return options

    def _whole(self, search: Retrieval) -> float:
        """Return what the callable makes of all queries at once."""
        parts = []
        for rows, relevance, similarity in search.blocks(in_order=True):
            own = None if search.own is None else search.own[rows]
            parts.append(_arrays(relevance, similarity, own))
        answered, *arrays = (np.concatenate(part) for part in zip(*parts, strict=True))
        settled(np.where(answered, 0.0, np.nan), self.lone, _CALLER)
        score = self.metric(*arrays, **self.options)
        if np.ndim(score):
            raise ValueError(
                f"The metric of {self!r} must return one number. Got an array of shape "
                f"{np.shape(score)} instead. Pass per_query=True where it holds the value of each "
                "query."
            )
        try:
            return float(score)
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"The 'metric' parameter of {_MAKER} must return one number. Got {score!r:.200} "
                "from the callable instead. Have it return a float."
            ) from error

    def _called(self, relevance: np.ndarray, similarity: np.ndarray) -> np.ndarray:
        """Return what the callable makes of some queries."""
        values = np.asarray(self.metric(relevance, similarity, **self.options))
        if values.shape != (len(relevance),):
            raise ValueError(
                f"The metric of {self!r} must return one value per query, an array of shape "
                f"{(len(relevance),)}. Got shape {values.shape} instead. Leave per_query out "
                "where it returns one number."
            )
        return values


def _arrays(
    relevance: Relevance, similarity: Tensor, own: Tensor | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return which queries have a relevant item, and the arrays for these, less themselves."""
    answered, grades = relevance.total > 0, relevance.grades().double()
    if own is not None:
        others = torch.ones_like(similarity, dtype=torch.bool).scatter_(1, own[:, None], False)
        grades, similarity = (part[others].view(len(part), -1) for part in (grades, similarity))
    grades, similarity = grades[answered], similarity[answered]
    return answered.cpu().numpy(), grades.cpu().numpy(), similarity.cpu().numpy()
