"""Weight adapters: an increment of every weight."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sk_metricopt.adapters._affine import AFFINE, channels, make_affine
from sk_metricopt.adapters._base import BaseAdapter


class WeightAdapter(BaseAdapter):
    """Increments of all weights and biases of Linear, Conv and Norm layers.

    A host computes with ``W + scale * dW`` and ``b + scale * db``; φ is ``[dW, db]`` host after
    host, and ``φ = 0`` is the identity. It can do more than scale and shift channels, and gains
    more in nets of some thousand weights (docs/benchmarks/gain.md). φ has as many entries as the
    hosts have weights, and a fit holds a few hundred φ: some hundred thousand weights are too many.

    Parameters
    ----------
    scale : float, default=0.2
        Increment of a weight for a φ of 1, so that the learning rate of `FiLMAdapter`, which
        multiplies weights, suits this one too.

    See Also
    --------
    FiLMAdapter : Compact, for nets of any size.
    BaseAdapter : The contract.

    Notes
    -----
    Adapter parameters of the paper ([1]_, section 3.1) are few, since its value function reads φ.
    The default here reads what a candidate does, for which the length of φ does not matter.

    References
    ----------
    .. [1] Huang et al., "MetricOpt: Learning to Optimize Black-Box Evaluation Metrics",
       CVPR 2021.

    Examples
    --------
    >>> import torch
    >>> from sk_metricopt.adapters import WeightAdapter
    >>> host = torch.nn.Linear(3, 2)
    >>> adapter = WeightAdapter(scale=0.5)
    >>> adapter.n_params(host)
    8
    >>> moved = adapter.weights(host, torch.ones(8))
    >>> bool(torch.equal(moved["bias"], host.bias + 0.5))
    True
    """

    host_types = AFFINE

    def __init__(self, scale: float = 0.2):
        self.scale = scale

    def prepare(self, host: nn.Module) -> None:
        """Create the affine weight and bias that `host` was built without."""
        make_affine(host)

    def n_params(self, host: nn.Module) -> int:
        """Return one entry for each weight and bias of `host`."""
        n_channels = channels(host).numel()
        n_weights = n_channels if host.weight is None else host.weight.numel()
        return n_weights + n_channels

    def weights(self, host: nn.Module, params: Tensor) -> dict[str, Tensor]:
        """Return ``W + scale * dW`` and ``b + scale * db``."""
        n = host.weight.numel()
        moved = self.scale * params
        return {
            "weight": host.weight + moved[:n].reshape(host.weight.shape),
            "bias": host.bias + moved[n:].reshape(host.bias.shape),
        }

    def output_shift(self, host: nn.Module, shift: Tensor) -> Tensor:
        """Return an increment of ``db``."""
        return torch.cat([shift.new_zeros(host.weight.numel()), shift / self.scale])
