"""How Sphinx builds the documentation; it needs the network only where Read the Docs builds it."""

import builtins
import os
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent))  # behind an installed execnet

import execnet

project = "execnet"
author = "the execnet authors"
copyright = author
release = execnet.__version__
version = ".".join(release.split(".")[:2])

extensions = ["sphinx.ext.intersphinx", "sphinx.ext.viewcode", "sphinx_copybutton"]
exclude_patterns = ["_build"]

# Names of Python's own are links where its inventory can be fetched, and plain text elsewhere.
intersphinx_mapping = {"python": ("https://docs.python.org/3", None)} if os.environ.get("READTHEDOCS") else {}
nitpicky = True
nitpick_ignore = [(f"py:{role}", name) for role in ("class", "exc") for name in dir(builtins)]
nitpick_ignore += [("py:class", name) for name in ("ExecModel", "Iterable")]

html_theme = "furo"
html_title = f"execnet {version}"
html_theme_options = {"sidebar_hide_name": False}
html_copy_source = False
html_show_sourcelink = False
pygments_style = "sphinx"
pygments_dark_style = "monokai"
# Prompts, output and tracebacks are not copied.
copybutton_exclude = ".linenos, .gp, .go, .gt, .gr"
