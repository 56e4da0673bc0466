"""PostShiftClassifier: weights on the classes of any probabilistic classifier."""

from __future__ import annotations

import copy
from numbers import Integral, Real

import numpy as np
from sklearn.base import (
    BaseEstimator,
    ClassifierMixin,
    MetaEstimatorMixin,
    _fit_context,
)
from sklearn.utils import get_tags
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils.metadata_routing import MethodMapping
from sklearn.utils.validation import (
    check_is_fitted,
)

from sk_metricopt import _validation
from sk_metricopt._basis import Basis
from sk_metricopt._candidate import ClassifierScoring
from sk_metricopt._clock import Clock
from sk_metricopt._frank_wolfe import KnownAnswers, Settings
from sk_metricopt._held_out import HeldOut, Splitting, check_probabilistic, checked_rows, fitted
from sk_metricopt._metric_estimator import MetricEstimatorMixin
from sk_metricopt._observation import Conduct, ObservationEngine
from sk_metricopt._post_shifting import PostShifting
from sk_metricopt._progress import progress
from sk_metricopt._random import draw_seed, seeded
from sk_metricopt._results import set_results
from sk_metricopt._weighting import Mixture, Weighting, Weights, draws_of

_CALLER = "PostShiftClassifier"
_OF_ESTIMATOR = ("n_features_in_", "feature_names_in_")


