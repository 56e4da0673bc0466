"""What the engine asks of a task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sk_metricopt._adapted import AdaptedNet
from sk_metricopt._resampling import Resampling
from sk_metricopt._scoring import Response, Scoring
from sk_metricopt.exploration._objectives import Objective
from sk_metricopt.exploration._rows import LabelledRows
from sk_metricopt.value_functions import BaseValueFunction


class Task(ABC):
    """A net to finetune, the rows it learns from, and the rows it is judged on.

    Parameters
    ----------
    adapted : AdaptedNet
    rows : LabelledRows
        Where gradients come from, and what the value function reads.
    judged : LabelledRows
        The validation rows as probe, on which points are observed. The same as `rows` where
        validation labels may be used.
    scoring : Scoring
    make_model : callable
        From φ (n_params,) to the estimator it stands for.

    Attributes
    ----------
    objective : Objective
        Of trajectories.
    row_wise : bool
        Answers are log-scores (n_samples, K): each row's its own, to be shifted and described on
        any rows.
    joins_whole : bool
        Joined answers are scored as one candidate's are. Where not, the score of each part is its
        own, and what they are compared with has to be divided likewise.
    """

    objective: Objective
    row_wise: bool
    joins_whole: bool = True

    def __init__(
        self,
        adapted: AdaptedNet,
        rows: LabelledRows,
        judged: LabelledRows,
        scoring: Scoring,
        make_model: Callable[[Tensor], object],
    ):
        self.adapted = adapted
        self.rows = rows
        self.judged = judged
        self.scoring = scoring
        self.make_model = make_model

    @property
    def reads_labels(self) -> bool:
        """Whether validation labels may be used for more than the scorer."""
        return self.judged is self.rows

    @abstractmethod
    def answers(self, phi: Tensor) -> Any:
        """Return what each candidate of `phi` (J, T, n_params) answers on the validation rows.

        Each row is answered by the twin that did not train on it.
        """

    @abstractmethod
    def joined(self, parts: list[tuple[np.ndarray, Tensor]]):
        """Return answers put together from candidates.

        Parameters
        ----------
        parts : list of (rows, phi)
            Validation rows, and the candidate (T, n_params) that answers for them.
        """

    @abstractmethod
    def response(self, answers, phi: Tensor) -> Response:
        """Return one candidate's answers ready to be scored; `phi` (n_params,) is deployed."""

    @abstractmethod
    def start(self, value_function: BaseValueFunction, answers: Any, warm: bool) -> None:
        """Start a value function on the model as it came, with what it has learned if `warm`."""

    def _start(
        self, value_function: BaseValueFunction, outputs: Tensor, y: Tensor, warm: bool
    ) -> None:
        if warm:
            zero = torch.zeros(self.adapted.n_params, device=self.adapted.device)
            value_function.resume(zero, outputs, y)
        else:
            value_function.start(outputs, y)

    @abstractmethod
    def describe(self, value_function: BaseValueFunction, phi: Tensor, answers: Any) -> Tensor:
        """Return descriptors (J, n_descriptors) of the candidates `phi` and their answers."""

    @abstractmethod
    def resampling(self) -> Resampling:
        """Return how validation rows are resampled."""

    @abstractmethod
    def why_not_judged(self) -> str | None:
        """Say why resampling cannot tell how sure a gain is here, if it cannot."""
