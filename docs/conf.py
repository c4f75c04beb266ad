"""Sphinx settings: MyST pages, the API from the docstrings, the furo theme."""

from importlib.metadata import version as installed

project = "polarpix"
copyright = "the polarpix authors, Apache-2.0"
version = release = installed("polarpix")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]

myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True}
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = "polarpix"
