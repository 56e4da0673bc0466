"""How Sphinx builds the site: `make docs`, or `make docs-quick` without running the gallery.

Nothing is fetched: there is no intersphinx, and examples that need data of their own are shown
without being run.
"""

from __future__ import annotations

import os
import re
from importlib import import_module
from pathlib import Path

from sk_metricopt import __version__

EXAMPLES = Path(__file__).parents[1] / "examples"

# Shown, not run.
NOT_RUN = {
    "plot_omniglot_retrieval": "reads a data set that is not part of the project, for minutes",
    "plot_text_retrieval": "needs a package of 80 MB that holds a sentence transformer",
}

if not os.environ.get("SK_METRICOPT_DATA_HOME"):
    NOT_RUN |= {
        "plot_fairness_groups": "reads a data set that is not part of the project",
        "plot_ordinal_kappa": "reads a data set that is not part of the project",
    }

project = "sk_metricopt"
author = "sk_metricopt developers"
copyright = author
version = release = __version__

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "_templates"]
templates_path = ["_templates"]
nitpicky = True
# There is no intersphinx to find them by.
nitpick_ignore_regex = [
    ("py:.*", r"(faiss|joblib|numpy|onnx|pandas|skl2onnx|sklearn|skorch|torch)\..*"),
]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autosummary_generate = True
toc_object_entries_show_parents = "hide"
autodoc_typehints = "none"  # numpydoc's sections say more
default_role = "literal"
numpydoc_show_class_members = False  # the class template lists them
numpydoc_class_members_toctree = False

sphinx_gallery_conf = {
    "examples_dirs": str(EXAMPLES),
    "gallery_dirs": "auto_examples",
    "backreferences_dir": "generated/backreferences",
    "doc_module": ("sk_metricopt",),
    "reference_url": {"sk_metricopt": None},
    "filename_pattern": rf"/plot_(?!{'|'.join(name[5:] for name in NOT_RUN)})",
    "ignore_pattern": r"(^|/)(?!plot_)[^/]*\.py$",
    "plot_gallery": os.environ.get("DOCS_GALLERY", "1") != "0",
    "within_subsection_order": "FileNameSortKey",
    "default_thumb_file": str(Path(__file__).parent / "_static" / "no_figure.svg"),
    "download_all_examples": False,
    "show_signature": False,
    "write_computation_times": False,
    "remove_config_comments": True,
}


def _is_property(module: str, name: str, attribute: str) -> bool:
    """Whether an attribute is a property: fields of dataclasses are told of as parameters."""
    return isinstance(getattr(getattr(import_module(module), name), attribute, None), property)


autosummary_context = {"is_property": _is_property}
suppress_warnings = ["config.cache"]  # of the function above, which is the same in every build

html_theme = "pydata_sphinx_theme"
html_title = "sk_metricopt"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "logo": {"text": "sk_metricopt"},
    "header_links_before_dropdown": 7,
    "navigation_with_keys": False,
    "footer_start": ["copyright"],
    "footer_end": ["theme-version"],
    "secondary_sidebar_items": ["page-toc"],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
html_sidebars = {"index": []}

# Pages are read on code hosts too, where a link leads to the file itself.
_FILES = {
    "../README.md": "index.md",
    "../CHANGELOG.md": "changelog.md",
    "../CONTRIBUTING.md": "contributing.md",
    "../SECURITY.md": "security.md",
    "../examples/GALLERY_HEADER.rst": "auto_examples/index.rst",
    "../examples/quickstart.py": "quickstart.md",
}


def _to_site(match: re.Match) -> str:
    up, target = match.groups()
    if target.startswith("../examples/plot_"):
        page = f"auto_examples/{Path(target).stem}.rst"
    elif target in _FILES:
        page = _FILES[target]
    else:
        return match.group()
    return f"]({up}{page})"


def link_to_site(app, docname: str, source: list[str]) -> None:
    """Have links to files of the repository lead to the pages that show them."""
    source[0] = re.sub(r"\]\(((?:\.\./)*)(\.\./[^)#\s]+)\)", _to_site, source[0])


def setup(app) -> None:
    """Register what is said above; called by Sphinx."""
    app.connect("source-read", link_to_site)
