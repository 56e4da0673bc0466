"""The networks under test: small skorch nets, trained with cross-entropy and early stopping."""

from __future__ import annotations

import numpy as np
import torch
from skorch import NeuralNetClassifier
from skorch.callbacks import EarlyStopping
from skorch.dataset import ValidSplit
from torch import nn

from benchmarks.tasks import Split

MAX_EPOCHS, MAX_EPOCHS_CNN = 200, 30
PATIENCE, PATIENCE_CNN = 10, 5


class MLP(nn.Sequential):
    """Two hidden layers, of 64 units if not told otherwise."""

    def __init__(self, n_inputs: int, n_classes: int, width: int = 64):
        super().__init__(
            nn.Linear(n_inputs, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, n_classes),
        )


class SmallCNN(nn.Sequential):
    """Three convolutions with batch norm, for 32 x 32 colour images."""

    def __init__(self, n_inputs: int, n_classes: int):
        super().__init__(
            *_convolution(n_inputs, 16),
            nn.MaxPool2d(2),
            *_convolution(16, 32),
            nn.MaxPool2d(2),
            *_convolution(32, 64),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(64, n_classes),
        )


def _convolution(n_in: int, n_out: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(n_in, n_out, 3, padding=1), nn.BatchNorm2d(n_out), nn.ReLU()


def train_base(
    split: Split, seed: int, weight: torch.Tensor | None = None, **module_params
) -> NeuralNetClassifier:
    """Train the net that is finetuned later; it sees the training rows only.

    Parameters
    ----------
    split : Split
    seed : int
    weight : Tensor of shape (n_classes,) or None
        Of each class in the criterion.
    **module_params
        Of the MLP.
    """
    net = base_net(split, seed, weight, **module_params)
    torch.manual_seed(seed)
    return net.fit(split.X_train, split.y_train)


def base_net(
    split: Split, seed: int, weight: torch.Tensor | None = None, **module_params
) -> NeuralNetClassifier:
    """Return that net before it is trained."""
    images = split.X_train.ndim == 4
    classes = np.unique(split.y_test)
    stop = EarlyStopping(
        patience=PATIENCE_CNN if images else PATIENCE, load_best=True, sink=_silent
    )
    return NeuralNetClassifier(
        SmallCNN if images else MLP,
        module__n_inputs=split.X_train.shape[1],
        module__n_classes=len(classes),
        **{f"module__{name}": value for name, value in module_params.items()},
        criterion=nn.CrossEntropyLoss,
        criterion__weight=weight,
        optimizer=torch.optim.Adam,
        lr=1e-3,
        batch_size=128,
        max_epochs=MAX_EPOCHS_CNN if images else MAX_EPOCHS,
        iterator_train__shuffle=True,
        train_split=ValidSplit(0.2, stratified=True, random_state=seed),
        classes=classes,
        callbacks=[stop],
        verbose=0,
    )


def _silent(*_) -> None:
    """Swallow what early stopping prints; a named function, so that the net pickles."""
