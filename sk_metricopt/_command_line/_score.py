"""The command `score`: how well the file of a classifier does on a table."""

from __future__ import annotations

import argparse
import difflib
import json
import math
from collections import defaultdict
from inspect import signature

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.metrics import get_scorer, get_scorer_names, make_scorer
from sklearn.metrics._scorer import _BaseScorer
from sklearn.utils.metaestimators import available_if
from tqdm import tqdm

from sk_metricopt._command_line._csv_rows import CsvRows, LabelWords
from sk_metricopt.export import OnnxPredictor
from sk_metricopt.export._inputs import TableInput

_ROWS = 8192  # of a table that is in memory at a time


class KnownAnswers(ClassifierMixin, BaseEstimator):
    """A classifier that has answered already.

    Its `X` is the numbers of rows: those that it answered on are no longer in memory.

    Parameters
    ----------
    classes : ndarray of shape (n_classes,)
    answers : dict of str to ndarray of shape (n_samples, ...)
        What it answered, by the name of the method.
    """

    def __init__(self, classes: np.ndarray, answers: dict[str, np.ndarray]):
        self.classes_ = classes
        self._answers = answers

    @available_if(lambda self: "predict" in self._answers)
    def predict(self, X):
        """Return the labels of the rows that `X` numbers."""
        return self._answers["predict"][X]

    @available_if(lambda self: "predict_proba" in self._answers)
    def predict_proba(self, X):
        """Return the probabilities of the rows that `X` numbers."""
        return self._answers["predict_proba"][X]

    def __sklearn_is_fitted__(self) -> bool:
        return True


def score(args: argparse.Namespace) -> str:
    """Return the score of a file on a table, as text or as a JSON object.

    Parameters
    ----------
    args : Namespace
        As the command line was parsed.
    """
    scorer = _known_scorer(args.scoring)
    rows = CsvRows(args.data, args.target, args.na_values)
    predictor = OnnxPredictor(
        args.model, device=args.device, batch_size=args.batch_size, adapter=args.adapter
    )
    _check_classifier(predictor, args.model)
    scorer = _with_positive_class(scorer, args, predictor.classes_)
    methods = _asked_of(predictor, scorer, args.scoring)
    y, answers = _answers(predictor, rows, methods, args.batch_size or 1024)
    result = {
        "scoring": args.scoring,
        "score": _scored(scorer, KnownAnswers(predictor.classes_, answers), y, args.scoring),
        "rows": len(y),
        "model": args.model,
        "data": args.data,
        "target": args.target,
        "pos_label": args.pos_label,
        "device": args.device,
        "adapter": args.adapter,
    }
    return _shown(result, args.json)


def _known_scorer(name: str) -> _BaseScorer:
    names = get_scorer_names()
    if name in names:
        return get_scorer(name)
    near = difflib.get_close_matches(name, names)
    hint = f"Did you mean {' or '.join(near)}?" if near else "Pass one such as f1_macro or roc_auc."
    raise ValueError(
        f"--scoring must be the name of a scorer in scikit-learn. Got {name!r} instead. {hint}"
    )


def _check_classifier(predictor: OnnxPredictor, model: str) -> None:
    """Refuse what gives no labels for the rows of a table."""
    if hasattr(predictor, "transform"):
        raise ValueError(
            f"MODEL must be the file of a classifier. Got {model!r} instead, which gives "
            "embeddings. Search by it in Python: "
            "EmbeddingRetriever(FrozenEstimator(OnnxPredictor(path)), metric=...).fit(gallery)"
        )
    if not hasattr(predictor, "classes_"):
        raise ValueError(
            f"MODEL must tell its classes. Got {model!r} instead, which has no property "
            "'sk_metricopt.classes'. Write it with to_onnx."
        )
    if not hasattr(predictor, "n_features_in_"):
        raise ValueError(
            f"MODEL must take the rows of a table. Got {model!r} instead, which takes others, such "
            "as images. Score it in Python: get_scorer(name)(OnnxPredictor(path), X, y)"
        )


