"""What people have beside us works with us; docs/compatibility.md lists these tests."""

from __future__ import annotations

import runpy
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn import config_context
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import make_scorer
from sklearn.model_selection import (
    GridSearchCV,
    TunedThresholdClassifierCV,
    cross_val_score,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from skorch.callbacks import Checkpoint, EarlyStopping, LRScheduler
from skorch.dataset import ValidSplit
from torch import nn

from sk_metricopt import EmbeddingRetriever, MetricOptFinetuner, PostShiftClassifier
from tests.embedding_nets import embedder, labelled_points
from tests.neighbours import NEIGHBOURS, PAGE, listed, neighbour
from tests.nets import classifier, log_likelihood, table

X, Y = table()
X_FIT, Y_FIT, X_VAL, Y_VAL = X[::2], Y[::2], X[1::2], Y[1::2]
COLUMNS = [f"column {k}" for k in range(X.shape[1])]


def finetuner(net=None, **params) -> MetricOptFinetuner:
    params = {"scoring": log_likelihood, "max_observations": 10, "random_state": 0} | params
    return MetricOptFinetuner(classifier() if net is None else net, guard_z=None, **params)


def assert_finetuned(fitted):
    """Something was found, beyond the model as it came."""
    assert fitted.improved_ and fitted.adapter_params_.any()
    assert fitted.best_score_ > fitted.initial_score_


# skorch's callbacks ------------------------------------------------------------------------------


@neighbour("skorch", "callback `EarlyStopping`")
def test_early_stopping_ends_the_training_of_the_net_and_finetuning_follows():
    patient = EarlyStopping(patience=2, threshold=1e6, threshold_mode="abs")
    net = classifier(max_epochs=30, callbacks=[patient], train_split=ValidSplit(4, stratified=True))
    fitted = finetuner(net).fit(X, Y)
    assert len(fitted.history_) < 5
    assert_finetuned(fitted)


@neighbour("skorch", "callback `LRScheduler`")
def test_a_schedule_moves_the_learning_rate_of_the_net_and_finetuning_follows():
    schedule = LRScheduler("StepLR", step_size=1, gamma=0.5)
    fitted = finetuner(classifier(callbacks=[schedule])).fit(X, Y)
    np.testing.assert_allclose(fitted.history_[:, "event_lr"], 0.1 * 0.5 ** np.arange(4))
    assert_finetuned(fitted)


@neighbour("skorch", "callback `Checkpoint`, the best epoch loaded when training ends")
def test_finetuning_goes_on_from_the_epoch_that_a_checkpoint_kept(tmp_path):
    kept = Checkpoint(monitor="valid_loss_best", dirname=str(tmp_path), load_best=True)
    # Large steps at the end: the last epoch is not the best.
    worse = LRScheduler("LambdaLR", lr_lambda=lambda epoch: 1.0 if epoch < 3 else 300.0)
    net = classifier(
        max_epochs=6, callbacks=[worse, kept], train_split=ValidSplit(4, stratified=True)
    )
    fitted = finetuner(net).fit(X_FIT, Y_FIT, X_val=X_VAL, y_val=Y_VAL)
    best = clone(net).set_params(classes=[0, 1]).initialize()
    best.load_params(f_params=tmp_path / "params.pt")
    assert len(fitted.history_) == 3  # skorch loads the history of the best epoch too
    assert fitted.initial_score_ == pytest.approx(log_likelihood(best, X_VAL, Y_VAL), abs=1e-6)
    assert_finetuned(fitted)


# text --------------------------------------------------------------------------------------------

VOCABULARY = 60


class TextNet(nn.Module):
    """Embeddings, one block of attention, mean over what is no padding: a text net in small."""

    def __init__(self, n_classes=2, width=16):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, width, padding_idx=0)
        self.block = nn.TransformerEncoderLayer(width, 2, 32, dropout=0.0, batch_first=True)
        self.output = nn.Linear(width, n_classes)

    def forward(self, ids):
        there = (ids != 0).unsqueeze(-1)
        hidden = self.block(self.embedding(ids)) * there
        return self.output(hidden.sum(1) / there.sum(1).clamp(min=1))


