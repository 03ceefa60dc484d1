"""Configuration of Sphinx, which builds the documentation site: `tox -e docs`."""

import sys
from pathlib import Path

from mil_toolkit import __version__

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "mil_toolkit"
author = copyright = "The mil_toolkit authors"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "site_pages"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_ext"]
default_role = "literal"  # docstrings have code between single backticks
smartquotes = False  # or the two hyphens of an option would become a dash
highlight_language = "none"

# Pages whose text is a file of the repository outside docs/; on GitHub, they only link to it.
repository_pages = {
    "project/benchmarks": "benchmarks/README.md",
    "project/changelog": "CHANGELOG.md",
    "project/conduct": "CODE_OF_CONDUCT.md",
    "project/contributing": ".github/CONTRIBUTING.md",
    "project/defaults": "benchmarks/defaults.md",
    "project/extraction": "benchmarks/extraction.md",
    "project/security": "SECURITY.md",
}

myst_heading_anchors = 4  # the same anchors as on GitHub
# Types in signatures are not linked: most are internal, or of packages whose index is not at hand.
nitpick_ignore_regex = [("py:class", ".*")]
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True

html_theme = "furo"
html_title = f"mil_toolkit {__version__}"
html_copy_source = False
html_show_sphinx = False
