"""The diagram in notebooks: parameters, the net inside, and what came of fitting."""

from __future__ import annotations

import re
from html import unescape

import pytest
import sklearn
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import estimator_html_repr
from skorch.callbacks import EarlyStopping

from sk_metricopt import EmbeddingRetriever, MetricOptFinetuner, PostShiftClassifier
from tests.embedding_nets import embedder, labelled_points
from tests.nets import MLP, classifier, table, trained

X, Y = table()
QUICK = {"scoring": "f1", "max_observations": 12, "random_state": 0}


def diagram(estimator) -> str:
    """What the diagram says: no style, script, tags or text that is shown in its place."""
    html = estimator_html_repr(estimator).partition('<div class="sk-container"')[2]
    html = re.sub(r"<script>.*?</script>", "", html, flags=re.S)
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]*>", " ", html)))


def frozen_net():
    return FrozenEstimator(trained(classifier(), X, Y))


def test_a_net_is_shown_by_what_was_set_and_not_by_all_parameters_of_skorch():
    net = classifier(module__hidden=5, callbacks=[EarlyStopping()])
    said = diagram(MetricOptFinetuner(net, **QUICK))
    for shown in ("module=MLP", "module__hidden=5", "lr=0.1", "criterion=CrossEntropyLoss"):
        assert shown in said
    assert "callbacks=[EarlyStopping]" in said
    for default in ("iterator_valid", "_params_to_validate", "callbacks__", "predict_nonlinearity"):
        assert default not in said


def test_a_trained_net_shows_its_layers_and_that_it_is_frozen():
    said = diagram(MetricOptFinetuner(frozen_net(), **QUICK))
    assert "NeuralNetClassifier frozen" in said
    assert "(output): Linear(in_features=8, out_features=2, bias=True)" in said


def test_a_module_is_shown_though_it_is_no_estimator():
    said = diagram(MetricOptFinetuner(MLP(), **QUICK))
    assert "MLP torch module" in said and "in_features=6, out_features=8" in said


@pytest.mark.parametrize("around", ["nothing", "pipeline", "search", "post-shift"])
def test_verdict_and_scores_are_seen_wherever_a_fitted_finetuner_is(around):
    fitted = MetricOptFinetuner(frozen_net(), **QUICK)
    if around == "pipeline":
        whole = make_pipeline(StandardScaler(), fitted).fit(X, Y)
        fitted = whole[-1]
    elif around == "search":
        whole = GridSearchCV(fitted, {"lr": [5e-3]}, cv=2).fit(X, Y)
        fitted = whole.best_estimator_
    elif around == "post-shift":
        whole = PostShiftClassifier(FrozenEstimator(fitted.fit(X, Y)), **QUICK).fit(X, Y)
        fitted = whole.estimator_.estimator
    else:
        whole = fitted.fit(X, Y)
    said = diagram(whole)
    assert f"{fitted.initial_score_:.4g} \N{RIGHTWARDS ARROW} {fitted.best_score_:.4g}" in said
    assert " ".join(fitted.verdict_.split()) in said
    assert f"observations {fitted.n_observations_} of 12" in said


def test_unfitted_estimators_show_no_verdict():
    for unfitted in (MetricOptFinetuner(classifier()), PostShiftClassifier(LogisticRegression())):
        assert "initial score" not in diagram(unfitted)
        assert "Not fitted" in diagram(unfitted)


def test_table_of_fitted_attributes_leaves_out_what_it_would_cut_off():
    fitted = MetricOptFinetuner(classifier(), **QUICK).fit(X, Y)
    said = diagram(fitted)
    assert not re.search(r"initial_estimator_|report_|observations_ dict", said)


def test_post_shift_shows_its_classifier_and_verdict():
    fitted = PostShiftClassifier(LogisticRegression(), **QUICK).fit(X, Y)
    said = diagram(fitted)
    assert "LogisticRegression" in said and fitted.verdict_.partition(":")[0] in said


def test_a_retriever_shows_its_gallery_once_it_has_one():
    X, y = labelled_points()
    retriever = EmbeddingRetriever(embedder())
    assert "gallery " not in diagram(retriever)
    retriever.fit(X, y)
    assert f"gallery {len(X)} items, 4 components" in diagram(retriever)


def test_no_estimator_of_ours_links_to_pages_of_scikit_learn():
    fitted = MetricOptFinetuner(frozen_net(), **QUICK).fit(X, Y)
    assert not re.search("href=.[^>]*scikit-learn", estimator_html_repr(fitted))


def test_the_diagram_is_the_same_each_time_and_changes_nothing():
    fitted = MetricOptFinetuner(frozen_net(), **QUICK).fit(X, Y)
    before = set(vars(fitted))
    assert diagram(fitted) == diagram(fitted)
    assert not re.search(r"0x[0-9a-f]{6}", diagram(fitted))
    assert set(vars(fitted)) == before


def test_display_set_to_text_shows_no_diagram():
    with sklearn.config_context(display="text"):
        assert not hasattr(MetricOptFinetuner(classifier()), "_repr_html_")
    assert "sk-container" in MetricOptFinetuner(classifier())._repr_html_()