def token_ids(texts):
    """A tokenizer in a line: words to numbers, rows of one length."""
    rows = np.zeros((len(texts), 8), dtype=np.int64)
    for row, text in zip(rows, texts, strict=True):
        for k, word in enumerate(str(text).split()[:8]):
            row[k] = 1 + sum(map(ord, word)) % (VOCABULARY - 1)
    return rows


def reviews(n_rows=160):
    rng = np.random.default_rng(0)
    y = (rng.random(n_rows) < 0.3).astype(int)
    words = (["bad", "poor", "sad", "it", "was"], ["good", "fine", "great", "it", "was"])
    return np.array([" ".join(rng.choice(words[k], 5)) for k in y], dtype=object), y


@neighbour(
    "skorch", "text net, as with `skorch.hf`: strings, a tokenizer and token ids in a `Pipeline`"
)
def test_a_text_net_behind_a_tokenizer_is_finetuned():
    texts, y = reviews()
    net = classifier(TextNet, max_epochs=2, lr=0.05)
    pipeline = make_pipeline(FunctionTransformer(token_ids), finetuner(net, scoring=log_likelihood))
    pipeline.fit(texts, y)
    assert_finetuned(pipeline[-1])
    assert pipeline.score(texts, y) > -0.6


# scikit-learn ------------------------------------------------------------------------------------


def weighted_hits(y, decided, sample_weight):
    return float(np.average(y == decided, weights=sample_weight))


@neighbour(
    "scikit-learn", "`set_config(enable_metadata_routing=True)`, through a pipeline and search"
)
def test_metadata_reaches_the_scorer_through_a_pipeline_and_a_search():
    weights = np.linspace(1, 2, len(Y))
    with config_context(enable_metadata_routing=True):
        scorer = make_scorer(weighted_hits).set_score_request(sample_weight=True)
        inner = finetuner(scoring=scorer, max_observations=6)
        pipeline = make_pipeline(StandardScaler(), inner)
        pipeline[0].set_fit_request(sample_weight=False)
        search = GridSearchCV(
            pipeline, {"metricoptfinetuner__lr": [1e-3, 1e-2]}, scoring=scorer, cv=2
        )
        search.fit(X, Y, sample_weight=weights)
        score = search.score(X, Y, sample_weight=weights)
    assert score == weighted_hits(Y, search.predict(X), weights)


@neighbour("scikit-learn", "`TunedThresholdClassifierCV` around `MetricOptFinetuner`")
@pytest.mark.parametrize("frozen", [False, True])
def test_a_threshold_is_tuned_around_a_finetuner(frozen):
    inner = finetuner()
    if frozen:
        inner = FrozenEstimator(inner.fit(X_FIT, Y_FIT))
    tuned = TunedThresholdClassifierCV(
        inner, scoring="f1", cv="prefit" if frozen else 2, refit=not frozen, random_state=0
    ).fit(X_VAL, Y_VAL)
    decided = tuned.estimator_.predict_proba(X)[:, 1] >= tuned.best_threshold_
    np.testing.assert_array_equal(tuned.predict(X), decided.astype(int))


@neighbour("scikit-learn", "`CalibratedClassifierCV` around `MetricOptFinetuner`")
@pytest.mark.parametrize("frozen", [False, True])
def test_a_finetuner_is_calibrated(frozen):
    inner = FrozenEstimator(finetuner().fit(X_FIT, Y_FIT)) if frozen else finetuner()
    calibrated = CalibratedClassifierCV(inner, cv=2, method="sigmoid").fit(X_VAL, Y_VAL)
    proba = calibrated.predict_proba(X)
    np.testing.assert_allclose(proba.sum(axis=1), 1)
    assert (calibrated.predict(X) == Y).mean() > 0.7


