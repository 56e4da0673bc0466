"""Classification: each validation row is answered by log-scores of its own."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import numpy as np
import torch
from torch import Tensor

from sk_metricopt._adapted import AdaptedNet
from sk_metricopt._candidate import ClassifierResponse, ClassifierScoring
from sk_metricopt._resampling import StratifiedResampling
from sk_metricopt._tasks._base import Task
from sk_metricopt.exploration._objectives import CrossEntropyObjective
from sk_metricopt.exploration._rows import LabelledRows
from sk_metricopt.value_functions import BaseValueFunction

_FEW_ROWS = 10  # of a class; with fewer the guard cannot judge a metric that hangs on it
_HANGS_ON = 0.25
_DESCRIBED_BYTES = 2**24  # of log-scores that a value function is shown at once, or one candidate's


class ClassificationTask(Task):
    """Log-scores of classes, finetuned on weighted cross-entropies."""

    row_wise = True
    scoring: ClassifierScoring

    def __init__(
        self,
        adapted: AdaptedNet,
        rows: LabelledRows,
        judged: LabelledRows,
        scoring: ClassifierScoring,
        make_model: Callable[[Tensor], object],
    ):
        super().__init__(adapted, rows, judged, scoring, make_model)
        self.objective = CrossEntropyObjective(adapted, rows)

    def answers(self, phi: Tensor) -> Tensor:
        """Return log-scores (J, n_samples, K)."""
        return self.judged.pooled(self.adapted, phi)

    def joined(self, parts: list[tuple[np.ndarray, Tensor]]) -> Tensor:
        """Return log-scores (n_samples, K)."""
        device = self.adapted.device
        order, scores = [], []
        for rows, phi in parts:
            within = torch.zeros(len(self.judged.probe), dtype=torch.bool, device=device)
            within[torch.as_tensor(rows, device=device)] = True
            order.append(within.nonzero()[:, 0])
            scores.append(self.judged.pooled(self.adapted, phi[None], within)[0])
        return torch.cat(scores)[torch.cat(order).argsort()]

    def response(self, answers: Tensor, phi: Tensor) -> ClassifierResponse:
        """Return probabilities and decisions of log-scores (n_samples, K)."""
        proba = torch.softmax(answers, -1).cpu().numpy()
        decided = self.adapted.bridge.decide(proba)
        model = cache(partial(self.make_model, phi))
        return ClassifierResponse(self.scoring, proba, decided, model)

    def start(self, value_function: BaseValueFunction, answers: Tensor, warm: bool) -> None:
        """Start a value function on the log-scores of the model as it came."""
        zero = torch.zeros(1, len(self.rows.twin_rows), self.adapted.n_params)
        read = self._read(zero.to(answers), answers)[0]
        self._start(value_function, read, self.rows.probe.y, warm)

    def describe(self, value_function: BaseValueFunction, phi: Tensor, answers: Tensor) -> Tensor:
        """Return descriptors of log-scores on the rows that the value function may read."""
        at_once = max(1, _DESCRIBED_BYTES // max(1, answers[0].numel() * answers.element_size()))
        described = [
            value_function.describe(p[:, -1], self._read(p, a), self.rows.probe.y)
            for p, a in zip(phi.split(at_once), answers.split(at_once), strict=True)
        ]
        return torch.cat(described)

    def _read(self, phi: Tensor, answers: Tensor) -> Tensor:
        return answers if self.reads_labels else self.rows.pooled(self.adapted, phi)

    def resampling(self) -> StratifiedResampling:
        """Return bootstraps that keep the shares of labels or, where secret, of decisions."""
        if self.reads_labels:
            return StratifiedResampling(self.judged.probe.y.cpu().numpy())
        zero = torch.zeros(1, self.adapted.n_params, device=self.adapted.device)
        decided = self.adapted.outputs(zero, self.judged.probe.encoded)[0].argmax(-1)
        return StratifiedResampling(decided.cpu().numpy())

    def why_not_judged(self) -> str | None:
        """Name a class that the metric hangs on and that has too few validation rows.

        Resampling cannot see how uncertain a recall over a handful of rows is, so the standard
        error cannot be trusted there. The metric hangs on a class if deciding its rows all right or
        all wrong moves the score by much of what deciding all rows right or wrong does.
        """
        if not self.reads_labels:
            return None
        y, n_classes = self.judged.probe.y.cpu().numpy(), self.judged.n_classes
        counts = np.bincount(y, minlength=n_classes)
        rare = np.flatnonzero(counts < _FEW_ROWS)
        if not len(rare):
            return None
        # As wrong as it gets where classes are ordered, the middle one aside.
        wrong = np.where(2 * y + 1 == n_classes, (y + 1) % n_classes, n_classes - 1 - y)
        score = self.scoring.score_decisions
        perfect = score(y)
        span = perfect - score(wrong)
        for k in rare:
            lost = perfect - score(np.where(y == k, wrong, y))
            if not lost <= _HANGS_ON * span:
                return (
                    f"the metric hangs on class {self.scoring.like.classes_.tolist()[k]!r}, of "
                    f"which there are {counts[k]} validation rows, fewer than {_FEW_ROWS}"
                )
        return None
