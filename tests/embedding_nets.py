"""Modules and nets that embed, and labelled rows to search among, for several test files."""

from __future__ import annotations

import numpy as np
import torch
from pytorch_metric_learning.losses import SupConLoss
from skorch import NeuralNet
from skorch.callbacks import InputShapeSetter
from torch import nn

N_FEATURES = 6


class Embedder(nn.Module):
    """Two layers; `output` says in which form the embeddings come."""

    def __init__(self, input_dim=N_FEATURES, hidden=16, n_components=4, output="plain"):
        super().__init__()
        self.hidden = nn.Linear(input_dim, hidden)
        self.embedding = nn.Linear(hidden, n_components)
        self.output = output

    def forward(self, X):
        H = torch.relu(self.hidden(X))
        E = self.embedding(H)
        forms = {"plain": E, "tuple": (E, H), "flat": E[:, 0], "maps": E[:, None], "nan": E / 0 * 0}
        return forms[self.output]


class NormEmbedder(nn.Sequential):
    """With a batch normalisation and dropout, which training and evaluation treat differently."""

    def __init__(self, input_dim=N_FEATURES, n_components=4):
        super().__init__(
            nn.Linear(input_dim, 16),
            nn.BatchNorm1d(16),
            nn.ReLU(),
            nn.Dropout(0.2),
            nn.Linear(16, n_components),
        )


class ImageEmbedder(nn.Sequential):
    def __init__(self, n_components=4, channels=2):
        super().__init__(
            nn.Conv2d(channels, 4, 3),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(16, n_components),
        )


class TokenEmbedder(nn.Module):
    """Looks integers up in a table."""

    def __init__(self, n_tokens=10, n_components=4):
        super().__init__()
        self.embedding = nn.Embedding(n_tokens, n_components)

    def forward(self, X):
        return self.embedding(X).mean(1)


def embedder(module=Embedder, **params):
    """An unfitted net that embeds."""
    defaults = {"criterion": SupConLoss, "max_epochs": 4, "lr": 0.1, "batch_size": 32}
    defaults |= {"train_split": None, "iterator_train__shuffle": True, "verbose": 0}
    return NeuralNet(module, **(defaults | params))


def adaptive_embedder(**params):
    """An unfitted net that takes its input size from the data."""
    return embedder(**({"callbacks": [InputShapeSetter()], "module__input_dim": 1} | params))


def labelled_points(n_labels=8, n_rows=96, seed=0):
    """Rows (n_rows, N_FEATURES) in float32 around one centre per label, and labels from 0."""
    rng = np.random.default_rng(seed)
    y = np.arange(n_rows) % n_labels
    X = rng.normal(size=(n_labels, N_FEATURES))[y] + 0.7 * rng.normal(size=(n_rows, N_FEATURES))
    return X.astype(np.float32), y
