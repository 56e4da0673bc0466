"""Small modules, nets and data that tests share, at module level so that they pickle."""

from __future__ import annotations

import functools

import numpy as np
import torch
from sklearn.datasets import make_classification
from skorch import NeuralNetBinaryClassifier, NeuralNetClassifier
from skorch.callbacks import Callback, InputShapeSetter
from torch import nn

from sk_metricopt._random import seeded

N_FEATURES = 6


class MLP(nn.Module):
    """Two layers; ends in a softmax if asked, as skorch's default criterion wants."""

    def __init__(self, input_dim=N_FEATURES, n_classes=2, hidden=8, softmax=False):
        super().__init__()
        self.hidden = nn.Linear(input_dim, hidden)
        self.output = nn.Linear(hidden, n_classes)
        self.softmax = nn.Softmax(-1) if softmax else nn.Identity()

    def forward(self, X):
        return self.softmax(self.output(torch.relu(self.hidden(X))))


class NormMLP(nn.Sequential):
    """An MLP with two kinds of normalisation and dropout."""

    def __init__(self, input_dim=N_FEATURES, n_classes=2):
        super().__init__(
            nn.Linear(input_dim, 8),
            nn.BatchNorm1d(8),
            nn.ReLU(),
            nn.Linear(8, 8, bias=False),
            nn.LayerNorm(8),
            nn.ReLU(),
            nn.Dropout(0.3),
            nn.Linear(8, n_classes),
        )


class CNN(nn.Module):
    """Two stages, with a batch and a group normalisation."""

    def __init__(self, n_classes=2, channels=2, size=8):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 4, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(2, 4)
        self.output = nn.Linear(4 * (size // 4) ** 2, n_classes)

    def forward(self, X):
        X = nn.functional.max_pool2d(torch.relu(self.norm1(self.conv1(X))), 2)
        X = nn.functional.max_pool2d(torch.relu(self.norm2(self.conv2(X))), 2)
        return self.output(X.flatten(1))


class ViewCNN(nn.Module):
    """Views its feature maps without asking for a layout: fails on channels_last."""

    def __init__(self, n_classes=2):
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3)
        self.output = nn.Linear(4 * 36, n_classes)

    def forward(self, X):
        H = torch.relu(self.conv(X))
        return self.output(H.view(H.size(0), -1))


class Conv1dNet(nn.Sequential):
    def __init__(self, n_classes=2, channels=3):
        super().__init__(
            nn.Conv1d(channels, 6, 3),
            nn.BatchNorm1d(6),
            nn.ReLU(),
            nn.AdaptiveAvgPool1d(1),
            nn.Flatten(),
            nn.Linear(6, n_classes),
        )


class TokenNet(nn.Module):
    """Looks integers up in a table."""

    def __init__(self, n_classes=2, n_tokens=10):
        super().__init__()
        self.embedding = nn.Embedding(n_tokens, 8)
        self.output = nn.Linear(8, n_classes)

    def forward(self, X):
        return self.output(self.embedding(X).mean(1))


class BinaryNet(nn.Module):
    """One logit per row, as a column (n, 1) or flat (n,)."""

    def __init__(self, input_dim=N_FEATURES, flat=True):
        super().__init__()
        self.body = MLP(input_dim, 1)
        self.flat = flat

    def forward(self, X):
        output = self.body(X)
        return output.squeeze(-1) if self.flat else output


class Hostless(nn.Module):
    """Nothing that FiLM knows, but parameters all the same."""

    def __init__(self, input_dim=N_FEATURES, n_classes=2):
        super().__init__()
        self.table = nn.Parameter(torch.eye(input_dim)[:, :n_classes].clone())

    def forward(self, X):
        return X @ self.table


class ClassCountSetter(Callback):
    """Give the module as many outputs as `y` has classes, when training begins."""

    def on_train_begin(self, net, X, y):
        n_classes = len(np.unique(y))
        if net.get_params()["module__n_classes"] != n_classes:
            net.set_params(module__n_classes=n_classes)


def classifier(module=MLP, **params):
    """An unfitted net for a module that returns logits."""
    defaults = {"max_epochs": 4, "lr": 0.1, "batch_size": 32}
    defaults |= {"criterion": nn.CrossEntropyLoss, "train_split": None, "verbose": 0}
    return NeuralNetClassifier(module, **(defaults | params))


def nll_classifier(**params):
    """An unfitted net with skorch's default criterion around a module that ends in a softmax."""
    return classifier(MLP, module__softmax=True, criterion=nn.NLLLoss, **params)


def binary_classifier(flat=True, **params):
    """An unfitted net of one output."""
    defaults = {"max_epochs": 4, "lr": 0.1, "batch_size": 32, "train_split": None, "verbose": 0}
    return NeuralNetBinaryClassifier(BinaryNet, module__flat=flat, **(defaults | params))


def adaptive_classifier(**params):
    """An unfitted net that takes its input and output sizes from the data."""
    callbacks = [InputShapeSetter(), ClassCountSetter()]
    sizes = {"module__input_dim": 1, "module__n_classes": 2}
    return classifier(MLP, callbacks=callbacks, **(sizes | params))


def adaptive_binary_classifier(**params):
    """An unfitted net of one output that takes its input size from the data."""
    return binary_classifier(**({"callbacks": [InputShapeSetter()]} | params))


@functools.cache
def _table(n_classes, n_rows, seed):
    return make_classification(
        n_rows,
        N_FEATURES,
        n_informative=4,
        n_classes=n_classes,
        weights=[0.7] + [0.3 / (n_classes - 1)] * (n_classes - 1),
        flip_y=0.03,
        class_sep=1.2,
        random_state=seed,
    )


def table(n_classes=2, n_rows=300, seed=0):
    """Imbalanced rows (n_rows, N_FEATURES) in float32, and labels from 0."""
    X, y = _table(n_classes, n_rows, seed)
    return X.astype(np.float32), y.copy()


def images(n_classes=2, n_rows=120, seed=0):
    """Images (n_rows, 2, 8, 8), brighter with their class."""
    rng = np.random.default_rng(seed)
    y = np.arange(n_rows) % n_classes
    X = rng.normal(size=(n_rows, 2, 8, 8)) + 0.5 * y[:, None, None, None]
    return X.astype(np.float32), y


def tokens(n_classes=2, n_rows=120, seed=0):
    """Rows of 5 token indices, larger with their class."""
    rng = np.random.default_rng(seed)
    y = np.arange(n_rows) % n_classes
    return np.minimum(rng.integers(0, 8, size=(n_rows, 5)) + y[:, None], 9), y


def trained(net, X, y):
    """The net, fitted from the same random stream wherever and whenever that happens."""
    with seeded(0):
        return net.fit(X, y)


def log_likelihood(estimator, X, y):
    """A metric that a few steps are sure to improve in a net trained for a few epochs."""
    proba = estimator.predict_proba(X)[np.arange(len(y)), np.searchsorted(estimator.classes_, y)]
    return float(np.log(np.maximum(proba, 1e-9)).mean())


def weights_of(module):
    """A copy of all parameters and buffers, by name."""
    return {name: value.clone() for name, value in module.state_dict().items()}


def same_weights(module, weights):
    """Whether `module` has exactly these parameters and buffers."""
    own = module.state_dict()
    return own.keys() == weights.keys() and all(torch.equal(own[k], weights[k]) for k in own)
