"""Graphs of retrievers and transformers: 'embeddings'."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from sk_metricopt._embedding_net import EmbeddingBridge, is_transformer
from sk_metricopt._retriever import EmbeddingRetriever
from sk_metricopt.exceptions import ExportError
from sk_metricopt.export._kind import GraphKind, Rows
from sk_metricopt.export._source import EMBEDDINGS, Source
from sk_metricopt.export._torch_graph import NetSource

if TYPE_CHECKING:
    from onnx import ModelProto

# Of the longest embedding: 1 where the metric is cosine. float32 kernels differ by about 1e-7.
TOLERANCES = {"fp32": 1e-5, "fp16": 5e-3}


def retriever_source(estimator, retriever: EmbeddingRetriever, precision: str) -> Source:
    """Return what torch is to write of a fitted retriever, or of what holds it."""
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

    return NetSource(estimator, bridge, head, (EMBEDDINGS,), {"metric": bridge.metric}, precision)


class EmbeddingGraph(GraphKind):
    """What transform gives: embeddings of length 1 where a retriever's metric is cosine.

    Parameters
    ----------
    estimator : estimator
        Fitted.
    source : Source
        Of the embeddings.
    precision : {'fp32', 'fp16'}
        Of the nets in it.
    """

    outputs = (EMBEDDINGS,)

    def __init__(self, estimator, source: Source, precision: str):
        super().__init__(estimator, source)
        self.tolerance = TOLERANCES[precision]

    def expected(self, X) -> Rows:
        return {"embeddings": np.asarray(self.estimator.transform(X))}

    def complete(self, model: ModelProto, expected: Rows) -> None:
        """Nothing: the source writes all of it."""

    def properties(self, expected: Rows) -> dict[str, Any]:
        n_components = expected["embeddings"].shape[1]
        return {"n_components": n_components, **self.source.properties()}

    def compare(self, got: Rows, expected: Rows, indices: np.ndarray) -> None:
        embeddings, wanted = got["embeddings"], expected["embeddings"][indices]
        if embeddings.shape != wanted.shape:
            raise ExportError(
                f"The graph of {self.name} returns embeddings of shape {embeddings.shape}, "
                f"transform returns {wanted.shape}. Likely cause: forward mixes rows. Next step: "
                "make forward return one row per sample. No file was written."
            )
        errors = np.abs(embeddings - wanted)
        allowed = self.tolerance * np.linalg.norm(expected["embeddings"], axis=1).max()
        wrong = ~(errors <= allowed).all(axis=1)  # catches NaN too
        if wrong.any():
            cause, step = self.source.why_embeddings_differ()
            raise ExportError(
                f"The graph of {self.name} does not reproduce it: output 'embeddings' differs from "
                f"transform on {wrong.sum()} of {len(wrong)} rows (by up to {errors.max():.2g}, "
                f"allowed {allowed:.2g}), in a batch of {len(wrong)}. Likely cause: {cause}. Next "
                f"step: {step}. No file was written."
            )
