"""Rows with labels: who may see which, and who answers for which."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from sk_metricopt._adapted import AdaptedNet, Encoded

_SPREAD_ROWS = 2048  # that the spread of features is taken from


@dataclass(frozen=True)
class Rows:
    """Encoded rows with their labels."""

    encoded: Encoded
    y: Tensor

    def __len__(self) -> int:
        return len(self.y)

    def take(self, rows: Tensor) -> Rows:
        return Rows(self.encoded.take(rows), self.y[rows])

    @cached_property
    def spread(self) -> tuple[Tensor, ...]:
        """Standard deviation of each feature, for each tensor of the encoded rows."""
        some = self.encoded
        if len(self) > _SPREAD_ROWS:  # from end to end: rows may be sorted by label
            rows = torch.linspace(0, len(self) - 1, _SPREAD_ROWS, dtype=torch.float64).long()
            some = some.take(rows.to(self.y.device))
        return tuple(
            t.std(0, correction=0) if t.is_floating_point() else t[0] * 0 for t in some.tensors
        )


@dataclass(frozen=True)
class LabelledRows:
    """Everything with labels that gradients may come from.

    Attributes
    ----------
    training : Rows
    probe : Rows
        What the value function reads: the validation rows or, where their labels may not be
        used, training rows.
    folds : list of Tensor
        Probe rows in each fold; empty where there is nothing to judge out of fold.
    n_classes : int
    """

    training: Rows
    probe: Rows
    folds: list[Tensor]
    n_classes: int

    @cached_property
    def twin_rows(self) -> list[Tensor]:
        """Probe rows each twin trains on: all but one fold in turn, and all of them last."""
        everything = torch.arange(len(self.probe), device=self.probe.y.device)
        if not self.folds:
            return [everything]
        others = [torch.cat([f for f in self.folds if f is not fold]) for fold in self.folds]
        return [*others, everything]

    def pooled(self, adapted: AdaptedNet, phi: Tensor, within: Tensor | None = None) -> Tensor:
        """Return log-scores (J, n, K), each row's by the twin that did not train on it.

        Parameters
        ----------
        adapted : AdaptedNet
        phi : Tensor of shape (J, T, n_params)
        within : Tensor of bool of shape (n_probe,) or None
            Rows asked for, all if None.
        """
        everything = torch.arange(len(self.probe), device=self.probe.y.device)
        twins = self.folds or [everything]
        asked = [fold if within is None else fold[within[fold]] for fold in twins]
        place = torch.cat(asked).argsort().argsort().split([len(rows) for rows in asked])
        whole: list[Tensor] = []
        for k, (rows, to) in enumerate(zip(asked, place, strict=True)):
            if not len(rows):
                continue
            part = adapted.outputs(phi[:, k], self.probe.encoded, rows)
            if not whole:
                whole = [part.new_empty(len(part), sum(map(len, asked)), part.shape[2])]
            whole[0][:, to] = part
        return whole[0]
