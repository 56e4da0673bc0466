"""Nets that embed: the bridge to them, how they are trained, and with which criterion."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from scipy.sparse import issparse
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.utils.validation import _num_samples
from skorch import NeuralNet, NeuralNetBinaryClassifier, NeuralNetClassifier
from torch import Tensor, nn
from torch.nn import functional

from sk_metricopt import _skorch
from sk_metricopt._random import seeded

_CALLER = "EmbeddingRetriever"


class EmbeddingBridge(_skorch.Bridge):
    """What the engine needs of a fitted net that embeds.

    Parameters
    ----------
    net : skorch.NeuralNet
        A fitted net; it is read, never written.
    metric : {"cosine", "dot", "euclidean"}
        How embeddings are compared.
    """

    def __init__(self, net: NeuralNet, metric: str):
        super().__init__(net)
        self.metric = metric

    def outputs(self, output: Any) -> Tensor:
        """Return embeddings (n, d) as they are compared: of length 1 where the metric is cosine."""
        return comparable(first_of(output), self.metric)

    def check_output(self, X: np.ndarray) -> None:
        """Raise ValueError unless the module gives one finite vector for each of a few rows."""
        x = self.tensor(X[:8])
        check_embeddings(first_of(_skorch.output_of(self.module, x, _CALLER)), len(x))

    def gives_tuples(self, X: np.ndarray) -> bool:
        """Whether the module returns more than embeddings."""
        return isinstance(_skorch.output_of(self.module, self.tensor(X[:8]), _CALLER), tuple)

    def embed(self, X: np.ndarray) -> np.ndarray:
        """Return the embeddings of all rows, in the net's own batches."""
        try:
            output = self.net.forward(X)
        except (IndexError, RuntimeError, TypeError, ValueError) as error:
            shape = f"rows of shape {X.shape[1:]} in {X.dtype}"
            step = f"Give it a module for {shape}, or pass other X."
            raise _skorch.explained("a net that takes X", error, step, _CALLER) from error
        embeddings = first_of(output)
        check_embeddings(embeddings, len(X))
        return self.outputs(embeddings).numpy()


