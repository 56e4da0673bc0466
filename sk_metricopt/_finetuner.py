"""MetricOptFinetuner: what scikit-learn sees."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Callable
from numbers import Integral, Real

import numpy as np
import torch
from sklearn.base import BaseEstimator, MetaEstimatorMixin, _fit_context
from sklearn.frozen import FrozenEstimator
from sklearn.metrics._scorer import _BaseScorer
from sklearn.utils import ClassifierTags, _safe_indexing, get_tags
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils.validation import _check_method_params

from sk_metricopt import _skorch, _validation
from sk_metricopt._adapted import AdaptedNet
from sk_metricopt._checkpoint import bound_subject, opened_journal, seed_of
from sk_metricopt._clock import Clock
from sk_metricopt._defaults import adapter_of, exploration_of, value_function_of
from sk_metricopt._delegation import DelegationMixin
from sk_metricopt._finetuning import Finetuning, Settings
from sk_metricopt._judge import FinetuningResult
from sk_metricopt._metric_estimator import MetricEstimatorMixin
from sk_metricopt._observation import Conduct, ObservationEngine
from sk_metricopt._observer import Observer, scored
from sk_metricopt._post_shift import PostShiftClassifier
from sk_metricopt._progress import progress
from sk_metricopt._random import seeded
from sk_metricopt._results import set_finetuned
from sk_metricopt._roles import Data, Subject, check_estimator_kind, is_retriever, net_of
from sk_metricopt._scoring import ValidationRows
from sk_metricopt._stopping import Stop
from sk_metricopt._tasks import Task
from sk_metricopt.adapters import BaseAdapter
from sk_metricopt.exceptions import InterruptionWarning
from sk_metricopt.exploration import BaseExploration
from sk_metricopt.metrics import make_retrieval_scorer
from sk_metricopt.value_functions import BaseValueFunction

_PATIENCE = 5  # failures of the scorer in a row that end a run


class MetricOptFinetuner(DelegationMixin, MetricEstimatorMixin, MetaEstimatorMixin, BaseEstimator):
    """Finetune a torch classifier or retriever towards any metric a scorer can compute.

    The metric is a black box: only its values on validation rows are observed. A pre-trained net
    gets adapter parameters φ; a portfolio of finetuning trajectories of φ is observed at a
    few steps each, a value function learns from these metric observations how behaviour moves the
    metric, and its gradient joins the criterion's in the trajectories that follow. The result is
    an average of winners on resamples, judged on rows they were not trained on, and is kept only if
    its gain stands out from its standard error. After [1]_.

    Parameters
    ----------
    estimator : skorch net, EmbeddingRetriever, FrozenEstimator or torch.nn.Module
        An unfitted ``NeuralNetClassifier`` or ``NeuralNetBinaryClassifier`` is cloned, trained on
        the training rows, then finetuned. A ``FrozenEstimator`` around a fitted one is copied and
        finetuned from its weights. An initialised module is wrapped and counts as pre-trained. An
        `EmbeddingRetriever`, unfitted or frozen, is finetuned towards a metric of search.
    scoring : str, callable or None, default=None
        One metric: a scorer's name, an object made by ``make_scorer`` or a callable
        ``scorer(estimator, X, y)``. Greater is better. None is the estimator's own score: accuracy,
        or recall@1 of a retriever.
    adapter : {"auto", "film", "weights"} or BaseAdapter, default="auto"
        What φ does to a host layer. "film" scales and shifts each channel; "weights" moves every
        weight, which gains more in small nets, and takes as many parameters. "auto" is "weights" in
        classifiers of up to 65,536 weights whose value function does not read φ, else "film".
    adapter_targets : {"auto", "all"} or list of str, default="auto"
        Host layers, by name or shell-style pattern. "all" is every layer that can host; "auto"
        leaves out all but the last stage of a convolutional network, so that what comes before
        runs once, and for FiLM the layers that feed a normalisation, which can do the same.
    value_function : {"auto", "adapter"} or BaseValueFunction, default="auto"
        "auto" is `BehaviourValueFunction`, for a retriever `RetrievalValueFunction`; "adapter" is
        the paper's `AdapterValueFunction`, which reads φ.
    exploration : {"auto"} or BaseExploration, default="auto"
        "auto" is `PortfolioExploration`, for a retriever `RetrievalExploration`.
    optimizer : {"adam", "sgd"} or torch.optim.Optimizer subclass, default="adam"
        Steps φ.
    lr : float, default=5e-3
        Learning rate of φ.
    guidance_weight : float, default=1.0
        Size of the value function's gradient relative to the criterion's. With 0 the same run is
        made without guidance.
    max_observations : int, default=150
        Metric observations allowed, the one of the model as it came included.
    observation_interval : int or "auto", default="auto"
        Optimizer steps between observations of a trajectory. "auto" spreads the observations over
        trajectories of a fixed length.
    validation_fraction : float, default=0.2
        Share of the rows that is split off where `fit` is given no validation rows.
    use_validation_labels : bool, default=True
        If False, validation labels reach the scorer and nothing else (an opaque oracle).
    guard_z : float or None, default=1.0
        The model changes only if its gain exceeds this many standard errors. 0 accepts any gain,
        None switches the guard off.
    random_state : int, RandomState instance or None, default=None
        Seeds training, exploration and resampling. Global random streams are left as they were.
    warm_start_value : bool, default=False
        Whether `value_function`, a fitted one, goes on from what it learned on another net or on
        other rows. It then guides half of the trajectories from the first step.
    max_time : float or None, default=None
        Seconds after which no further observation is begun. The best that has been observed is
        judged, with at most 80 calls of the scorer on resamples, and the estimator is fitted.
        Ctrl-C does the same; a second one ends `fit` at once.
    error_score : "raise" or nan, default=nan
        What a failing scorer does to `fit`. By default such an observation is recorded as NaN and
        never chosen; five in a row end the run early.
    checkpoint_dir : str, PathLike or None, default=None
        Folder where every answer of the scorer is kept. `fit` with the same data, parameters and
        seed goes on from what is there and ends as an uninterrupted one would; the net is trained
        again, so pass a trained one as ``FrozenEstimator(net)`` where that takes long. With
        ``random_state=None`` the seed is taken from there too.
    n_jobs : int or None, default=None
        Workers that score candidates, through joblib: None is 1, or what
        ``joblib.parallel_config`` says; -1 all cores. The result is the same.
    callbacks : list of callable or None, default=None
        Called as ``fn(state)`` after each observation, with an `ObservationState`, when the answer
        is on disk; ``state.stop(reason)`` ends the run. What one raises, `fit` raises.
    verbose : int, default=0
        1 shows a progress bar, 2 writes a line for each observation; both on stderr.

    Attributes
    ----------
    estimator_ : skorch net or EmbeddingRetriever
        The finetuned net, adapters folded into its weights. It works on encoded labels. A
        retriever's gallery is the rows of `fit`.
    initial_estimator_ : skorch net or EmbeddingRetriever
        The net before it was finetuned; `estimator_` itself unless `improved_`.
    scorer_ : callable
        The metric.
    classes_ : ndarray of shape (n_classes,)
        Labels; a retriever has none.
    n_features_in_ : int
        Number of features, for two-dimensional `X`.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the columns, where `X` has string column names.
    adapter_ : BaseAdapter
        What was adapted with.
    adapter_params_ : ndarray of shape (n_params,)
        φ; zero unless `improved_`.
    value_function_ : BaseValueFunction
        As last fitted.
    initial_score_ : float
        Score of the model as it came, on the validation rows. Of a retriever under a scorer that
        does not say what each query contributes (``scorer.decomposes``), the mean over two halves
        of these rows: what answers for rows must not have trained on them.
    best_score_ : float
        Score of the model returned: an out-of-fold estimate, not the best value observed.
    score_gain_, score_gain_se_ : float
        Gain that the guard judged, and its paired standard error on resamples.
    resampled_gains_ : ndarray of shape (n_resamples,)
        That gain on each resample; empty where none was judged.
    improved_ : bool
        Whether the guard let the finetuned model pass. If not, decisions are those of the model
        as it came.
    verdict_ : str
        The guard's decision in words.
    n_observations_ : int
        Metric observations made.
    score_noise_ : float
        Standard deviation of scores of one and the same model; 0 if the scorer is deterministic.
    n_scorer_calls_ : int
        Calls of the scorer, those on resamples of observations included.
    observations_ : dict of ndarray
        Columns ``step``, ``trajectory``, ``phase``, ``score`` and ``predicted_score``, a row per
        observation; ``pandas.DataFrame(est.observations_)`` is a table.
    report_ : sk_metricopt.inspection.FitReport
        All of this in short, and where the time went.
    history_ : skorch.History
        Of the net's own training.

    See Also
    --------
    EmbeddingRetriever : What to wrap a net in that embeds.
    sklearn.model_selection.TunedThresholdClassifierCV : Tunes one threshold of a binary classifier.

    Notes
    -----
    Trajectories train φ on the cross-entropy of the net's probabilities, whatever the net's own
    criterion, and of a retriever on soft nearest neighbours; normalisation statistics and dropout
    stay as in evaluation.

    References
    ----------
    .. [1] Huang, Zhai, Guo and Gu, "MetricOpt: Learning to Optimize Black-Box Evaluation
       Metrics", CVPR 2021. arXiv:2104.10631

    Examples
    --------
    >>> import torch
    >>> from skorch import NeuralNetClassifier
    >>> from sklearn.datasets import load_wine
    >>> from sklearn.preprocessing import scale
    >>> from sk_metricopt import MetricOptFinetuner
    >>> X, y = load_wine(return_X_y=True)
    >>> net = NeuralNetClassifier(
    ...     torch.nn.Linear,
    ...     module__in_features=13,
    ...     module__out_features=3,
    ...     criterion=torch.nn.CrossEntropyLoss,
    ...     verbose=0,
    ... )
    >>> est = MetricOptFinetuner(net, scoring="f1_macro", max_observations=30, random_state=0)
    >>> est.fit(scale(X), y).predict(scale(X)).shape
    (178,)
    >>> bool(est.best_score_ >= est.initial_score_)
    True
    """

    _parameter_constraints: dict = {
        "estimator": [HasMethods(["fit", "predict"]), torch.nn.Module],
        "scoring": "no_validation",  # check_one_metric says more than a list of all names
        "adapter": [StrOptions({"auto", "film", "weights"}), BaseAdapter],
        "adapter_targets": [StrOptions({"auto", "all"}), list],
        "value_function": [StrOptions({"auto", "adapter"}), BaseValueFunction],
        "exploration": [StrOptions({"auto"}), BaseExploration],
        "optimizer": [StrOptions({"adam", "sgd"}), type],
        "lr": [Interval(Real, 0, None, closed="neither")],
        "guidance_weight": [Interval(Real, 0, None, closed="left")],
        "max_observations": [Interval(Integral, 1, None, closed="left")],
        "observation_interval": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "use_validation_labels": ["boolean"],
        "guard_z": [Interval(Real, 0, None, closed="left"), None],
        "random_state": ["random_state"],
        "warm_start_value": ["boolean"],
        "max_time": [Interval(Real, 0, None, closed="neither"), None],
        "error_score": [StrOptions({"raise"}), "nan"],
        "checkpoint_dir": [str, os.PathLike, None],
        "n_jobs": [
            Interval(Integral, None, -1, closed="right"),
            Interval(Integral, 1, None, closed="left"),
            None,
        ],
        "callbacks": [list, tuple, None],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        estimator,
        *,
        scoring=None,
        adapter="auto",
        adapter_targets="auto",
        value_function="auto",
        exploration="auto",
        optimizer="adam",
        lr=5e-3,
        guidance_weight=1.0,
        max_observations=150,
        observation_interval="auto",
        validation_fraction=0.2,
        use_validation_labels=True,
        guard_z=1.0,
        random_state=None,
        warm_start_value=False,
        max_time=None,
        error_score=np.nan,
        checkpoint_dir=None,
        n_jobs=None,
        callbacks=None,
        verbose=0,
    ):
        self.estimator = estimator
        self.scoring = scoring
        self.adapter = adapter
        self.adapter_targets = adapter_targets
        self.value_function = value_function
        self.exploration = exploration
        self.optimizer = optimizer
        self.lr = lr
        self.guidance_weight = guidance_weight
        self.max_observations = max_observations
        self.observation_interval = observation_interval
        self.validation_fraction = validation_fraction
        self.use_validation_labels = use_validation_labels
        self.guard_z = guard_z
        self.random_state = random_state
        self.warm_start_value = warm_start_value
        self.max_time = max_time
        self.error_score = error_score
        self.checkpoint_dir = checkpoint_dir
        self.n_jobs = n_jobs
        self.callbacks = callbacks
        self.verbose = verbose

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y, *, X_val=None, y_val=None, **params):
        """Train the net where needed, then finetune it towards the metric.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, ...)
            Training rows: numbers, or integer indices for a module with embeddings.
        y : array-like of shape (n_samples,)
            Labels of any type.
        X_val, y_val : array-like, default=None
            Validation rows, on which the metric is observed. If None, a stratified share of
            `validation_fraction` is split off `X` and `y`; of a retriever's rows whole labels,
            where rows search each other and at least 8 labels are left on either side, or rows of
            every label would be too few to find each other. Rows alone with their label train.
        **params : dict
            Metadata, routed to the net's `fit` and to the scorer (with
            ``sklearn.set_config(enable_metadata_routing=True)``).

        Returns
        -------
        self : MetricOptFinetuner

        Raises
        ------
        ValueError, TypeError
            If the input cannot work; the message names the parameter and the next step.
        CheckpointError
            If `checkpoint_dir` belongs to another run, cannot be written or is in use.
        """
        _validation.check_one_metric(self.scoring)
        _validation.check_val_pair(X_val, y_val)
        _validation.check_callbacks(self.callbacks)
        _check_order(self.estimator)
        check_estimator_kind(self.estimator)
        self._check_parts()
        for name in ("estimator_", "initial_estimator_"):  # a fit that fails leaves none
            self.__dict__.pop(name, None)
        stop, clock = Stop(self.max_time), Clock()
        with opened_journal(self) as journal:
            seed = seed_of(self, journal)
            device = _skorch.device_of(net_of(self.estimator))
            with seeded(seed, device), warnings.catch_warnings(), stop.on_interrupt():
                # Operators without a batching rule loop inside vmap; the plan has looked at that.
                warnings.filterwarnings("ignore", ".*performance drop.*", UserWarning)
                data = self._split(X, y, X_val, y_val, params, seed)
                with clock.on("training"):
                    subject = bound_subject(self, data, seed, journal, stop)
                self._take_classes(subject)
                raises = self.error_score == "raise"
                # A net whose training was interrupted is not the one that answers are kept of.
                kept = None if stop.interrupted else journal
                conduct = Conduct(kept, stop, self.n_jobs, raises, _PATIENCE, seed, clock)
                with stop.held():
                    self._finetune(subject, data, conduct)
        if stop.reason is not None:
            warnings.warn(
                f"{type(self).__name__}.fit ended after {self.n_observations_} observations: "
                f"{stop.reason}. The estimator is fitted with what had been observed. To go on "
                "another time, set checkpoint_dir.",
                InterruptionWarning,
                stacklevel=2,
            )
        return self

    def _validate_params(self):
        _validation.check_instance(self.estimator)
        super()._validate_params()

    def _take_classes(self, subject: Subject) -> None:
        self.__dict__.pop("classes_", None)
        if subject.classes is not None:
            self.classes_ = subject.classes

    def _split(self, X, y, X_val, y_val, params, seed) -> Data:
        """Check the input and return training and validation rows."""
        scorer, routed = self._get_scorer(), self._route("fit", params)
        self._set_dtype(X)
        given = X
        X, y = _validation.features_and_labels(self, X, y, self._dtype, reset=True)
        _validation.check_encodable(y)
        all_rows = X, y
        if X_val is None:
            training, rows = self._split_rows(y, scorer, seed)
            scorer_params = _check_method_params(X, routed.scorer.score, indices=rows)
            fit_params = _check_method_params(X, routed.estimator.fit, indices=training)
            shown = _safe_indexing(_validation.as_given(given, X), rows)
            X, y, X_val, y_val = X[training], y[training], X[rows], y[rows]
        else:
            given = X_val
            X_val, y_val = _validation.validation_rows(self, X_val, y_val, self._dtype)
            scorer_params, fit_params = routed.scorer.score, routed.estimator.fit
            _validation.check_validation_params(scorer_params, len(y_val))
            shown = _validation.as_given(given, X_val)
        observed = ValidationRows(shown, y_val, scorer_params)
        names = getattr(self, "feature_names_in_", None)
        return Data(X, y, fit_params, X_val, observed, scorer, all_rows, names)

    def _set_dtype(self, X) -> None:
        indices = _skorch.takes_integers(net_of(self.estimator)) and _validation.holds_integers(X)
        self._dtype = np.int64 if indices else np.float32

    def _split_rows(self, y, scorer, seed) -> tuple[np.ndarray, np.ndarray]:
        """Whole labels where rows search each other, rows of every label elsewhere."""
        split: Callable = _validation.stratified_split
        if is_retriever(self.estimator):
            among_each_other = getattr(scorer, "gallery", "self") == "self"
            predicted = isinstance(scorer, _BaseScorer)  # made by make_scorer: labels of training
            by_label = among_each_other and not predicted
            split = _validation.split_by_label if by_label else _validation.split_rows_of_labels
        return split(y, self.validation_fraction, seed)

    def _get_scorer(self):
        if self.scoring is None and is_retriever(self.estimator):
            return make_retrieval_scorer("recall_at_k", k=1)
        return super()._get_scorer()

    def _finetune(self, subject: Subject, data: Data, conduct: Conduct) -> None:
        with conduct.clock.on("preparation"):
            task = self._task(subject, data, self.use_validation_labels, conduct.seed)
        name, budget = type(self).__name__, self.max_observations
        with progress(self.verbose, budget) as show:
            listeners = [show, *(self.callbacks or ())]
            engine = ObservationEngine(task.scoring, budget, name, True, conduct, listeners)
            observer = Observer(task, engine, self._value_function(), self.warm_start_value)
            run = Finetuning(observer, self._settings(), conduct.seed).run()
            result = scored(run, engine)
        self._deploy(subject, data, result, observer)

    def _task(self, subject: Subject, data: Data, use_validation_labels: bool, seed: int) -> Task:
        compact = is_retriever(self.estimator) or not self._value_function().reads_rows
        adapter = adapter_of(self.adapter, subject.bridge.module, compact)
        adapted = AdaptedNet(subject.bridge, adapter, self.adapter_targets, data.X[:64])

        def model_of(estimator) -> MetricOptFinetuner:
            model = copy.copy(self)
            model.estimator_, model.scorer_ = estimator, data.scorer
            model.callbacks = None  # a scorer's copy tells nobody, and goes to workers
            return model

        rng = np.random.RandomState(seed)
        return subject.task(adapted, use_validation_labels, rng, model_of)

    def _deploy(
        self, subject: Subject, data: Data, result: FinetuningResult, observer: Observer
    ) -> None:
        self.scorer_ = data.scorer
        set_finetuned(self, subject, result, observer)

    def _check_parts(self) -> None:
        """Raise where a part of the method cannot be used: not after the net is trained."""
        self._value_function()
        self._settings()

    def _value_function(self) -> BaseValueFunction:
        searches = is_retriever(self.estimator)
        return value_function_of(self.value_function, searches, self.warm_start_value)

    def _settings(self) -> Settings:
        interval = self.observation_interval
        return Settings(
            exploration=exploration_of(self.exploration, is_retriever(self.estimator)),
            make_optimizer=_validation.optimizer_class(self.optimizer),
            lr=self.lr,
            guidance_weight=self.guidance_weight,
            observation_interval=None if interval == "auto" else interval,
            use_validation_labels=self.use_validation_labels,
            guard_z=self.guard_z,
        )

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.estimator_type = "classifier"
        tags.classifier_tags = ClassifierTags()
        tags.target_tags.required = True
        if isinstance(self.estimator, torch.nn.Module):
            return tags
        wrapped = get_tags(self.estimator)
        tags.estimator_type = wrapped.estimator_type
        tags.classifier_tags = copy.copy(wrapped.classifier_tags)
        tags.regressor_tags = copy.copy(wrapped.regressor_tags)
        tags.transformer_tags = copy.copy(wrapped.transformer_tags)
        tags.input_tags = copy.copy(wrapped.input_tags)
        if tags.classifier_tags is not None and _skorch.is_binary(self.estimator):
            tags.classifier_tags.multi_class = False
        return tags


def _check_order(estimator) -> None:
    """Raise TypeError for a post-shift that would have to be finetuned."""
    inner = estimator.estimator if isinstance(estimator, FrozenEstimator) else estimator
    if isinstance(inner, PostShiftClassifier):
        raise TypeError(
            "The 'estimator' parameter of MetricOptFinetuner must be a net. Got a "
            "PostShiftClassifier instead, whose weights come after the net and would not fit it "
            "any more. Finetune first: PostShiftClassifier(MetricOptFinetuner(net, ...), ...)."
        )
