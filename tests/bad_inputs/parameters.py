"""Parameters of MetricOptFinetuner and MetricOptSession, and estimators they cannot finetune."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.dummy import DummyClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch import NeuralNet, NeuralNetRegressor
from torch import nn

from sk_metricopt import MetricOptFinetuner, MetricOptSession, PostShiftClassifier
from sk_metricopt.adapters import FiLMAdapter
from tests.bad_inputs.case import WORKS, Case
from tests.bad_inputs.rows import X, Y, fit, module
from tests.nets import MLP, BinaryNet, Hostless, binary_classifier, classifier


class Returns(nn.Module):
    """A net whose output is replaced by something else."""

    def __init__(self, change):
        super().__init__()
        self.body = module()
        self.change = change

    def forward(self, X):
        return self.change(self.body(X))


class Raises(nn.Module):
    """A net that does not run."""

    def __init__(self, error):
        super().__init__()
        self.output = nn.Linear(6, 2)
        self.error = error

    def forward(self, X):
        raise self.error


def _parameter(name, value, expected, shown=None, **others):
    passed = f"{name}={value!r}" if shown is None else f"{name}: {shown}"
    return Case("MetricOptFinetuner", passed, lambda: fit(**({name: value} | others)), expected)


def _estimator(passed, make, expected, **others):
    return Case(
        "MetricOptFinetuner",
        f"estimator: {passed}",
        lambda: fit(estimator=make(), **others),
        expected,
    )


def _session(passed, expected, tell=None, **params):
    def call():
        params_ = {"estimator": module(), "X": X, "y": Y, "max_observations": 3, "random_state": 0}
        session = MetricOptSession(**(params_ | params))
        if tell is None:
            session.ask(1)
        else:
            tell(session)
        return "goes on"

    return Case("MetricOptSession", passed, call, expected)


def _tell(*args, **params):
    def tell(session):
        session.ask(1)
        session.tell(*args, **params)

    return tell


def _trained(net):
    return FrozenEstimator(net.fit(X, Y))


def _outputs(passed, change, expected):
    return _estimator(passed, lambda: Returns(change), expected)


def _range(name, *bad):
    return [_parameter(name, value, f"'{name}' parameter of MetricOptFinetuner") for value in bad]


_NAN, _INF = float("nan"), float("inf")

CASES = [
    *_range("lr", 0, -1.0, _NAN, "0.1", None, True + 0j),
    *_range("guidance_weight", -1, _NAN, "1", None),
    *_range("max_observations", 0, -5, 2.5, 10.0, "10", None, _NAN),
    *_range("observation_interval", 0, -1, 1.5, "often", None),
    *_range("validation_fraction", 0, 1, 1.5, -0.2, _NAN, "0.2", None),
    *_range("use_validation_labels", 2, "no", None),
    *_range("guard_z", -1, _NAN, "1"),
    *_range("random_state", -1, 1.5, "0", 2**33),
    *_range("max_time", 0, -1, _NAN, "1h"),
    *_range("error_score", 0, "ignore", None),
    *_range("checkpoint_dir", 3, b"folder"),
    *_range("n_jobs", 0, 1.5, "all"),
    *_range("callbacks", print, [3], "print"),
    *_range("verbose", -1, "yes"),
    *_range("adapter", "lora", None, 3),
    *_range("value_function", "mlp", None, dict),
    *_range("warm_start_value", 2, "yes", None),
    *_range("exploration", "wide", None, dict),
    *_range("optimizer", "rmsprop", None, int, torch.optim.LBFGS),
    *_range("adapter_targets", None, "output", ("output",), {"output"}),
    *_range("adapter_targets", [], ["no*"], [3], [None], [["output"]], ["hidden", 3]),
    _parameter("adapter", FiLMAdapter, "'adapter' parameter", "a class instead of an instance"),
    _parameter("optimizer", torch.optim.Adam([torch.zeros(1)]), "'optimizer'", "an instance"),
    _parameter("adapter_targets", ["output", "output"], WORKS),
    _parameter("adapter_targets", ["*"], WORKS),
    _parameter("max_observations", 1, WORKS),
    _parameter("max_observations", 2, WORKS),
    _parameter("max_observations", np.int8(3), WORKS, "an int8"),
    _parameter("max_observations", True, WORKS),
    _parameter("lr", 1e30, WORKS),
    _parameter("lr", _INF, "'lr' parameter"),
    _parameter("lr", 1e-300, WORKS),
    _parameter("guidance_weight", 1e30, WORKS),
    _parameter("guidance_weight", _INF, "'guidance_weight' parameter"),
    _parameter("guard_z", 1e300, WORKS),
    _parameter("guard_z", _INF, "'guard_z'"),
    _parameter("validation_fraction", 1e-9, WORKS),
    _parameter("validation_fraction", 0.999, WORKS),
    _parameter("max_time", 1e-9, WORKS),
    _parameter("max_time", _INF, "'max_time'"),
    _parameter("random_state", np.random.default_rng(0), "'random_state'", "a Generator"),
    _parameter("random_state", np.random.RandomState(0), WORKS, "a RandomState"),
    _parameter("optimizer", torch.optim.RMSprop, WORKS, "RMSprop"),
    _parameter(
        "optimizer",
        torch.optim.SparseAdam,
        "'optimizer' .*dense",
        "SparseAdam, for sparse gradients",
    ),
    Case(
        "MetricOptFinetuner",
        "a parameter it does not have",
        lambda: str(MetricOptFinetuner(module(), metric="f1")),
        "unexpected keyword argument 'metric'",
    ),
    Case(
        "MetricOptFinetuner",
        "set_params of a parameter it does not have",
        lambda: str(MetricOptFinetuner(module()).set_params(metric="f1")),
        "Invalid parameter 'metric'",
    ),
    Case("MetricOptFinetuner", "no estimator", lambda: str(MetricOptFinetuner()), "'estimator'"),
    Case(
        "MetricOptFinetuner.fit",
        "metadata that nobody asked for",
        lambda: fit(fit_params={"sample_weight": np.ones(80)}),
        "enable_metadata_routing",
    ),
    Case(
        "MetricOptFinetuner.fit",
        "a misspelt keyword",
        lambda: fit(fit_params={"x_val": X}),
        "enable_metadata_routing",
    ),
    # estimators
    _estimator("None", lambda: None, "'estimator' parameter"),
    _estimator("a number", lambda: 3, "'estimator' parameter"),
    _estimator("a string", lambda: "net", "'estimator' parameter"),
    _estimator("a function", lambda: len, "'estimator' parameter"),
    _estimator("a module's class", lambda: MLP, "'estimator' .*the class MLP"),
    _estimator("a net's class", lambda: type(classifier()), "'estimator' .*the class"),
    _estimator("a list of modules", lambda: [module()], "'estimator' parameter"),
    _estimator("a dict of weights", lambda: module().state_dict(), "'estimator' parameter"),
    _estimator("LogisticRegression", LogisticRegression, "'estimator' .*Got LogisticRegression"),
    _estimator("a dummy", DummyClassifier, "'estimator' .*Got DummyClassifier"),
    _estimator("a Pipeline", lambda: make_pipeline(StandardScaler(), classifier()), "'estimator'"),
    _estimator("a finetuner", lambda: MetricOptFinetuner(module()), "'estimator' parameter"),
    _estimator(
        "a post-shift",
        lambda: PostShiftClassifier(classifier()),
        "'estimator' .*PostShiftClassifier",
    ),
    _estimator("a net for regression", lambda: NeuralNetRegressor(BinaryNet), "'estimator'"),
    _estimator("a plain skorch net", lambda: NeuralNet(MLP, nn.CrossEntropyLoss), "'estimator'"),
    _estimator("a frozen net never fitted", lambda: FrozenEstimator(classifier()), "'estimator'"),
    _estimator("a frozen module", lambda: FrozenEstimator(module()), "'estimator' parameter"),
    _estimator(
        "a frozen forest",
        lambda: FrozenEstimator(DummyClassifier().fit(X, Y)),
        "'estimator' parameter",
    ),
    _estimator("a net of other features", lambda: module(input_dim=7), "'estimator'"),
    _estimator("a net of one output", lambda: module(n_classes=1), WORKS),
    _estimator("a net of no outputs", lambda: module(n_classes=0), "'(estimator|y)'"),
    _estimator("a net of too many outputs", lambda: module(n_classes=9), "every class"),
    _estimator("a net in float64", lambda: module().double(), "'estimator' .*float32"),
    _estimator("a net in float16", lambda: module().half(), "'estimator' .*float32"),
    _estimator("a net on the meta device", lambda: module().to("meta"), "'estimator' parameter"),
    _estimator("a net without hosts", lambda: module(Hostless), "host the adapter"),
    _estimator("a net without parameters", lambda: nn.Softmax(-1), "'estimator'|host"),
    _estimator("an empty Sequential", nn.Sequential, "'estimator'|host"),
    _estimator("a lazy net that never ran", lambda: nn.LazyLinear(2), "never set"),
    _estimator("a compiled net", lambda: torch.jit.script(nn.Linear(6, 2)), "'estimator'|host"),
    _estimator("frozen weights", lambda: module().requires_grad_(False), WORKS),
    _estimator("a recurrent net", lambda: nn.LSTM(6, 2), "'estimator'|host"),
    _estimator("a loss", nn.CrossEntropyLoss, "'estimator'|host"),
    _estimator("a net with NaN weights", lambda: _spoilt(np.nan), "'estimator' parameter"),
    _estimator("a net with infinite weights", lambda: _spoilt(np.inf), "'estimator' parameter"),
    _estimator("a net whose learning diverges", lambda: classifier(lr=1e9), "diverged"),
    _estimator("a net with a wrong keyword", lambda: classifier(module__hiden=3), "'hiden'"),
    _estimator(
        "a net with another criterion", lambda: classifier(criterion=nn.MSELoss), "'estimator'"
    ),
    _estimator(
        "a net with an unknown optimizer", lambda: classifier(optimizer="no"), "'estimator'"
    ),
    _estimator(
        "a net on a device that is none", lambda: classifier(device="abacus"), "'estimator'"
    ),
    _estimator("a net of batches of 0 rows", lambda: classifier(batch_size=0), "'estimator'"),
    _estimator("a net of no epochs", lambda: classifier(max_epochs=0), WORKS),
    _estimator(
        "a net of one logit for three classes",
        binary_classifier,
        "'estimator'",
        y=np.arange(80) % 3,
    ),
    _outputs("a net that returns None", lambda out: None, "'estimator' parameter"),
    _outputs("a net that returns a number", lambda out: 3.0, "'estimator' parameter"),
    _outputs("a net that returns a dict", lambda out: {"logits": out}, "'estimator' parameter"),
    _outputs("a net that returns a tuple", lambda out: (out, out), WORKS),
    _outputs("a net that returns an array", lambda out: out.detach().numpy(), "'estimator'"),
    _outputs("a net that returns a scalar tensor", lambda out: out.sum(), "'estimator'"),
    _outputs("a net that returns one row", lambda out: out[:1], "'estimator'"),
    _outputs("a net that returns columns first", lambda out: out.T, "'estimator'"),
    _outputs("a net that returns three dimensions", lambda out: out[:, None], "'estimator'"),
    _outputs("a net that returns integers", lambda out: out.long(), "'estimator'"),
    _outputs("a net that returns booleans", lambda out: out > 0, "'estimator'"),
    _outputs("a net that returns complex numbers", lambda out: out + 1j, "'estimator'"),
    _outputs("a net that returns NaN", lambda out: out * np.nan, "'estimator'"),
    _outputs("a net that returns infinity", lambda out: out / 0, "'estimator'"),
    _outputs("a net that returns float64", lambda out: out.double(), WORKS),
    _outputs("a net that cuts the gradient", lambda out: out.detach(), "'estimator'"),
    _outputs(
        "a net that answers by chance", lambda out: out + torch.randn_like(out), "'estimator'"
    ),
    *(
        _estimator(
            f"a net that raises {type(error).__name__}",
            lambda error=error: Raises(error),
            "'estimator'",
        )
        for error in (ValueError("no"), KeyError("no"), ZeroDivisionError("no"), MemoryError("no"))
    ),
    # sessions
    _session("scoring", "'scoring' parameter", scoring="f1"),
    _session("X with NaN", "contains NaN", X=np.full_like(X, np.nan)),
    _session("y of one class", "at least 2 classes", y=np.zeros(80)),
    _session("max_observations=0", "'max_observations' parameter", max_observations=0),
    _session("a parameter it does not have", "budget", budget=3),
    _session("a forest", "'estimator'", estimator=DummyClassifier()),
    _session("ask(0)", "ask", tell=lambda s: s.ask(0)),
    _session("ask('all')", "ask", tell=lambda s: s.ask("all")),
    _session("tell of an unknown candidate", "'id'", tell=_tell(99, 0.5)),
    _session("tell of a candidate by name", "'id'", tell=_tell("first", 0.5)),
    _session("tell of a string", "tell", tell=_tell(0, "good")),
    _session("tell of None", "tell", tell=_tell(0, None)),
    _session("tell of infinity", "tell", tell=_tell(0, _INF)),
    _session("tell with a negative se", "'se'", tell=_tell(0, 0.5, se=-1.0)),
    _session("tell with se of NaN", "'se'", tell=_tell(0, 0.5, se=_NAN)),
    _session("tell of NaN", "'score'", tell=_tell(0, _NAN)),
    _session("result before any answer", "result|told", tell=lambda s: s.result()),
]


def _spoilt(value):
    net = module()
    with torch.no_grad():
        net.hidden.weight.fill_(value)
    return net
