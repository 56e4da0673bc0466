"""Layers with a weight and a bias per channel, or that can be given them."""

from __future__ import annotations

import torch
from torch import nn

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
AFFINE = (nn.Linear, *_CONV, *_NORM)


def make_affine(host: nn.Module) -> None:
    """Create the weight and the bias that `host` was built without."""
    like = next((t for t in (*host.parameters(), *host.buffers()) if t.is_floating_point()), None)
    shape = channels(host)
    for name, fill in (("weight", 1.0), ("bias", 0.0)):
        if getattr(host, name, None) is None:
            value = torch.full(
                shape,
                fill,
                dtype=like.dtype if like is not None else None,
                device=like.device if like is not None else None,
            )
            setattr(host, name, nn.Parameter(value))


def channels(host: nn.Module) -> torch.Size:
    """Return the shape of the bias."""
    if isinstance(host, nn.Linear):
        return torch.Size([host.out_features])
    if isinstance(host, _CONV):
        return torch.Size([host.out_channels])
    if isinstance(host, nn.LayerNorm):
        return torch.Size(host.normalized_shape)
    if isinstance(host, nn.GroupNorm):
        return torch.Size([host.num_channels])
    return torch.Size([host.num_features])
