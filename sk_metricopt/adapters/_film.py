"""FiLM adapters: a scale and a shift per channel."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sk_metricopt.adapters._affine import AFFINE, channels, make_affine
from sk_metricopt.adapters._base import BaseAdapter


class FiLMAdapter(BaseAdapter):
    """Feature-wise linear modulation of Linear, Conv and Norm layers.

    The output ``y`` of a host becomes ``(1 + gamma) * y + beta`` per channel, which is the same
    as the weights ``(1 + gamma) W`` and the bias ``(1 + gamma) b + beta``. φ is ``[gamma, beta]``
    host after host; ``φ = 0`` is the identity.

    See Also
    --------
    BaseAdapter : The contract.
    WeightAdapter : Can do more, with as many parameters as weights.

    References
    ----------
    .. [1] Perez et al., "FiLM: Visual Reasoning with a General Conditioning Layer", AAAI 2018.
    .. [2] Huang et al., "MetricOpt: Learning to Optimize Black-Box Evaluation Metrics",
       CVPR 2021, section 3.1 (adapter parameters).

    Examples
    --------
    >>> import torch
    >>> from sk_metricopt.adapters import FiLMAdapter
    >>> host = torch.nn.Linear(3, 2)
    >>> adapter = FiLMAdapter()
    >>> adapter.n_params(host)
    4
    >>> doubled = adapter.weights(host, torch.tensor([1.0, 1.0, 0.0, 0.0]))
    >>> bool(torch.equal(doubled["weight"], 2 * host.weight))
    True
    """

    host_types = AFFINE
    channelwise = True

    def prepare(self, host: nn.Module) -> None:
        """Create the affine weight and bias that `host` was built without."""
        make_affine(host)

    def n_params(self, host: nn.Module) -> int:
        """Return two entries, gamma and beta, for each channel of `host`."""
        return 2 * channels(host).numel()

    def weights(self, host: nn.Module, params: Tensor) -> dict[str, Tensor]:
        """Return ``(1 + gamma) W`` and ``(1 + gamma) b + beta``."""
        gamma, beta = (half.reshape(channels(host)) for half in params.chunk(2, dim=-1))
        scale = 1 + gamma
        rows = scale.reshape(scale.shape + (1,) * (host.weight.dim() - scale.dim()))
        return {"weight": rows * host.weight, "bias": torch.addcmul(beta, scale, host.bias)}

    def modulate(self, host: nn.Module, output: Tensor, params: Tensor) -> Tensor:
        """Return ``(1 + gamma) output + beta``."""
        gamma, beta = (half.reshape(channels(host)) for half in params.chunk(2, dim=-1))
        if not isinstance(host, (nn.Linear, nn.LayerNorm)):
            trailing = (1,) * (output.dim() - 2)
            gamma, beta = gamma.reshape(-1, *trailing), beta.reshape(-1, *trailing)
        return torch.addcmul(beta, output, 1 + gamma)

    def output_shift(self, host: nn.Module, shift: Tensor) -> Tensor:
        """Return an increment of beta."""
        return torch.cat([torch.zeros_like(shift), shift])
