"""Tests of sk_metricopt._optional."""

from __future__ import annotations

import pytest

from sk_metricopt._optional import import_optional_dependency


def test_dependency_that_is_installed_but_broken_is_not_called_missing(tmp_path, monkeypatch):
    (tmp_path / "broken_dependency.py").write_text("import no_such_library")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match="cannot be imported: No module named 'no_such_library'"):
        import_optional_dependency("broken_dependency", "onnx")