@neighbour("scikit-learn", "`CalibratedClassifierCV`, `TunedThresholdClassifierCV` in a post-shift")
@pytest.mark.parametrize("kind", ["calibrated", "threshold", "calibrated finetuner"])
def test_post_shift_takes_calibrated_and_threshold_tuned_classifiers(kind):
    inside = {
        "calibrated": CalibratedClassifierCV(LogisticRegression(), cv=2),
        "threshold": TunedThresholdClassifierCV(LogisticRegression(), scoring="f1", cv=2),
        "calibrated finetuner": CalibratedClassifierCV(finetuner(), cv=2),
    }[kind]
    fitted = PostShiftClassifier(
        inside, scoring="balanced_accuracy", guard_z=None, max_observations=16, random_state=0
    ).fit(X, Y)
    assert fitted.n_observations_ > 6
    assert fitted.score(X, Y) > 0.7


@neighbour("scikit-learn", "`CalibratedClassifierCV` around `estimator_`, the finetuned net alone")
def test_the_finetuned_net_itself_goes_on_as_an_ordinary_classifier():
    net = finetuner().fit(X_FIT, Y_FIT).estimator_
    calibrated = CalibratedClassifierCV(FrozenEstimator(net)).fit(X_VAL, Y_VAL)
    assert (calibrated.predict(X) == Y).mean() > 0.7


# tables ------------------------------------------------------------------------------------------


def tables(library):
    if library == "pandas":
        return pd.DataFrame(X, columns=COLUMNS), pd.Series(Y)
    polars = pytest.importorskip("polars")
    return polars.DataFrame(X, schema=COLUMNS), polars.Series("y", Y)


def check_table_input(library):
    frame, y = tables(library)
    fitted, same = finetuner().fit(frame, y), finetuner().fit(X, Y)
    np.testing.assert_array_equal(fitted.adapter_params_, same.adapter_params_)
    np.testing.assert_array_equal(fitted.predict_proba(frame), same.predict_proba(X))
    assert list(fitted.feature_names_in_) == COLUMNS
    given = finetuner().fit(frame[:150], y[:150], X_val=frame[150:], y_val=y[150:])
    assert_finetuned(given)
    with pytest.raises(ValueError, match="feature names"):
        fitted.predict(frame[COLUMNS[::-1]])
    shifted = PostShiftClassifier(
        LogisticRegression(), scoring="f1", max_observations=8, random_state=0
    ).fit(frame, y)
    assert shifted.predict(frame).shape == Y.shape


def check_table_output(library):
    X, y = labelled_points()
    frame = tables(library)[0].__class__(X)
    if library == "pandas":
        frame.columns = frame.columns.astype(str)
    retriever = EmbeddingRetriever(embedder(), random_state=0).set_output(transform=library)
    table = retriever.fit(frame, y).transform(frame)
    assert isinstance(table, type(frame))
    assert list(table.columns) == list(retriever.get_feature_names_out())
    plain = clone(retriever).set_output(transform="default").fit(frame, y)
    np.testing.assert_array_equal(np.asarray(table), plain.transform(frame))
    # Search reads embeddings, in whatever they come out.
    np.testing.assert_array_equal(retriever.kneighbors(frame)[1], plain.kneighbors(frame)[1])
    tuned = finetuner(EmbeddingRetriever(embedder()), scoring=None).fit(frame, y)
    assert tuned.transform(frame).shape == (len(X), 4)
    joined = make_pipeline(retriever, LogisticRegression()).fit(frame, y)
    assert joined.score(frame, y) > 0.5


@neighbour("pandas", "data frames and series as input")
def test_pandas_tables_are_taken():
    check_table_input("pandas")


@neighbour("pandas", "`set_output(transform='pandas')` of `EmbeddingRetriever`")
def test_embeddings_come_as_pandas_tables():
    check_table_output("pandas")


@neighbour("polars", "data frames and series as input")
def test_polars_tables_are_taken():
    check_table_input("polars")


@neighbour("polars", "`set_output(transform='polars')` of `EmbeddingRetriever`")
def test_embeddings_come_as_polars_tables():
    check_table_output("polars")


