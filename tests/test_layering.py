"""Who may import whom. A new file fails here until it is given a level: decide, then add it."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "sk_metricopt"
MAX_LINES = 500

# A room is a top-level module or sub-package. Inside one, modules may import each other.
LEVELS = {
    "exceptions": 0,
    "_lazy": 0,
    "_optional": 0,
    "_random": 0,
    "_stopping": 0,
    "_identity": 0,
    "_clock": 0,
    "_drawing": 0,
    "_journal": 1,
    "_progress": 0,
    "_validation": 0,
    "adapters": 1,
    "_hosts": 1,
    "_split": 1,
    "_weighting": 1,
    "_basis": 1,
    "_elicitation": 2,
    "_guard": 2,
    "_plan": 1,
    "_adapted": 1,
    "_skorch": 1,
    "_embedding_net": 1,
    "_search": 1,
    "_scoring": 2,
    "_candidate": 2,
    "_asking": 2,
    "_observation": 2,
    "_checkpoint": 6,
    "metrics": 2,
    "_resampling": 2,
    "_shift": 2,
    "_gallery_index": 2,
    "_onnx_mixin": 2,
    "_html": 2,
    "_retriever": 3,
    "value_functions": 3,
    "_selection": 3,
    "exploration": 4,
    "_tasks": 4,
    "_guidance": 4,
    "callbacks": 4,
    "_observer": 4,
    "_smoothing": 4,
    "_judge": 5,
    "_roles": 5,
    "_frank_wolfe": 4,
    "_held_out": 4,
    "_post_shifting": 5,
    "_results": 5,
    "_defaults": 5,
    "_metric_estimator": 5,
    "_delegation": 6,
    "_post_shift": 6,
    "_finetuning": 5,
    "_finetuner": 6,
    "_told": 5,
    "_session": 7,
    "export": 7,  # a side door on top of the estimators
    "inspection": 7,
    "_display": 8,
    "testing": 7,
    "__init__": 7,
    "_command_line": 8,
    "__main__": 9,
}
# Rooms of one level that may still import each other, as (importer, imported).
SIBLINGS = {
    ("_hosts", "adapters"),
    ("_split", "adapters"),
    ("_adapted", "adapters"),
    ("_adapted", "_hosts"),
    ("_adapted", "_split"),
    ("_adapted", "_plan"),
    ("_adapted", "_skorch"),
    ("_embedding_net", "_skorch"),
    ("_embedding_net", "_search"),
    ("_candidate", "_scoring"),
    ("_asking", "_scoring"),
    ("_observation", "_asking"),
    ("_observation", "_scoring"),
    ("_guidance", "exploration"),
    ("_tasks", "exploration"),
    ("_observer", "_tasks"),
    ("_retriever", "metrics"),
    ("_smoothing", "_observer"),
    ("_finetuning", "_judge"),
    ("_results", "_judge"),
    ("_results", "_roles"),
    ("__init__", "_session"),
    ("__init__", "_display"),
    ("_finetuner", "_checkpoint"),
    ("_finetuner", "_delegation"),
    ("_finetuner", "_post_shift"),
    ("_onnx_mixin", "export"),  # the one way up: imported when a method is called
}
# Libraries that only these rooms may know.
RESERVED: dict[str, set] = {
    "matplotlib": set(),  # by import_optional_dependency, when something is drawn
    "onnx": {"export"},
    "onnx_ir": {"export"},
    "onnxruntime": {"export"},
    "onnxscript": {"export"},
    "skl2onnx": {"export"},
    "skorch": {"_skorch", "_embedding_net", "_finetuner", "callbacks", "export"},
}


def module_name(path: Path) -> str:
    """Dotted name below the package; a sub-package goes by its folder."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


MODULES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}


def room(module: str) -> str:
    return module.partition(".")[0]


def imports(module: str) -> set[str]:
    """Absolute dotted names that a module imports, anywhere in the file."""
    path = MODULES[module]
    folder = ["sk_metricopt", *path.relative_to(ROOT).parent.parts]
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = folder[: len(folder) + 1 - node.level] if node.level else []
            source = ".".join([*base, *filter(None, [node.module])])
            names |= {f"{source}.{alias.name}" for alias in node.names}
    return names


def internal(module: str) -> set[str]:
    """Modules of ours that a module imports."""
    found = set()
    for name in imports(module):
        if name.partition(".")[0] == "sk_metricopt":
            target = name.partition(".")[2]
            while target and target not in MODULES:  # from a module down to a name in it
                target = target.rpartition(".")[0]
            found.add(target or "__init__")
    return found - {module}


def test_every_module_has_a_level():
    assert {room(module) for module in MODULES} <= LEVELS.keys(), "give each new room a level"


@pytest.mark.parametrize("module", MODULES)
def test_module_imports_only_what_lies_below(module):
    own = room(module)
    above = {
        target
        for target in internal(module)
        if room(target) != own
        and LEVELS[room(target)] >= LEVELS[own]
        and (own, room(target)) not in SIBLINGS
    }
    assert not above, f"{module} (L{LEVELS[own]}) may not import {sorted(above)}"


@pytest.mark.parametrize("module", MODULES)
def test_only_the_rooms_named_import_a_reserved_library(module):
    libraries = {name.partition(".")[0] for name in imports(module)}
    wrong = {lib for lib in libraries & RESERVED.keys() if room(module) not in RESERVED[lib]}
    assert not wrong, f"{module} may not import {sorted(wrong)}"


def test_no_import_cycles():
    graph = {module: internal(module) for module in MODULES}
    graph["_onnx_mixin"] = set()  # its way up is taken when a method is called, not at import
    assert list(TopologicalSorter(graph).static_order())  # raises CycleError with the path


@pytest.mark.parametrize("module", MODULES)
def test_module_is_short(module):
    assert len(MODULES[module].read_text("utf-8").splitlines()) <= MAX_LINES
