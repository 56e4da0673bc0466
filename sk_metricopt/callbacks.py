"""Callbacks: what those of a finetuner are told, and value guidance for training of your own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from numbers import Real

import numpy as np
import torch
from skorch import NeuralNetBinaryClassifier, NeuralNetClassifier
from skorch.callbacks import Callback, GradientNormClipping
from torch import Tensor, nn

from sk_metricopt._progress import ObservationState
from sk_metricopt._skorch import NetBridge, evaluating
from sk_metricopt.value_functions import BaseValueFunction, RetrievalValueFunction

__all__ = ["ObservationState", "ValueGuidance", "add_value_gradient"]

_ROWS = 1024  # that one gradient is taken on
_TINY = 1e-12


class ValueGuidance(Callback):
    """Add a fitted value function's gradient to the criterion's in any skorch training.

    After each backward pass, weights get ``-guidance_weight`` times the gradient of the predicted
    score on labelled rows, scaled to the size of the criterion's gradient. The optimizer,
    schedulers, clipping and criterion stay those of the net [1]_.

    Parameters
    ----------
    value_function : BaseValueFunction
        Fitted: ``value_function_`` of a finetuner, or read by ``from_file``. It must read rows, as
        the default does; adapter parameters are none of a training loop's.
    X : array-like of shape (n_samples, ...)
        Rows on which the score is predicted, in the form that the module takes; validation rows.
        Of more than 1,024 a stratified draw is used in each step.
    y : array-like of shape (n_samples,)
        Their labels, encoded as for the criterion: 0 to n_classes - 1.
    guidance_weight : float, default=1.0
        Size of the value function's gradient, relative to the criterion's with `match_norm`.
    match_norm : bool, default=True
        Whether both gradients have the same length before they are weighed. If not, the value
        function's is added as it is, in units of the metric.
    random_state : int, default=0
        Seeds the draw of rows. No global random stream is touched.

    Attributes
    ----------
    n_guided_ : int
        Gradients that were guided. 0 after a training tells that skorch never called: the net has
        ``callbacks="disable"``, or was initialised before it got this callback and needs
        ``net.initialize_callbacks()``.

    See Also
    --------
    add_value_gradient : The same for a loop without skorch.

    Notes
    -----
    What cannot work is refused when training begins: value guidance after `GradientNormClipping`,
    which would not clip it; optimizers that evaluate the loss several times a step (LBFGS), whose
    line search knows nothing of the value function; mixed precision with a gradient scaler, and
    accelerate, which scale or move gradients.

    References
    ----------
    .. [1] Huang, Zhai, Guo and Gu, "MetricOpt: Learning to Optimize Black-Box Evaluation
       Metrics", CVPR 2021, section 3. arXiv:2104.10631

    Examples
    --------
    >>> import torch
    >>> from sklearn.datasets import load_wine
    >>> from sklearn.preprocessing import scale
    >>> from skorch import NeuralNetClassifier
    >>> from sk_metricopt import MetricOptFinetuner
    >>> from sk_metricopt.callbacks import ValueGuidance
    >>> X, y = load_wine(return_X_y=True)
    >>> X = scale(X).astype("float32")
    >>> settings = {
    ...     "module__in_features": 13,
    ...     "module__out_features": 3,
    ...     "criterion": torch.nn.CrossEntropyLoss,
    ...     "verbose": 0,
    ... }
    >>> net = NeuralNetClassifier(torch.nn.Linear, **settings)
    >>> est = MetricOptFinetuner(net, scoring="f1_macro", max_observations=20, random_state=0)
    >>> guidance = ValueGuidance(est.fit(X, y).value_function_, X[::3], y[::3])
    >>> guided = NeuralNetClassifier(torch.nn.Linear, callbacks=[guidance], **settings).fit(X, y)
    >>> dict(guided.callbacks_)["ValueGuidance"].n_guided_
    20
    """

    def __init__(
        self, value_function, X, y, *, guidance_weight=1.0, match_norm=True, random_state=0
    ):
        self.value_function = value_function
        self.X = X
        self.y = y
        self.guidance_weight = guidance_weight
        self.match_norm = match_norm
        self.random_state = random_state

    def initialize(self) -> ValueGuidance:
        """Count from zero."""
        self.n_guided_ = 0
        return self

    def on_train_begin(self, net, X=None, y=None, **kwargs) -> None:
        """Look whether guidance can work in this training.

        Raises
        ------
        ValueError, TypeError
            If not; the message names what stands in the way, and the next step.
        """
        _check_net(self, net)
        classifies = isinstance(net, NeuralNetClassifier | NeuralNetBinaryClassifier)
        scores_of = NetBridge(net).outputs if classifies else _first
        self._gradient_ = _ValueGradient(
            type(self).__name__,
            self.value_function,
            self.X,
            self.y,
            self.guidance_weight,
            self.match_norm,
            scores_of,
            self.random_state,
        )
        self._gradient_.check(net.module_)

    def on_grad_computed(self, net, named_parameters, training=False, **kwargs) -> None:
        """Add the gradient."""
        if training:
            self._gradient_.add_to(net.module_, (p for _, p in named_parameters))
            self.n_guided_ += 1

    def __getstate__(self) -> dict:
        return {name: value for name, value in vars(self).items() if name != "_gradient_"}


def add_value_gradient(
    module, value_function, X, y, *, guidance_weight=1.0, match_norm=True, random_state=0
):
    """Add a fitted value function's gradient to the gradients that a module has.

    Call it between ``loss.backward()`` and ``optimizer.step()``, before gradients are clipped.

    Parameters
    ----------
    module : torch.nn.Module
        Gives log-scores or logits (n_samples, n_classes), or one logit a row; for a
        `RetrievalValueFunction` embeddings.
    value_function : BaseValueFunction
        Fitted, of a kind that reads rows.
    X : array-like or Tensor of shape (n_samples, ...)
        Rows on which the score is predicted.
    y : array-like or Tensor of shape (n_samples,)
        Their labels, 0 to n_classes - 1.
    guidance_weight : float, default=1.0
        Size of the value function's gradient, relative to the present one with `match_norm`.
    match_norm : bool, default=True
        Whether both gradients have the same length before they are weighed. With a gradient scaler
        and False, unscale first.
    random_state : int, default=0
        Seeds the draw of rows where there are more than 1,024; pass the number of the step.

    Raises
    ------
    ValueError, TypeError
        If the value function has learned nothing, or of something else than the module gives.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from sk_metricopt.callbacks import add_value_gradient
    >>> from sk_metricopt.value_functions import BehaviourValueFunction
    >>> X, y = torch.randn(60, 4), torch.arange(60) % 3
    >>> module = torch.nn.Linear(4, 3)
    >>> scores = torch.randn(12, 60, 3)
    >>> value = BehaviourValueFunction().start(scores[0], y)
    >>> described = value.describe(torch.zeros(12, 0), scores, y)
    >>> value = value.fit(described.numpy(), (scores.argmax(-1) == y).float().mean(1).numpy())
    >>> optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    >>> torch.nn.functional.cross_entropy(module(X), y).backward()
    >>> add_value_gradient(module, value, X, y)
    >>> optimizer.step()
    """
    embeds = isinstance(value_function, RetrievalValueFunction)
    gradient = _ValueGradient(
        "add_value_gradient",
        value_function,
        X,
        y,
        guidance_weight,
        match_norm,
        _first if embeds else _log_scores,
        random_state,
    )
    gradient.add_to(module, module.parameters())


class _ValueGradient:
    """The gradient of a predicted score with respect to a module's weights."""

    def __init__(
        self,
        owner: str,
        value_function: BaseValueFunction,
        X,
        y,
        weight,
        match_norm: bool,
        scores_of: Callable[[object], Tensor],
        seed: int,
    ):
        self._owner = owner
        _check_kind(owner, value_function)
        if not isinstance(weight, Real) or isinstance(weight, bool) or not 0 <= weight < np.inf:
            raise ValueError(
                f"The 'guidance_weight' parameter of {owner} must be a number that is not "
                f"negative. Got {weight!r} instead. 0 switches guidance off."
            )
        self._value_function = value_function
        self._X, self._y = _rows(owner, X, y)
        self._weight, self._match_norm = weight, match_norm
        self._scores_of = scores_of
        self._rng = np.random.RandomState(seed)
        order = np.lexsort((self._rng.permutation(len(self._y)), self._y.numpy()))
        self._by_class = torch.as_tensor(order)

    def check(self, module: nn.Module) -> None:
        """Raise ValueError if the value function does not fit what the module gives."""
        self._value(module)

    def add_to(self, module: nn.Module, parameters: Iterable[nn.Parameter]) -> None:
        """Subtract the weighed gradient from that of the criterion, which is minimised."""
        parameters = [p for p in parameters if p.requires_grad]
        value = self._value(module)
        if not value.requires_grad:
            return
        gradients = torch.autograd.grad(value, parameters, allow_unused=True)
        factor = torch.tensor(float(self._weight))
        if self._match_norm:
            own, added = _length(p.grad for p in parameters), _length(gradients)
            factor = factor * own / added.clamp_min(_TINY)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is None:
                continue
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            parameter.grad -= factor * gradient

    def _value(self, module: nn.Module) -> Tensor:
        like, rows = next(module.parameters()), self._draw()
        X, y = self._X[rows].to(like.device), self._y[rows].to(like.device)
        X = X.to(like.dtype) if X.is_floating_point() else X
        with evaluating(module), torch.enable_grad():
            try:
                scores = self._scores_of(module(X))
            except (IndexError, RuntimeError, TypeError, ValueError) as error:
                raise ValueError(
                    f"The 'X' parameter of {self._owner} must be rows that the module takes. Got "
                    f"shape {tuple(self._X.shape)}, on which it failed ({type(error).__name__}: "
                    f"{error}). Pass them as the training loop does."
                ) from error
            try:
                described = self._value_function.describe(X.new_empty(1, 0), scores[None], y)
                return self._value_function.trusted(described).sum()
            except (AttributeError, IndexError, RuntimeError, ValueError) as error:
                raise ValueError(
                    f"The 'value_function' parameter of {self._owner} must be fitted, and on what "
                    f"the module gives: {tuple(scores.shape)} for {len(y)} rows with labels 0 to "
                    f"{int(y.max())}. Got {self._value_function!r:.80}, which failed "
                    f"({type(error).__name__}: {error}). Pass the value_function_ of a finetuner "
                    "of a net with the same classes."
                ) from error

    def _draw(self) -> Tensor:
        """Return rows, of each class its share."""
        n = len(self._by_class)
        if n <= _ROWS:
            return torch.arange(n)
        places = (np.arange(_ROWS) + self._rng.uniform()) * n / _ROWS
        return self._by_class[torch.as_tensor(places.astype(int).clip(max=n - 1))]