class SupervisedContrastiveLoss(nn.Module):
    """Criterion of a module that came without one: rows of a label near each other, others far.

    The mean negative log-probability of a row's own label among the other rows of the batch, by
    cosine similarity; after Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020.
    Rows that are alone with their label count as others only.

    Parameters
    ----------
    temperature : float, default=0.1
        Similarities are divided by it.
    """

    def __init__(self, temperature: float = 0.1):
        super().__init__()
        self.temperature = temperature

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of a batch: 0 where no label occurs twice."""
        unit = functional.normalize(embeddings, dim=-1)
        itself = torch.eye(len(unit), dtype=torch.bool, device=unit.device)
        # Not -inf, whose product with 0 below would be NaN.
        logits = (unit @ unit.T / self.temperature).masked_fill(itself, -1e9)
        same = ((labels[:, None] == labels[None, :]) & ~itself).to(unit.dtype)
        n_same = same.sum(1)
        log_proba = (logits.log_softmax(1) * same).sum(1) / n_same.clamp_min(1)
        return -log_proba.sum() / (n_same > 0).sum().clamp_min(1)


class MinedCriterion(nn.Module):
    """A criterion that is given the pairs or triplets a miner picked from the batch.

    Parameters
    ----------
    mined_criterion : torch.nn.Module or class
        Called with embeddings, labels and what the miner returned.
    mined_by : callable
        ``miner(embeddings, labels) -> indices``.
    **params : dict
        For `mined_criterion`, where it is a class.
    """

    def __init__(self, mined_criterion, mined_by, **params):
        super().__init__()
        given = isinstance(mined_criterion, nn.Module) and not params
        self.criterion = mined_criterion if given else _class_of(mined_criterion)(**params)
        self.miner = mined_by

    def forward(self, embeddings, labels: Tensor):
        """Return the loss of a batch."""
        return self.criterion(embeddings, labels, self.miner(first_of(embeddings), labels))


def takes_any_labels(criterion, embeddings: Tensor, labels: Tensor) -> bool:
    """Whether a criterion asks of labels no more than which rows share one.

    One that knows its training labels, or reads what else the module returns, cannot be used on
    embeddings of new labels. What renaming the labels does to it tells.
    """
    if any(True for _ in getattr(criterion, "parameters", tuple)()):
        return False
    try:
        with torch.no_grad():
            losses = []
            for names in (labels, labels.max() - labels):
                with seeded(0, embeddings.device):  # a miner may draw
                    losses.append(float(criterion(embeddings, names)))
    except Exception:  # noqa: BLE001  code of others, on what it was perhaps not made for
        return False
    return bool(np.isclose(*losses, rtol=1e-3))


def _class_of(criterion):
    return type(criterion) if isinstance(criterion, nn.Module) else criterion


def first_of(output: Any) -> Any:
    """Return the output that counts."""
    return output[0] if isinstance(output, tuple) else output


def comparable(embeddings: Tensor, metric: str) -> Tensor:
    """Return embeddings as `metric` compares them; a zero vector stays one."""
    return functional.normalize(embeddings, dim=-1) if metric == "cosine" else embeddings


def check_embeddings(embeddings, n_rows: int) -> None:
    """Raise ValueError unless there is one finite vector per row."""
    shape = tuple(getattr(embeddings, "shape", ()))
    if len(shape) != 2 or shape[0] != n_rows or shape[1] == 0:
        got = f"outputs of shape {shape}" if shape else f"a {type(embeddings).__name__}"
        raise ValueError(
            f"The 'estimator' parameter of {_CALLER} must embed each row as one vector. Got {got} "
            f"for {n_rows} rows. Have its last layer return a tensor of shape (n_samples, "
            "n_components); flatten or pool what has more axes."
        )
    embeddings = torch.as_tensor(embeddings)
    if not embeddings.is_floating_point():
        raise ValueError(
            f"The 'estimator' parameter of {_CALLER} must embed rows as floats. Got "
            f"{embeddings.dtype} instead. Change what its last layer returns."
        )
    if not bool(torch.isfinite(torch.as_tensor(embeddings)).all()):
        raise ValueError(
            f"The 'estimator' parameter of {_CALLER} must give finite embeddings. Got NaN or "
            "infinity: training diverged, or X is too large. Lower the net's learning rate or "
            "scale X."
        )


def check_estimator_kind(estimator) -> None:
    """Raise TypeError unless `estimator` embeds: a net, something fitted and frozen, a module."""
    frozen = isinstance(estimator, FrozenEstimator)
    inner = estimator.estimator if frozen else estimator
    expected = (
        f"The 'estimator' parameter of {_CALLER} must be a skorch NeuralNet whose module returns "
        "embeddings, a FrozenEstimator around a fitted net or transformer, or a torch.nn.Module. "
        f"Got {inner!r:.200} instead."
    )
    if isinstance(inner, NeuralNetClassifier | NeuralNetBinaryClassifier):
        raise TypeError(
            f"{expected} To finetune a classifier, give it to MetricOptFinetuner directly; to "
            "train embeddings, use skorch.NeuralNet with a criterion(embeddings, labels)."
        )
    if isinstance(inner, NeuralNet) or (frozen and hasattr(inner, "transform")):
        return
    if isinstance(inner, nn.Module) and not frozen:
        return
    raise TypeError(f"{expected} Wrap a fitted transformer as FrozenEstimator(transformer).")


def embed(estimator, X, metric: str) -> np.ndarray:
    """Return the embeddings (n, d) that a fitted net or transformer gives, ready to compare."""
    if isinstance(estimator, NeuralNet):
        return EmbeddingBridge(estimator, metric).embed(X)
    embeddings = estimator.transform(X)
    if issparse(embeddings):
        raise ValueError(
            f"The 'estimator' parameter of {_CALLER} must give dense embeddings. Got a sparse "
            "matrix. Reduce it, for instance by a TruncatedSVD after the transformer in a Pipeline."
        )
    embeddings = np.array(embeddings)  # a copy: frames and runtimes may keep theirs
    if embeddings.dtype not in (np.float32, np.float64):
        embeddings = embeddings.astype(np.float32)
    check_embeddings(embeddings, _num_samples(X))
    return comparable(torch.from_numpy(embeddings), metric).numpy()


def is_pretrained(estimator) -> bool:
    """Whether `estimator` embeds without being trained first."""
    return isinstance(estimator, FrozenEstimator | nn.Module)


def is_transformer(estimator) -> bool:
    """Whether what embeds is no net but something fitted that transforms."""
    inner = estimator.estimator if isinstance(estimator, FrozenEstimator) else estimator
    return not isinstance(inner, NeuralNet | nn.Module)


def frozen_net(estimator: FrozenEstimator) -> NeuralNet:
    """Return a private copy of the net inside `estimator`."""
    net = estimator.estimator
    if not getattr(net, "initialized_", False):
        raise ValueError(
            f"The 'estimator' parameter of {_CALLER} must be a fitted net inside FrozenEstimator. "
            "Got a net that was never fitted. Call net.fit first, net.initialize() where its "
            "module is an instance with its weights, or pass the net without FrozenEstimator to "
            "have it trained."
        )
    return _skorch.copy_net(net, _CALLER)


def net_around(module: nn.Module) -> NeuralNet:
    """Return an initialised net around a copy of a pre-trained module."""
    if not any(True for _ in module.parameters()):
        raise ValueError(
            f"The 'estimator' parameter of {_CALLER} must be a module with weights. Got "
            f"{type(module).__name__} without any. To search by what it computes, wrap it as "
            "FrozenEstimator(FunctionTransformer(function))."
        )
    device = _skorch.device_of(module)
    net = NeuralNet(
        copy.deepcopy(module),
        criterion=SupervisedContrastiveLoss,
        device=device,
        train_split=None,
        verbose=0,
    )
    return net.initialize()


def trained_net(net: NeuralNet, X: np.ndarray, labels: np.ndarray, miner) -> NeuralNet:
    """Return a clone of `net` fitted on labels 0..K-1, its criterion fed by `miner` if any."""
    _skorch.warn_of_instance(net)
    cloned = clone(net)
    if miner is not None:
        mined = {"criterion__mined_criterion": cloned.criterion}
        mined["criterion__mined_by"] = copy.deepcopy(miner)
        cloned.set_params(criterion=MinedCriterion, **mined)
    try:
        return cloned.fit(X, labels.astype(np.int64))
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
        step = _step_after(error, X, labels)
        if getattr(cloned, "initialized_", False):  # the module may be what the criterion failed on
            bridge = EmbeddingBridge(cloned, "dot")
            bridge.check_output(X)
            if bridge.gives_tuples(X):
                step = (
                    "The module returns a tuple, which the criterion is called with as it is: let "
                    f"the criterion take the first of it, or the module return it alone. {step}"
                )
        raise _skorch.explained("a net that trains on X and y", error, step, _CALLER) from error


def _step_after(error: Exception, X: np.ndarray, labels: np.ndarray) -> str:
    if "more than 1 value per channel" in str(error):
        return "The last batch holds one row: set iterator_train__drop_last=True on the net."
    return (
        f"Give its module rows of shape {X.shape[1:]} in {X.dtype} and a criterion that is called "
        f"with embeddings (n, d) and labels 0..{labels.max()} in int64 (and, with a miner, what "
        "the miner returned), such as a loss of pytorch_metric_learning."
    )
