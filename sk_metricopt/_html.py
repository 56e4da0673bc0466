"""How estimators show themselves in notebooks: scikit-learn's diagram, with what it cannot know."""

from __future__ import annotations

import re
import sys
import textwrap
from dataclasses import dataclass

from sklearn.frozen import FrozenEstimator
from sklearn.utils import estimator_html_repr
from torch import nn

from sk_metricopt import _skorch

# Shown as boxes of the diagram, too large for a table, or no more than an address in memory.
_NOT_IN_TABLE = (
    "estimator_",
    "history_",
    "index_",
    "initial_estimator_",
    "observations_",
    "report_",
    "value_function_",
    "verdict_",
)


@dataclass(frozen=True)
class Box:
    """A box of the diagram.

    Attributes
    ----------
    name, caption : str
        Seen at once.
    details : str
        Seen when the box is opened.
    """

    name: str
    caption: str
    details: str

    def _sk_visual_block_(self):
        return _block(
            "single", self, names=self.name, name_caption=self.caption, name_details=self.details
        )


class HTMLMixin:
    """The diagram of a meta-estimator: the estimator, then what came of fitting."""

    def _sk_visual_block_(self):
        inner = getattr(self, "estimator_", self.estimator)
        parts = [_shown(inner, frozen=isinstance(self.estimator, FrozenEstimator))]
        parts += _outcome(self)
        names = [f"estimator: {type(inner).__name__}", "outcome"][: len(parts)]
        return _block("serial", parts, names=names, name_details=[""] * len(parts))

    def _get_fitted_attr_html(self, doc_link=""):
        table = super()._get_fitted_attr_html(doc_link)  # type: ignore[misc]
        for name in _NOT_IN_TABLE:
            table.pop(name, None)
        return table


def _block(*args, **kwargs):
    # Private, and in another module from version to version: where the public function is.
    return sys.modules[estimator_html_repr.__module__]._VisualBlock(*args, **kwargs)


def _shown(estimator, frozen: bool):
    """Return what stands for an estimator: for a net what was set and its layers, no full list."""
    inner = estimator.estimator if isinstance(estimator, FrozenEstimator) else estimator
    if isinstance(inner, nn.Module):
        return Box(type(inner).__name__, "torch module", str(inner))
    if not _skorch.is_net(inner):
        return estimator
    lines = [f"{name}={_value(value)}" for name, value in _skorch.changed_params(inner).items()]
    layers = [str(inner.module_)] if getattr(inner, "initialized_", False) else []
    return Box(type(inner).__name__, "frozen" if frozen else "", "\n".join([*lines, *layers]))


def _value(value) -> str:
    """Return a short form of a parameter: of classes and plain objects their name."""
    text = re.sub(r"<class '(?:[\w.]*\.)?(\w+)'>", r"\1", repr(value))
    text = re.sub(r"<(?:[\w.]*\.)?(\w+) object at 0x\w+>", r"\1", text)
    return textwrap.shorten(re.sub(r" at 0x\w+", "", text), 80, placeholder=" ...")


def _outcome(estimator) -> list[Box]:
    if hasattr(estimator, "verdict_"):
        return [_verdict_box(estimator)]
    if hasattr(estimator, "gallery_embeddings_"):
        n_items, n_components = estimator.gallery_embeddings_.shape
        details = f"metric={estimator.metric!r}"
        return [Box("gallery", f"{n_items} items, {n_components} components", details)]
    return []


def _verdict_box(estimator) -> Box:
    """Return what the guard decided, and about what."""
    done = estimator.verdict_.partition(":")[0]
    initial, best = estimator.initial_score_, estimator.best_score_
    lines = [
        *textwrap.wrap(estimator.verdict_, 60),
        "",
        f"initial score  {initial:.6g}",
        f"best score     {best:.6g}",
        f"observations   {estimator.n_observations_} of {estimator.max_observations}",
    ]
    return Box(done, f"{initial:.4g} \N{RIGHTWARDS ARROW} {best:.4g}", "\n".join(lines))
