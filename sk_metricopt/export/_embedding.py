"""Graphs of retrievers: 'embeddings'."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from sk_metricopt._embedding_net import EmbeddingBridge, is_transformer
from sk_metricopt._retriever import EmbeddingRetriever
from sk_metricopt.exceptions import ExportError
from sk_metricopt.export._kind import GraphKind, Rows
from sk_metricopt.export._torch_graph import NetSource

if TYPE_CHECKING:
    from onnx import ModelProto

# Of the longest embedding: 1 where the metric is cosine. float32 kernels differ by about 1e-7.
TOLERANCE = 1e-5


class EmbeddingGraph(GraphKind):
    """The embeddings that transform gives, of length 1 where the metric is cosine.

    Parameters
    ----------
    estimator : estimator
        A fitted estimator around `retriever`, or `retriever`.
    retriever : EmbeddingRetriever
        Fitted.
    """

    def __init__(self, estimator, retriever: EmbeddingRetriever):
        embedder = retriever.estimator_
        if is_transformer(embedder):
            raise TypeError(
                "The 'estimator' parameter of to_onnx must be a retriever around a torch net. Got "
                f"one around {type(embedder).__name__} instead. Export the net it came from, or "
                "use the transformer's own export."
            )
        bridge = EmbeddingBridge(embedder, retriever.metric)

        def head(output: Any) -> tuple[Tensor, ...]:
            return (bridge.outputs(output).float(),)

        super().__init__(estimator, NetSource(estimator, bridge, head, ("embeddings",)))
        self.metric = bridge.metric

    def expected(self, X) -> Rows:
        return {"embeddings": np.asarray(self.estimator.transform(X))}

    def complete(self, model: ModelProto, expected: Rows) -> None:
        """Nothing: torch writes all of it."""

    def properties(self, expected: Rows) -> dict[str, Any]:
        n_components = expected["embeddings"].shape[1]
        return {"metric": self.metric, "n_components": n_components}

    def compare(self, got: Rows, expected: Rows, indices: np.ndarray) -> None:
        embeddings, wanted = got["embeddings"], expected["embeddings"][indices]
        if embeddings.shape != wanted.shape:
            raise ExportError(
                f"The graph of {self.name} returns embeddings of shape {embeddings.shape}, "
                f"transform returns {wanted.shape}. Likely cause: forward mixes rows. Next step: "
                "make forward return one row per sample. No file was written."
            )
        errors = np.abs(embeddings - wanted)
        allowed = TOLERANCE * np.linalg.norm(expected["embeddings"], axis=1).max()
        wrong = ~(errors <= allowed).all(axis=1)  # catches NaN too
        if wrong.any():
            raise ExportError(
                f"The graph of {self.name} does not reproduce it: output 'embeddings' differs from "
                f"transform on {wrong.sum()} of {len(wrong)} rows (by up to {errors.max():.2g}, "
                f"allowed {allowed:.2g}), in a batch of {len(wrong)}. Likely cause: transform does "
                "more than the net's module, forward depends on chance or on the other rows of "
                "the batch, embeddings are so near zero that their direction is rounding, or the "
                "estimator computes in reduced precision (TF32 on a GPU). Next step: remove that "
                "dependence, or move the net to the CPU in full float32, and try again. No file "
                "was written."
            )