@neighbour("polars", "a scorer that reads columns of the polars table it was given")
def test_a_scorer_sees_the_polars_table_that_was_passed():
    def of_first_column(estimator, X, y):
        kinds.add(type(X).__module__.partition(".")[0])
        high = np.asarray(X["column 0"]) > 0
        return float((estimator.predict(X) == y)[high].mean())

    kinds = set()
    frame, y = tables("polars")
    finetuner(scoring=of_first_column).fit(frame, y)
    assert kinds == {"polars"}


# imbalanced-learn, Optuna, dask, MLflow ----------------------------------------------------------


@neighbour("imbalanced-learn", "its `Pipeline` with `RandomOverSampler` before the finetuner")
def test_rows_are_oversampled_before_the_finetuner_and_validation_rows_are_not():
    from imblearn.over_sampling import RandomOverSampler
    from imblearn.pipeline import make_pipeline as with_samplers

    def noted(estimator, X, y):
        seen.append(np.bincount(y))
        return log_likelihood(estimator, X, y)

    seen = []
    pipeline = with_samplers(
        StandardScaler(), RandomOverSampler(random_state=0), finetuner(scoring=noted)
    )
    scaled = StandardScaler().fit(X_FIT).transform(X_VAL)
    pipeline.fit(X_FIT, Y_FIT, metricoptfinetuner__X_val=scaled, metricoptfinetuner__y_val=Y_VAL)
    np.testing.assert_array_equal(seen[0], np.bincount(Y_VAL))
    fitted = pipeline[-1]
    assert_finetuned(fitted)
    assert pipeline.predict(X_VAL).shape == Y_VAL.shape
    assert np.isfinite(cross_val_score(clone(pipeline), X, Y, cv=2)).all()


@neighbour("optuna", "a study that searches the parameters of finetuner and net")
def test_an_optuna_study_searches_around_the_finetuner():
    import optuna

    def objective(trial):
        model = finetuner(max_observations=8).set_params(
            lr=trial.suggest_float("lr", 1e-3, 1e-1, log=True),
            estimator__module__hidden=trial.suggest_int("hidden", 4, 8),
        )
        return cross_val_score(model, X, Y, cv=2).mean()

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0))
    study.optimize(objective, n_trials=3)
    values = [trial.value for trial in study.trials]
    assert len(set(values)) == 3 and np.isfinite(values).all()
    best = finetuner(max_observations=8).set_params(
        lr=study.best_params["lr"], estimator__module__hidden=study.best_params["hidden"]
    )
    assert cross_val_score(best, X, Y, cv=2).mean() == study.best_value


@neighbour("dask", "`GridSearchCV` on a `LocalCluster`, through joblib's backend")
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")
def test_a_search_on_a_dask_cluster_finds_what_it_finds_here():
    distributed = pytest.importorskip("distributed")

    def search():
        return GridSearchCV(finetuner(), {"max_observations": [1, 8]}, cv=2).fit(X, Y)

    alone = search()
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as c,
        distributed.Client(c),
        joblib.parallel_config(backend="dask"),
    ):
        spread = search()
    for name in ("mean_test_score", "rank_test_score"):
        np.testing.assert_array_equal(alone.cv_results_[name], spread.cv_results_[name])
    np.testing.assert_array_equal(
        alone.best_estimator_.adapter_params_, spread.best_estimator_.adapter_params_
    )


@neighbour("mlflow-skinny", "logging from a callback: `examples/log_to_mlflow.py`")
@pytest.mark.filterwarnings("ignore:MetricOptFinetuner.fit ended after")
def test_each_observation_is_logged_to_mlflow(capsys, monkeypatch):
    for name in ("MLFLOW_DISABLE_TELEMETRY", "MLFLOW_ALLOW_FILE_STORE"):
        monkeypatch.setenv(name, "true")
    example = Path(__file__).parents[1] / "examples" / "log_to_mlflow.py"
    # Under a name of its own: skorch pickles what it copies, so classes must be importable.
    assert runpy.run_path(str(example), run_name="log_to_mlflow")["main"]() == 0
    assert "observations logged" in capsys.readouterr().out


# the page ----------------------------------------------------------------------------------------


def test_the_page_lists_what_is_tried_here():
    assert listed(PAGE.read_text("utf-8")) == [(n.package, n.what) for n in NEIGHBOURS]
