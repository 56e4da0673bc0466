"""FiLM adapters: a scale and a shift per channel."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sk_metricopt.adapters._base import BaseAdapter

_CONV = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORM = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
)


class FiLMAdapter(BaseAdapter):
    """Feature-wise linear modulation of Linear, Conv and Norm layers.

    The output ``y`` of a host becomes ``(1 + gamma) * y + beta`` per channel, which is the same
    as the weights ``(1 + gamma) W`` and the bias ``(1 + gamma) b + beta``. φ is ``[gamma, beta]``
    host after host; ``φ = 0`` is the identity.

    See Also
    --------
    BaseAdapter : The contract.

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

    host_types = (nn.Linear, *_CONV, *_NORM)

    def prepare(self, host: nn.Module) -> None:
        """Create the affine weight and bias that `host` was built without."""
        like = next(
            (t for t in (*host.parameters(), *host.buffers()) if t.is_floating_point()), None
        )
        shape = _channels(host)
        for name, fill in (("weight", 1.0), ("bias", 0.0)):
            if getattr(host, name, None) is None:
                value = torch.full(
                    shape,
                    fill,
                    dtype=like.dtype if like is not None else None,
                    device=like.device if like is not None else None,
                )
                setattr(host, name, nn.Parameter(value))

    def n_params(self, host: nn.Module) -> int:
        """Return two entries, gamma and beta, for each channel of `host`."""
        return 2 * _channels(host).numel()

    def weights(self, host: nn.Module, params: Tensor) -> dict[str, Tensor]:
        """Return ``(1 + gamma) W`` and ``(1 + gamma) b + beta``."""
        gamma, beta = (half.reshape(_channels(host)) for half in params.chunk(2, dim=-1))
        scale = 1 + gamma
        rows = scale.reshape(scale.shape + (1,) * (host.weight.dim() - scale.dim()))
        return {"weight": rows * host.weight, "bias": torch.addcmul(beta, scale, host.bias)}

    def modulate(self, host: nn.Module, output: Tensor, params: Tensor) -> Tensor:
        """Return ``(1 + gamma) output + beta``."""
        gamma, beta = (half.reshape(_channels(host)) for half in params.chunk(2, dim=-1))
        if not isinstance(host, (nn.Linear, nn.LayerNorm)):
            trailing = (1,) * (output.dim() - 2)
            gamma, beta = gamma.reshape(-1, *trailing), beta.reshape(-1, *trailing)
        return torch.addcmul(beta, output, 1 + gamma)

    def output_shift(self, host: nn.Module, shift: Tensor) -> Tensor:
        """Return an increment of beta."""
        return torch.cat([torch.zeros_like(shift), shift])


def _channels(host: nn.Module) -> torch.Size:
    if isinstance(host, nn.Linear):
        return torch.Size([host.out_features])
    if isinstance(host, _CONV):
        return torch.Size([host.out_channels])
    if isinstance(host, nn.LayerNorm):
        return torch.Size(host.normalized_shape)
    if isinstance(host, nn.GroupNorm):
        return torch.Size([host.num_channels])
    return torch.Size([host.num_features])
