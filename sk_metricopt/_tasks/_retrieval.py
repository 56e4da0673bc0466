"""Retrieval: rows are embedded, and search among them is judged."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import numpy as np
import torch
from torch import Tensor

from sk_metricopt._adapted import AdaptedNet
from sk_metricopt._resampling import GroupedResampling
from sk_metricopt._tasks._base import Task
from sk_metricopt._tasks._search import RetrieverResponse, RetrieverScoring, SearchPart
from sk_metricopt.exploration._neighbours import NeighbourObjective
from sk_metricopt.exploration._rows import LabelledRows
from sk_metricopt.value_functions import BaseValueFunction

_FEW_LABELS = 8  # with fewer, rows are resampled one by one


class RetrievalTask(Task):
    """Embeddings, finetuned on what brings rows of a label together.

    An answer is a list of parts (queries, φ, embeddings): all validation rows are embedded by each
    twin, which then answers for the queries that it did not train on. Embeddings of two twins are
    never compared.

    Parameters
    ----------
    adapted, rows, judged, scoring, make_model
        See Task. Training rows are the gallery where a scorer asks for the estimator's.
    criterion : callable or None
        The net's own, if it takes any labels.
    """

    row_wise = False
    scoring: RetrieverScoring

    def __init__(
        self,
        adapted: AdaptedNet,
        rows: LabelledRows,
        judged: LabelledRows,
        scoring: RetrieverScoring,
        make_model: Callable[[Tensor], object],
        criterion: Callable | None,
    ):
        super().__init__(adapted, rows, judged, scoring, make_model)
        metric = scoring.retriever.metric
        self.objective = NeighbourObjective(adapted, rows, criterion, metric)
        self.joins_whole = scoring.by_query or scoring.by_row  # else each part is its own search

    def _queries(self) -> list[Tensor]:
        """Rows that each twin answers for."""
        everything = torch.arange(len(self.judged.probe), device=self.adapted.device)
        return self.judged.folds or [everything]

    def answers(self, phi: Tensor) -> list[list[tuple[Tensor, Tensor, Tensor]]]:
        """Return each candidate's parts: queries, φ (n_params,), embeddings (n_samples, d)."""
        queries = self._queries()
        embedded = [
            self.adapted.outputs(phi[:, k], self.judged.probe.encoded) for k in range(len(queries))
        ]
        return [
            [(rows, phi[j, k], embedded[k][j]) for k, rows in enumerate(queries)]
            for j in range(len(phi))
        ]

    def joined(self, parts: list[tuple[np.ndarray, Tensor]]) -> list[tuple]:
        """Return the parts of candidates that each answer for some rows."""
        joined = []
        for rows, phi in parts:
            asked = torch.as_tensor(rows, device=self.adapted.device)
            for queries, by, embedded in self.answers(phi[None])[0]:
                queries = queries[torch.isin(queries, asked)]
                if len(queries):
                    joined.append((queries, by, embedded))
        return joined

    def response(self, answers: list[tuple], phi: Tensor) -> RetrieverResponse:
        """Return parts ready to be searched."""
        parts = [
            SearchPart(
                rows.cpu().numpy(),
                embedded.cpu().numpy(),
                partial(self._gallery, by),
                cache(partial(self.make_model, by)),
            )
            for rows, by, embedded in answers
        ]
        return RetrieverResponse(self.scoring, parts)

    def _gallery(self, phi: Tensor) -> np.ndarray:
        return self.adapted.outputs(phi[None], self.rows.training.encoded)[0].cpu().numpy()

    def start(self, value_function: BaseValueFunction, answers: list, warm: bool) -> None:
        """Start a value function on the embeddings of the model as it came."""
        if self.reads_labels:
            embedded = answers[0][0][2]
        else:
            zero = torch.zeros(1, self.adapted.n_params, device=self.adapted.device)
            embedded = self.adapted.outputs(zero, self.rows.probe.encoded)[0]
        self._start(value_function, embedded, self.rows.probe.y, warm)

    def describe(self, value_function: BaseValueFunction, phi: Tensor, answers: list) -> Tensor:
        """Return descriptors, the mean of what they are on each twin's queries."""
        y = self.rows.probe.y
        if not self.reads_labels:
            embedded = self.adapted.outputs(phi[:, -1], self.rows.probe.encoded)
            return value_function.describe(phi[:, -1], embedded, y)
        described = []
        for k, rows in enumerate(self._queries()):
            embedded = torch.stack([parts[k][2][rows] for parts in answers])
            described.append(value_function.describe(phi[:, k], embedded, y[rows]))
        return torch.stack(described).mean(0)

    def resampling(self) -> GroupedResampling:
        """Return halves of the labels or, where these are secret or few, of the rows."""
        y = self.judged.probe.y.cpu().numpy()
        return search_resampling(y) if self.reads_labels else GroupedResampling(np.arange(len(y)))

    def why_not_judged(self) -> str | None:
        """Halves of labels or rows tell how sure a gain is, however few there are."""
        return None


def search_resampling(y: np.ndarray) -> GroupedResampling:
    """Return how rows with labels `y` are dealt: by label, or one by one where labels are few."""
    few = len(np.unique(y)) < _FEW_LABELS
    return GroupedResampling(np.arange(len(y)) if few else y)
