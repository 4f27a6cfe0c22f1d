"""Settings of the documentation: ``sphinx-build -W --keep-going docs docs/_build/html``."""

import os
import sys
from pathlib import Path

# models/ is not part of the package: autodoc finds it here, the kernels of notebooks in PYTHONPATH.
ROOT = str(Path(__file__).parents[1])
sys.path.insert(0, ROOT)
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (ROOT, os.environ.get("PYTHONPATH"))))

from parsample.version import __version__  # noqa: E402 - found in ROOT

project, author, copyright = "parsample", "The parsample developers", "The parsample developers"  # noqa: A001
version = release = __version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build", ".jupyter_cache"]

# Docstrings are of numpy's kind; types stand in the signatures.
napoleon_google_docstring, napoleon_numpy_docstring = False, True
napoleon_use_ivar = True
autodoc_typehints = "none"
autodoc_member_order = "bysource"
default_role = "code"

myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3

# Pages with code cells run once and are kept until they change.
nb_execution_mode = "cache"
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_merge_streams = True

html_theme = "furo"
html_title = f"parsample {release}"
html_static_path, html_css_files = ["static"], ["tables.css"]
