"""What retrieval is measured on: characters of Omniglot that no net and no metric has seen.

The data folder named by ``SK_METRICOPT_DATA_HOME`` holds ``omniglot_retrieval.npz``: images of
characters, 20 of each, from eight alphabets of which three are set apart for the test. Training,
validation and test rows share no character and no alphabet.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from pytorch_metric_learning.losses import NormalizedSoftmaxLoss
from skorch import NeuralNet
from torch import Tensor, nn

from benchmarks.tasks import Split, data_home
from sk_metricopt import EmbeddingRetriever
from sk_metricopt.metrics import make_retrieval_scorer

FILE = "omniglot_retrieval.npz"
N_COMPONENTS = 64
SCORERS: dict[str, Callable] = {
    "recall_at_1": make_retrieval_scorer("recall_at_k", k=1),
    "recall_at_5": make_retrieval_scorer("recall_at_k", k=5),
    "map_at_r": make_retrieval_scorer("mean_average_precision_at_r"),
}


@dataclass(frozen=True)
class Alphabets:
    """Which alphabets play which role."""

    train: tuple[int, ...]
    val: tuple[int, ...]
    test: tuple[int, ...]

    def __str__(self) -> str:
        parts = (self.train, self.val, self.test)
        return " / ".join("+".join(map(str, sorted(part))) for part in parts)


def assign_alphabets(
    known: list[int], secret: list[int], seed: int, setting: str = "confirm"
) -> Alphabets:
    """Give alphabets their roles.

    Parameters
    ----------
    known, secret : list of int
        Alphabets to make choices on, and those of the test.
    seed : int
        Five seeds in a row use each known alphabet as often as any other in every role.
    setting : {"confirm", "design"}, or one of these followed by "_augmented"
        "confirm": two known alphabets validate, the others train, the secret ones test. "design":
        one known alphabet tests in their place.

    Examples
    --------
    >>> str(assign_alphabets([0, 1, 2, 3, 4], [5, 6, 7], seed=0))
    '2+3+4 / 0+1 / 5+6+7'
    >>> str(assign_alphabets([0, 1, 2, 3, 4], [5, 6, 7], seed=1, setting="design"))
    '0+4 / 2+3 / 1'
    """
    n = len(known)
    stride = 1 + seed // n % (n - 1)  # other pairs once all neighbours have been one
    order = tuple(known[(seed + stride * i) % n] for i in range(n))
    if setting.startswith("design"):
        return Alphabets(train=order[3:], val=order[1:3], test=order[:1])
    return Alphabets(train=order[2:], val=order[:2], test=tuple(secret))


@lru_cache(maxsize=2)
def load_split(seed: int, setting: str) -> tuple[Split, Alphabets]:
    """Load images (n, 1, 28, 28) in [0, 1] and their characters, in three roles."""
    arrays = _load_arrays()
    alphabet = arrays["alphabet"]
    known = np.unique(alphabet[arrays["split"] == "train"]).tolist()
    secret = np.unique(alphabet[arrays["split"] == "test"]).tolist()
    alphabets = assign_alphabets(known, secret, seed, setting)
    parts = []
    for role in (alphabets.train, alphabets.val, alphabets.test):
        rows = np.isin(alphabet, role)
        parts += [arrays["X"][rows, None].astype(np.float32) / 255, arrays["y"][rows]]
    if is_augmented(setting):
        parts[:2] = _turned(*parts[:2])
    return Split(*parts), alphabets


def is_augmented(setting: str) -> bool:
    """Whether the net is trained on more characters and distorted drawings, and so a better one."""
    return setting.endswith("_augmented")


def _turned(X: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Count a character that is turned by a quarter as another one."""
    turns = range(4)
    turned = np.concatenate([np.rot90(X, n, axes=(2, 3)) for n in turns])
    return turned, np.concatenate([y + n * (y.max() + 1) for n in turns])


@lru_cache(maxsize=1)
def _load_arrays() -> dict[str, np.ndarray]:
    path = data_home() / FILE
    if not path.is_file():
        raise FileNotFoundError(f"The data folder must hold {FILE}. Got {path.parent}. Add it.")
    with np.load(path) as file:
        return dict(file)


class Distortion(nn.Module):
    """Stretches, slants, turns and moves drawings at random, in training only."""

    def __init__(self, size: float):
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        """Return drawings (n, 1, 28, 28) distorted, or as they are."""
        if not self.training:
            return x
        theta = torch.eye(2, 3) + self.size * (torch.rand(len(x), 2, 3) - 0.5)
        grid = nn.functional.affine_grid(theta, x.shape, align_corners=False)
        return nn.functional.grid_sample(x, grid, align_corners=False)


class Trunk(nn.Module):
    """Three strided convolutions with batch norm and two linear layers, to 64 components."""

    def __init__(self, distorted: bool = False):
        super().__init__()
        self.distortion = Distortion(0.4) if distorted else nn.Identity()
        self.convolutions = nn.Sequential(
            *_convolution(1, 16), *_convolution(16, 32), *_convolution(32, 32), nn.Flatten()
        )
        self.hidden, self.embedding = nn.Linear(512, 128), nn.Linear(128, N_COMPONENTS)

    def forward(self, x: Tensor) -> Tensor:
        """Return embeddings (n, 64) of images (n, 1, 28, 28)."""
        features = self.convolutions(self.distortion(x))
        return self.embedding(torch.relu(self.hidden(features)))


def _convolution(n_in: int, n_out: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(n_in, n_out, 3, stride=2, padding=1), nn.BatchNorm2d(n_out), nn.ReLU()


@lru_cache(maxsize=2)
def train_base(seed: int, setting: str) -> EmbeddingRetriever:
    """Train the net that is finetuned later, on training rows only, by a cosine softmax."""
    split, _ = load_split(seed, setting)
    net = NeuralNet(
        Trunk,
        module__distorted=is_augmented(setting),
        criterion=NormalizedSoftmaxLoss,
        criterion__num_classes=len(np.unique(split.y_train)),
        criterion__embedding_size=N_COMPONENTS,
        criterion__temperature=1 / 12,
        optimizer=torch.optim.Adam,
        lr=2e-3,
        batch_size=128,
        max_epochs=15 if is_augmented(setting) else 12,
        iterator_train__shuffle=True,
        train_split=None,
        verbose=0,
    )
    return EmbeddingRetriever(net, random_state=seed).fit(split.X_train, split.y_train)
