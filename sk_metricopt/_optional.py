"""Optional dependencies: imported where they are needed, named with their extra where missing."""

from __future__ import annotations

import importlib
from types import ModuleType


def import_optional_dependency(name: str, extra: str) -> ModuleType:
    """Import a module that only some users need.

    Parameters
    ----------
    name : str
        Name of the module.
    extra : str
        Extra, or comma separated extras, of sk_metricopt that install it.

    Returns
    -------
    module
        The imported module.

    Raises
    ------
    ImportError
        If the module is missing or broken. The message says what to install.

    Examples
    --------
    >>> from sk_metricopt._optional import import_optional_dependency
    >>> import_optional_dependency("json", "onnx").dumps([1])
    '[1]'
    >>> import_optional_dependency("no_such_runtime", "onnx,cpu")
    Traceback (most recent call last):
        ...
    ImportError: Missing optional dependency 'no_such_runtime'. Install it with: pip install
    "sk_metricopt[onnx,cpu]"
    """
    try:
        return importlib.import_module(name)
    except ImportError as exc:
        missing = isinstance(exc, ModuleNotFoundError) and exc.name == name
        problem = (
            f"Missing optional dependency '{name}'."
            if missing
            else f"The optional dependency '{name}' is installed but cannot be imported: {exc}."
        )
        raise ImportError(
            f'{problem} Install it with: pip install "sk_metricopt[{extra}]"', name=name
        ) from exc
