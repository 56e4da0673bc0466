"""Value functions and explorations that misbehave."""

from __future__ import annotations

from sk_metricopt.exploration import BaseExploration, Recipe, RetrievalExploration
from sk_metricopt.value_functions import BehaviourValueFunction, RetrievalValueFunction
from tests.bad_inputs.case import WORKS, Case
from tests.bad_inputs.rows import fit


class Gives(BaseExploration):
    """Gives whatever recipes it was made with."""

    def __init__(self, recipes):
        self.given = recipes

    def recipes(self, n_classes, use_validation_labels, max_observations, rng):
        return self.given


def _extension(passed, expected, **params):
    return Case("MetricOptFinetuner", passed, lambda: fit(**params), expected)


CASES = [
    _extension("exploration: one recipe", WORKS, exploration=Gives([Recipe(0.5)])),
    _extension(
        "exploration: more recipes than observations", WORKS, exploration=Gives([Recipe(0.5)] * 99)
    ),
    _extension("exploration: a class", "'exploration' parameter", exploration=Gives),
    _extension(
        "exploration: for search", "'exploration'|Recipe", exploration=RetrievalExploration()
    ),
    _extension(
        "value_function: a class",
        "'value_function' parameter",
        value_function=BehaviourValueFunction,
    ),
    _extension(
        "value_function: for search",
        "'value_function' parameter",
        value_function=RetrievalValueFunction(),
    ),
]
