"""Settings of the site: `make docs` builds it, with warnings as errors and without a network.

The source folder is the whole repository, so that pages link to each other, to CONTRIBUTING and to results of
benches as they do in a checkout; `include_patterns` says what is taken.
"""

from __future__ import annotations

import sys
from pathlib import Path

import dsv3_numerics

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "dsv3_numerics"
author = "The dsv3_numerics developers"
version = release = dsv3_numerics.__version__

extensions = ["sphinx.ext.autodoc", "numpydoc", "myst_nb", "format_values", "public_names"]
root_doc = "docs/index"
include_patterns = [
    "docs/**",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "SECURITY.md",
    "tests/README.md",
    "tests/*/RESULT.md",
    "bench/README.md",
    "bench/austen/README.md",
    "bench/results/*.md",
    "bench/results/*/*.md",
]
exclude_patterns = ["docs/_*", "docs/_*/**"]
source_suffix = {".md": "myst-nb"}

# Pages are those of the repository: their headings get the anchors that a link within a page expects.
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 60

default_role = "py:obj"  # single backticks in docstrings: a link where the name is one of ours
add_module_names = False
autodoc_typehints = "none"  # numpydoc's sections say it
autodoc_preserve_defaults = True
numpydoc_show_class_members = False
numpydoc_xref_param_type = False
python_maximum_signature_line_length = 88

html_theme = "furo"
html_title = f"dsv3_numerics {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_extra_path = ["_extra"]
html_show_sphinx = False
html_show_copyright = False
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}