class PostShiftClassifier(MetricEstimatorMixin, ClassifierMixin, MetaEstimatorMixin, BaseEstimator):
    """Weight the class probabilities of any classifier towards any metric a scorer can compute.

    The metric is a black box: only its values on validation rows are observed. Weights on the
    classes are searched for by Frank and Wolfe's method: probing classifiers near the present one
    tell how the metric moves with the confusion matrix, and the weights which that gradient asks
    for are where the search goes next [1]_. No gradient of the model is needed, and few
    observations. As in `MetricOptFinetuner`, winners on resamples are averaged, and kept only if
    the gain stands out from its standard error, judged on rows that had no say in it.

    Parameters
    ----------
    estimator : classifier with predict_proba
        An unfitted one is cloned and trained. A fitted one inside a ``FrozenEstimator`` is used as
        it is.
    scoring : str, callable or None, default=None
        One metric: a scorer's name, an object made by ``make_scorer`` or a callable
        ``scorer(estimator, X, y)``. Greater is better. None is accuracy.
    weighting : {"diagonal", "full"}, default="diagonal"
        What of the confusion matrix the metric is taken to hang on. "diagonal": the hits of each
        class; a class has one weight. "full": every cell; there is a weight for every pair of true
        and decided class, as costs of errors ask for. That takes more observations.
    basis : "class", array-like or callable, default="class"
        What weights may differ between besides classes: columns of `X`, by position or name, whose
        values name groups, or a callable ``basis(X)`` that returns memberships of at least 0, of
        shape (n_samples, n_basis).
    n_iter : int or None, default=None
        Gradients elicited at most. If None, until the observations are spent.
    epsilon : float, default=0.2
        How far probing classifiers go: the share of a class's rows by which they decide for it more
        or less often.
    randomized : bool, default=False
        If True, rows are decided by chance among the weights found on the way, as published: that
        can reach what no weights can where many rows have the same probabilities. If False, by
        the best weights found.
    max_observations : int, default=50
        Metric observations allowed, the one of the model as it came included; a search takes 6 or
        more.
    validation_fraction : float, default=0.2
        Share of the rows that is split off to observe the metric on, where neither `cv` nor
        validation rows are given and there is an estimator to train.
    cv : int, cross-validation generator, iterable or None, default=None
        If given, the metric is observed on all rows of `fit`, predicted out of fold, and the
        estimator trains on all of them.
    guard_z : float or None, default=1.0
        The decisions change only if the gain exceeds this many standard errors. 0 accepts any
        gain, None switches the guard off.
    random_state : int, RandomState instance or None, default=None
        Seeds the split, probes, resampling and what the estimator draws from global streams, which
        are left as they were.
    verbose : int, default=0
        1 shows a progress bar, 2 writes a line for each observation; both on stderr. There are no
        callbacks.

    Attributes
    ----------
    estimator_ : classifier
        The fitted classifier.
    weights_ : ndarray
        Weights on its probabilities, the largest 1. For ``basis="class"`` of shape (n_classes,),
        with ``weighting="full"`` (n_classes, n_classes), by true and decided class; otherwise
        with n_basis in front. With ``randomized=True`` there is a first axis for the weights that
        are drawn from.
    shares_ : ndarray of shape (n_weights,)
        How often each is drawn; only with ``randomized=True``.
    scorer_ : callable
        The metric.
    classes_ : ndarray of shape (n_classes,)
        Labels.
    n_features_in_ : int
        Number of features, where the fitted estimator tells.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the columns, where the fitted estimator tells.
    initial_score_ : float
        Score of the estimator as it is, on the validation rows.
    best_score_ : float
        Score of what `fit` ends with: an out-of-fold estimate, not the best value observed.
    score_gain_, score_gain_se_ : float
        Gain that the guard judged, and its paired standard error on resamples.
    resampled_gains_ : ndarray of shape (n_resamples,)
        That gain on each resample; empty where none was judged.
    improved_ : bool
        Whether the guard let the weights pass. If not, decisions are those of the estimator.
    verdict_ : str
        The guard's decision in words.
    n_observations_ : int
        Metric observations made.
    n_scorer_calls_ : int
        Calls of the scorer, those on resamples of observations and in repeated searches included.
    observations_ : dict of ndarray
        Columns ``step``, ``trajectory``, ``phase``, ``score`` and ``predicted_score``, a row per
        observation. Here a step is an iteration, and there are no trajectories.
    report_ : sk_metricopt.inspection.FitReport
        All of this in short, and where the time went.

    See Also
    --------
    MetricOptFinetuner : Finetunes a net itself, with more observations and more to gain.
    sklearn.model_selection.TunedThresholdClassifierCV : Tunes one threshold of a binary classifier.

    Notes
    -----
    Three things differ from the published algorithm. Confusion matrices are taken on the same
    rows as the metric, for probabilities that are calibrated there by one weight per class, and not
    on the training rows, where the probabilities of flexible estimators are close to 0 and 1.
    Probes move the border of a class instead of deciding rows by chance, so that decisions a scorer
    sees are real ones. And the linear system is solved by ridge regression on all observations
    made, since that of the probes alone is square and magnifies noise.

    The gain is judged by repeating the search without each of eight folds of the validation rows.
    This calls the scorer on parts of the rows, some thirty times as often as there are
    observations (`n_scorer_calls_`), and changes whether the weights may be used, not the weights.

    References
    ----------
    .. [1] Hiranandani, Mathur, Narasimhan, Fard and Koyejo, "Optimizing Black-box Metrics with
       Iterative Example Weighting", ICML 2021. arXiv:2102.09492

    Examples
    --------
    >>> from sklearn.datasets import make_classification
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sk_metricopt import PostShiftClassifier
    >>> X, y = make_classification(
    ...     n_samples=2000, n_informative=6, n_classes=3, weights=[0.8, 0.15], random_state=0
    ... )
    >>> model = PostShiftClassifier(
    ...     LogisticRegression(), scoring="balanced_accuracy", random_state=0
    ... ).fit(X, y)
    >>> model.improved_, model.n_observations_ <= 50
    (True, True)
    >>> bool(model.weights_[0] < model.weights_[1] < model.weights_[2])  # the rarer, the heavier
    True
    """

    _parameter_constraints: dict = {
        "estimator": [HasMethods(["fit", "predict"])],
        "scoring": "no_validation",  # check_one_metric says more than a list of all names
        "weighting": [StrOptions({"diagonal", "full"})],
        "basis": [StrOptions({"class"}), "array-like", callable],
        "n_iter": [Interval(Integral, 1, None, closed="left"), None],
        "epsilon": [Interval(Real, 0, 1, closed="right")],
        "randomized": ["boolean"],
        "max_observations": [Interval(Integral, 1, None, closed="left")],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "cv": ["cv_object"],
        "guard_z": [Interval(Real, 0, None, closed="left"), None],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        estimator,
        *,
        scoring=None,
        weighting="diagonal",
        basis="class",
        n_iter=None,
        epsilon=0.2,
        randomized=False,
        max_observations=50,
        validation_fraction=0.2,
        cv=None,
        guard_z=1.0,
        random_state=None,
        verbose=0,
    ):
        self.estimator = estimator
        self.scoring = scoring
        self.weighting = weighting
        self.basis = basis
        self.n_iter = n_iter
        self.epsilon = epsilon
        self.randomized = randomized
        self.max_observations = max_observations
        self.validation_fraction = validation_fraction
        self.cv = cv
        self.guard_z = guard_z
        self.random_state = random_state
        self.verbose = verbose

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y, *, X_val=None, y_val=None, **params):
        """Train the estimator where needed, then search for weights on its probabilities.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or whatever the estimator takes
        y : array-like of shape (n_samples,)
            Labels of any type.
        X_val, y_val : array-like, default=None
            Validation rows, on which the metric is observed. If None, these are all rows where the
            estimator is frozen, all rows out of fold where `cv` is given, and else a stratified
            share of `validation_fraction` that the estimator does not train on.
        **params : dict
            Metadata, routed to the estimator's `fit`, to the scorer and to `cv` (with
            ``sklearn.set_config(enable_metadata_routing=True)``). A `sample_weight` that the scorer
            takes weights the confusion matrices as well.

        Returns
        -------
        self : PostShiftClassifier

        Raises
        ------
        ValueError, TypeError
            If the input cannot work; the message names the parameter and the next step.
        """
        _validation.check_one_metric(self.scoring, _CALLER)
        _validation.check_val_pair(X_val, y_val, _CALLER)
        check_probabilistic(self.estimator)
        self.__dict__.pop("estimator_", None)  # a fit that fails leaves no fitted estimator
        routed, training = self._route("fit", params), checked_rows(X, y, "y")
        validation = None if X_val is None else checked_rows(X_val, y_val, "y_val")
        seed = draw_seed(self.random_state)
        splitting = Splitting(self.validation_fraction, self.cv, seed)
        clock, source = Clock(), self.estimator
        with seeded(seed):
            with clock.on("training"):
                estimator, held_out = fitted(source, splitting, training, validation, routed)
            self._search(estimator, held_out, seed, clock)
        return self

    # search -------------------------------------------------------------------------------------

    def _search(self, estimator, held_out: HeldOut, seed: int, clock: Clock) -> None:
        """Search for weights and set the fitted attributes."""
        rng, rows = np.random.RandomState(seed), held_out.rows
        classes, scorer = estimator.classes_, self._get_scorer()
        y, basis = _validation.encoded(rows.y, classes), Basis(self.basis)
        membership = basis.fit(rows.X)

        def model_of(weights: Weights | None) -> PostShiftClassifier:
            model = copy.copy(self)
            model._basis, model._seed, model._weights = basis, seed, weights
            model.estimator_, model.classes_, model.scorer_ = estimator, classes, scorer
            for name in _OF_ESTIMATOR:
                model.__dict__.pop(name, None)
                if hasattr(estimator, name):
                    setattr(model, name, getattr(estimator, name))
            return model

        answers = KnownAnswers(
            proba=held_out.proba,
            decided=held_out.decided,
            y=y,
            membership=membership,
            sample_weight=held_out.sample_weight(),
            draws=rng.random_sample(len(y)),
        )
        scoring = ClassifierScoring(scorer, rows, model_of(None))
        with progress(self.verbose, self.max_observations) as show:
            conduct, budget = Conduct(clock=clock), self.max_observations
            engine = ObservationEngine(scoring, budget, _CALLER, conduct=conduct, listeners=[show])
            post_shifting = PostShifting(answers, scoring, engine, model_of, self._settings(), rng)
            weights, verdict = post_shifting.run()
        for name in _OF_ESTIMATOR:
            self.__dict__.pop(name, None)
        self.__dict__.update(model_of(weights).__dict__)
        set_results(self, verdict, engine, {})
        self._set_weights(membership.shape[1])

    def _settings(self) -> Settings:
        return Settings(
            n_iter=self.n_iter,
            epsilon=self.epsilon,
            with_offsets=self.weighting == "full",
            randomized=self.randomized,
            guard_z=self.guard_z,
        )

    def _set_weights(self, n_basis: int) -> None:
        """Set `weights_`, and `shares_` of a randomised classifier."""
        equal = Weighting(np.zeros((n_basis, len(self.classes_))))
        mixture = self._weights if isinstance(self._weights, Mixture) else None
        members = mixture.members if mixture else (self._weights or equal,)
        weights = [_public(w, self.weighting == "full", self._basis.is_class) for w in members]
        self.__dict__.pop("shares_", None)
        self.weights_ = np.stack(weights) if self.randomized else weights[0]
        if self.randomized:
            self.shares_ = np.array(mixture.shares if mixture else (1.0,))

    # predict ------------------------------------------------------------------------------------

    def predict(self, X):
        """Predict labels: of the class with the largest weighted probability.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or whatever the estimator takes

        Returns
        -------
        ndarray of shape (n_samples,)
        """
        check_is_fitted(self)
        if self._weights is None:
            return self.estimator_.predict(X)
        return self.classes_[self._decide(X)[1]]

    def predict_proba(self, X):
        """Predict weighted class probabilities.

        Weighted, they sum to 1, the largest decides, and they are no longer frequencies: for these
        ask `estimator_`. With ``randomized=True`` they are the chances of each decision. Unless
        `improved_` they are those of `estimator_`.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or whatever the estimator takes

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            Columns in the order of `classes_`.
        """
        check_is_fitted(self)
        if self._weights is None:
            return self.estimator_.predict_proba(X)
        return self._decide(X)[0]

    def _decide(self, X) -> tuple[np.ndarray, np.ndarray]:
        X = _validation.as_array(X)
        proba = np.asarray(self.estimator_.predict_proba(X), dtype=np.float64)
        draws = draws_of(proba, self._seed)
        return self._weights.decide(proba, self._basis.membership(X), draws)

    def _as_it_came(self) -> PostShiftClassifier:
        """Return this classifier without weights."""
        model = copy.copy(self)
        model._weights = None
        return model

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "estimator_")

    # routing and tags ---------------------------------------------------------------------------

    def get_metadata_routing(self):
        """Return which metadata goes to the estimator, the scorer and `cv`.

        Returns
        -------
        sklearn.utils.metadata_routing.MetadataRouter
        """
        router = super().get_metadata_routing()
        if not hasattr(self.cv, "split"):
            return router
        return router.add(
            splitter=self.cv,
            method_mapping=MethodMapping().add(caller="fit", callee="split"),
        )

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        wrapped = get_tags(self.estimator)
        tags.input_tags = copy.copy(wrapped.input_tags)
        if wrapped.classifier_tags is not None:
            tags.classifier_tags.multi_class = wrapped.classifier_tags.multi_class
        tags.non_deterministic = wrapped.non_deterministic or self.randomized
        return tags


def _public(weighting: Weighting, full: bool, is_class: bool) -> np.ndarray:
    """Return weights, the largest 1, without the axes that they do not vary along."""
    weights = weighting.weights
    if full and weights.ndim == 2:
        weights = weights[:, None, :] * np.eye(weights.shape[1])
    weights = weights / weights.max()
    return weights[0] if is_class else weights
