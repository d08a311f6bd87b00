"""How Sphinx builds the documentation; it needs the network only where Read the Docs builds it."""

import builtins
import os
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent))  # after an installed execnet

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

# Signatures with one parameter a line where they are longer; short names in the contents of a page.
python_maximum_signature_line_length = 80
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = f"execnet {version}"
# Links to edit a page, where whoever builds it says from which clone: Read the Docs does.
repository = os.environ.get("READTHEDOCS_GIT_CLONE_URL", "").removesuffix(".git")
if repository.startswith("https://"):
    html_theme_options = {
        "source_repository": repository,
        "source_branch": os.environ.get("READTHEDOCS_GIT_IDENTIFIER", "main"),
        "source_directory": "doc/",
    }
html_static_path = ["_static"]
html_css_files = ["execnet.css"]
html_copy_source = False
html_show_sourcelink = False
# Of a dialogue, what was typed is copied, without its prompts.
copybutton_prompt_text = r">>> |\.\.\. |\$ |> "
copybutton_prompt_is_regexp = True