def _length(gradients: Iterable[Tensor | None]) -> Tensor:
    return torch.stack([g.norm() for g in gradients if g is not None] or [torch.zeros(())]).norm()


def _first(output) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


def _log_scores(output) -> Tensor:
    output = _first(output)
    if output.dim() == 1 or output.shape[1] == 1:
        logit = output.reshape(-1)
        return torch.stack([torch.zeros_like(logit), logit], dim=1)
    return output


def _rows(owner: str, X, y) -> tuple[Tensor, Tensor]:
    X, y = _tensor(owner, "X", X), _tensor(owner, "y", y)
    if y.dim() != 1 or not len(y) or X.shape[:1] != y.shape:
        raise ValueError(
            f"The 'y' parameter of {owner} must be one label per row of X. Got shape "
            f"{tuple(y.shape)} for X of shape {tuple(X.shape)}. Pass the labels that the "
            "criterion is given."
        )
    if y.is_floating_point() and not torch.equal(y, y.round()):
        raise ValueError(
            f"The 'y' parameter of {owner} must be encoded labels, 0 to n_classes - 1. Got "
            f"{y[y != y.round()][0].item()!r} among them. Encode them as for the criterion."
        )
    return X, y.long()


def _tensor(owner: str, name: str, values) -> Tensor:
    try:
        tensor = values if isinstance(values, Tensor) else torch.as_tensor(np.asarray(values))
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"The {name!r} parameter of {owner} must be an array or a tensor of numbers. Got "
            f"{type(values).__name__} ({error}). Encode what is no number first."
        ) from error
    return tensor.detach().cpu()


