"""Every public object is documented as numpydoc asks."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

import pytest

import sk_metricopt

validate = pytest.importorskip("numpydoc.validate").validate

IGNORED = {
    "GL01": "ruff's docstring style: the summary starts on the line of the opening quotes",
    "ES01": "a one-line summary is often all there is to say",
    "SA01": "a See Also only where there is something to see",
    "PR07": "a parameter may say it all by its name and type: X : ndarray of shape (n, d)",
    "RT03": "and so may what is returned",
    "RT02": "a returned value may have a name, as in scikit-learn",
}
# The class docstring shows the use of its members, and nobody makes an exception by hand.
IGNORED_IN_MEMBERS = IGNORED | {"EX01": "no Examples"}
# The base class documents the contract; an override only says what is particular to it.
IGNORED_IN_OVERRIDES = IGNORED_IN_MEMBERS | {
    "PR01": "parameters not documented",
    "RT01": "no Returns",
    "YD01": "no Yields",
}


def public_modules():
    """Yield the package and each module whose path has no private part."""
    yield sk_metricopt
    for info in pkgutil.walk_packages(sk_metricopt.__path__, prefix="sk_metricopt."):
        if not any(part.startswith("_") for part in info.name.split(".")):
            yield importlib.import_module(info.name)


def public_members(cls):
    """Yield the public methods and properties that a class defines, and the codes ignored."""
    for name, member in vars(cls).items():
        if name.startswith("_") or not (inspect.isroutine(member) or isinstance(member, property)):
            continue
        overrides = any(hasattr(base, name) for base in cls.__bases__)
        if member.__doc__ or not overrides:  # an override may also leave it all to the base
            yield name, IGNORED_IN_OVERRIDES if overrides else IGNORED_IN_MEMBERS


def public_objects():
    """Yield each public class, function, method and property, and the codes ignored for it."""
    for module in public_modules():
        for thing in (getattr(module, name) for name in module.__all__):
            path = f"{thing.__module__}.{thing.__qualname__}" if callable(thing) else ""
            if inspect.isroutine(thing):
                yield path, IGNORED
            elif inspect.isclass(thing):
                yield path, IGNORED_IN_MEMBERS if issubclass(thing, Exception) else IGNORED
                for name, ignored in public_members(thing):
                    yield f"{path}.{name}", ignored


MODULES = list(public_modules())
OBJECTS = dict(public_objects())


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_public_module_says_what_it_is_and_offers(module):
    assert module.__doc__
    assert all(hasattr(module, name) for name in module.__all__)


@pytest.mark.parametrize("path", OBJECTS)
def test_docstring_is_numpydoc(path):
    found = validate(path)["errors"]
    errors = [f"{code}: {text}" for code, text in found if code not in OBJECTS[path]]
    assert not errors, "\n".join([path, *errors])
