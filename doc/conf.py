"""How Sphinx builds the documentation: stock theme, nothing from the network."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent))  # behind an installed execnet

import execnet

project = "execnet"
author = "the execnet authors"
copyright = author
release = execnet.__version__
version = ".".join(release.split(".")[:2])

extensions = ["sphinx.ext.autodoc"]
autodoc_member_order = "bysource"
autodoc_typehints = "none"
exclude_patterns = ["_build"]
nitpicky = False
html_theme = "alabaster"
html_theme_options = {
    "description": "Python programs that run in many interpreters",
    "page_width": "1080px",
    "show_powered_by": False,
}
html_copy_source = False