def _check_kind(owner: str, value_function) -> None:
    if not isinstance(value_function, BaseValueFunction):
        raise TypeError(
            f"The 'value_function' parameter of {owner} must be a fitted value function. Got "
            f"{value_function!r:.80} instead. Pass the value_function_ of a finetuner."
        )
    if not value_function.reads_rows:
        raise TypeError(
            f"The 'value_function' parameter of {owner} must read what a module does to rows. Got "
            f"{type(value_function).__name__}, which reads adapter parameters; a training loop has "
            "none. Fit the finetuner with value_function='auto', or let it train φ."
        )


def _check_net(guidance: ValueGuidance, net) -> None:
    """Raise ValueError for trainings that guidance cannot be part of."""
    callbacks = [callback for _, callback in net.callbacks_]
    before = callbacks[: callbacks.index(guidance)] if guidance in callbacks else []
    optimizers = [getattr(net, f"{name}_", None) for name in net._optimizers]
    if any(isinstance(callback, GradientNormClipping) for callback in before):
        got, step = "GradientNormClipping before it", "Put ValueGuidance first in 'callbacks'"
    elif any(isinstance(optimizer, torch.optim.LBFGS) for optimizer in optimizers):
        got, step = (
            "the optimizer LBFGS, whose line search follows the criterion alone",
            ("Use SGD, Adam or another optimizer of one gradient a step"),
        )
    elif hasattr(net, "accelerator"):
        got, step = (
            "a net of accelerate, which scales and gathers gradients itself",
            ("Train without it"),
        )
    elif any(map(torch.is_autocast_enabled, ("cpu", "cuda"))) or any(
        isinstance(value, torch.amp.GradScaler) for value in vars(net).values()
    ):
        got, step = (
            "mixed precision with scaled gradients",
            ("Train in full precision, or call add_value_gradient after unscaling"),
        )
    else:
        return
    raise ValueError(
        f"The 'callbacks' parameter of the net must leave gradients to {type(guidance).__name__}. "
        f"Got {got}. {step}."
    )
