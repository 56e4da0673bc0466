"""Sigmoids in float32, written so that weights may magnify small probabilities.

Runtimes compute a sigmoid to about 6e-8, and the other class as one minus that: of a probability of
1e-3 four digits are right. A softmax is right to seven digits of both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sk_metricopt.export._graph_edit import rename_value
from sk_metricopt.export._source import PROBABILITIES

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto

_PREFIX = "estimator_logit_"


def sharpen(graph: GraphProto) -> None:
    """Let a softmax give 'probabilities' where a sigmoid of one score did, in place.

    Parameters
    ----------
    graph : onnx.GraphProto
        From the source of a classifier. The label of the classifier inside is no longer right.
    """
    from onnx import helper, numpy_helper

    if graph.output[1].type.tensor_type.shape.dim[1].dim_value != 2:
        return
    makers = {name: node for node in graph.node for name in node.output}
    source = PROBABILITIES
    while makers[source].op_type == "Identity":
        source = makers[source].input[0]
    score = _score(graph, source, makers)
    if score is None:
        return
    halves, scaled = _PREFIX + "halves", _PREFIX + "scaled"
    signs = np.array([[-0.5, 0.5]], dtype=np.float32)
    graph.initializer.append(numpy_helper.from_array(signs, halves))
    rename_value(graph, PROBABILITIES, _PREFIX + "before")
    graph.output[1].name = PROBABILITIES
    graph.node.extend(
        [
            helper.make_node("Mul", [score, halves], [scaled], name=scaled),
            helper.make_node("Softmax", [scaled], [PROBABILITIES], axis=1, name=_PREFIX + "proba"),
        ]
    )


def _score(graph: GraphProto, name: str, makers: dict[str, NodeProto]) -> str | None:
    """Return the name of the score (n_samples, 1) whose sigmoid `name` is, if it is one."""
    from onnx import helper, numpy_helper

    node = makers[name]
    if node.op_type in ("LinearClassifier", "TreeEnsembleClassifier"):
        (transform,) = (a for a in node.attribute if a.name == "post_transform")
        if transform.s != b"LOGISTIC":
            return None
        transform.s = b"NONE"
        score, second = _PREFIX + "score", _PREFIX + "second"
        graph.initializer.append(numpy_helper.from_array(np.array([1]), second))
        # The second column is the score, whatever a runtime puts into the first.
        graph.node.append(helper.make_node("Gather", [name, second], [score], axis=1, name=score))
        return score
    if node.op_type == "Concat" and len(node.input) == 2:
        rest, positive = (makers.get(part) for part in node.input)
        if rest and positive and (rest.op_type, positive.op_type) == ("Sub", "Sigmoid"):
            return positive.input[0] if rest.input[1] == positive.output[0] else None
    return None