def _with_positive_class(
    scorer: _BaseScorer, args: argparse.Namespace, classes: np.ndarray
) -> _BaseScorer:
    """Return a scorer that knows which class is the positive one, where it has to."""
    takes_one = _takes_positive_class(scorer)
    if args.pos_label is not None and not takes_one:
        raise ValueError(
            f"--pos-label must be left out for --scoring {args.scoring}, which has no choice of a "
            f"positive class. Got {args.pos_label!r} instead."
        )
    if args.pos_label is not None:
        index = LabelWords(classes).index(args.pos_label)
        if index < 0:
            raise ValueError(
                f"--pos-label must be one of the classes {classes.tolist()}. "
                f"Got {args.pos_label!r} instead."
            )
        return _rebuilt(scorer, classes.tolist()[index])
    default = scorer._get_pos_label()
    if takes_one and len(classes) == 2 and default is not None and default not in classes.tolist():
        raise ValueError(
            f"--pos-label must say which class is the positive one for --scoring {args.scoring}. "
            f"Got none, and {default!r} is none of the classes {classes.tolist()}. Pass "
            f"--pos-label {str(classes[1])!r}, or a scorer of all classes such as f1_macro."
        )
    return scorer


def _takes_positive_class(scorer: _BaseScorer) -> bool:
    of_all = scorer._kwargs.get("average", "binary") != "binary"
    return "pos_label" in signature(scorer._score_func).parameters and not of_all


def _rebuilt(scorer: _BaseScorer, pos_label) -> _BaseScorer:
    return make_scorer(
        scorer._score_func,
        response_method=scorer._response_method,
        greater_is_better=scorer._sign > 0,
        **{**scorer._kwargs, "pos_label": pos_label},
    )


def _asked_of(predictor: OnnxPredictor, scorer: _BaseScorer, name: str) -> list[str]:
    """Return the methods that the scorer may call: what nobody asks for is not computed."""
    asked = scorer._response_method
    asked = (asked,) if isinstance(asked, str) else asked
    methods = [method for method in asked if hasattr(predictor, method)]
    if not methods:
        raise ValueError(
            f"--scoring must be a scorer that asks for what MODEL gives. Got {name!r} instead, "
            f"which asks for {' or '.join(asked)}. Export the file with both of its outputs, or "
            "pass another scorer."
        )
    return methods


def _answers(
    predictor: OnnxPredictor, rows: CsvRows, methods: list[str], batch_size: int
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return the true labels, and what the model answers on the rows."""
    names = getattr(predictor, "feature_names_in_", None)
    features = rows.features(names, predictor.n_features_in_)
    words = LabelWords(predictor.classes_)
    size = batch_size * math.ceil(_ROWS / batch_size)
    parts = defaultdict(list)
    with tqdm(
        total=rows.size, unit="B", unit_scale=True, desc="score", leave=False, disable=None
    ) as bar:
        chunks = rows.chunks(features, _texts(predictor, features), words, size)
        for X, decided, n_bytes in chunks:
            X = X if names is not None else X.to_numpy()
            for method in methods:
                parts[method].append(getattr(predictor, method)(X))
            parts["y"].append(decided)
            bar.update(n_bytes - bar.n)
    joined = {name: np.concatenate(some) for name, some in parts.items()}
    return predictor.classes_[joined.pop("y")], joined


def _texts(predictor: OnnxPredictor, features: list[str]) -> list[str]:
    """Return the columns that the model takes as strings."""
    inputs = predictor._inputs
    if isinstance(inputs, TableInput):
        return [name for name in features if inputs.dtypes[name] is object]
    return features if inputs.dtype is object else []


def _scored(scorer: _BaseScorer, answers: KnownAnswers, y: np.ndarray, name: str) -> float:
    try:
        return float(scorer(answers, np.arange(len(y)), y))
    except Exception as exc:  # scorers fail in many ways
        raise ValueError(
            f"--scoring must be a scorer that fits classes {answers.classes_.tolist()}. Got "
            f"{name!r} instead, which fails: {exc}"
        ) from exc


def _shown(result: dict, as_json: bool) -> str:
    if as_json:
        value = result["score"]
        return json.dumps({**result, "score": value if math.isfinite(value) else None}) + "\n"
    return f"{result['scoring']}  {result['score']}\nrows{result['rows']:>10}\n"
