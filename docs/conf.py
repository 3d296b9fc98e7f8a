"""The documentation site: ``make docs`` writes it to ``var/site`` and fails on any warning."""

project = "Isobar"
author = "The Isobar developers"
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "sphinx_copybutton",
]
html_theme = "furo"
html_title = "Isobar"
html_static_path = []
exclude_patterns = ["site"]

# Pages link to headings of one another.
myst_heading_anchors = 4
# Notebooks are shown as a test executed them; see `make notebooks`.
nb_execution_mode = "off"
suppress_warnings = []
nitpicky = False
autodoc_typehints = "none"
numpydoc_show_class_members = False
pygments_style = "friendly"
pygments_dark_style = "native"
