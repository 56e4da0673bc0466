"""Which gallery items are right answers to a query, as the metrics ask for it."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor


class Relevance(ABC):
    """Grades of gallery items for some queries: 0 is irrelevant, more is better.

    Attributes
    ----------
    total : Tensor of shape (n_queries,)
        Number of relevant items of each query, float64.
    """

    total: Tensor

    @abstractmethod
    def at(self, index: Tensor) -> Tensor:
        """Return the grades, float64, of gallery items given for each query."""

    @abstractmethod
    def grades(self) -> Tensor:
        """Return the grades of all gallery items, (n_queries, n_gallery)."""

    @abstractmethod
    def ideal(self, k: int) -> Tensor:
        """Return the k best grades of each query, float64, best first."""

    @abstractmethod
    def binary(self) -> Relevance:
        """Return the same with grade 1 for all that is relevant."""

    @abstractmethod
    def of(self, queries: Tensor) -> Relevance:
        """Return the relevance for some of the queries, given as a mask."""


class EqualLabels(Relevance):
    """Relevant is what has the query's label; never materialised unless asked for.

    Parameters
    ----------
    queries, gallery : Tensor of shape (n_queries,) and (n_gallery,)
        Labels as integers.
    total : Tensor of shape (n_queries,)
        Number of relevant items, not counting what a query cannot find.
    """

    def __init__(self, queries: Tensor, gallery: Tensor, total: Tensor):
        self._queries, self._gallery, self.total = queries, gallery, total

    def at(self, index: Tensor) -> Tensor:
        return (self._gallery[index] == self._queries[:, None]).double()

    def grades(self) -> Tensor:
        return self._queries[:, None] == self._gallery

    def ideal(self, k: int) -> Tensor:
        return (torch.arange(k, device=self.total.device) < self.total[:, None]).double()

    def binary(self) -> EqualLabels:
        return self

    def of(self, queries: Tensor) -> EqualLabels:
        return EqualLabels(self._queries[queries], self._gallery, self.total[queries])


class GradedItems(Relevance):
    """Grades given as a matrix.

    Parameters
    ----------
    grades : Tensor of shape (n_queries, n_gallery)
        0 for what a query cannot find.
    """

    def __init__(self, grades: Tensor):
        self._grades = grades
        self.total = grades.count_nonzero(1).double()

    def at(self, index: Tensor) -> Tensor:
        return self._grades.gather(1, index).double()

    def grades(self) -> Tensor:
        return self._grades

    def ideal(self, k: int) -> Tensor:
        return self._grades.double().topk(k).values

    def binary(self) -> GradedItems:
        return GradedItems(self._grades > 0)

    def of(self, queries: Tensor) -> GradedItems:
        return GradedItems(self._grades[queries])
