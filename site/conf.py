"""Settings of the site that Sphinx builds: `python -m sphinx -W --keep-going -c site . build/site`.

Its pages are the README, `docs/`, `studies/`, `notebooks/` with their stored outputs, and
`site/api/`, which takes the docstrings. Nothing is fetched while it is built.
"""

import sys
from pathlib import Path

SITE = Path(__file__).parent
ROOT = SITE.parent
sys.path[:0] = [str(SITE), str(ROOT)]

import cvvae_jax  # noqa: E402

project = "cvvae_jax"
author = "The cvvae_jax authors"
copyright = "The cvvae_jax authors, Apache-2.0"
release = version = cvvae_jax.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "navigation",
    "source_pages",
]
root_doc = "README"
include_patterns = ["*.md", "docs/**.md", "notebooks/*.ipynb", "site/api/*.md", "studies/**.md"]
# Folders in which no page is looked for.
exclude_patterns = [".*", "**/.*", "build", "dist", "runs", "tests", "**/__pycache__"]

# Anchors of headings as GitHub makes them, so that a link to a section is checked here as well.
myst_heading_anchors = 4
myst_links_external_new_tab = True
# The stored outputs are shown; the slow tests run the notebooks.
nb_execution_mode = "off"
nb_merge_streams = True

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
toc_object_entries_show_parents = "hide"
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True
# Names between single backticks, which the docstrings have as Markdown does.
default_role = "literal"
napoleon_numpy_docstring = False
napoleon_use_rtype = False

html_theme = "sphinx_book_theme"
html_title = "cvvae_jax"
html_copy_source = False
html_static_path = ["static"]
html_css_files = ["style.css"]
templates_path = ["templates"]
html_additional_pages = {"index": "home.html"}
html_context = {"default_mode": "auto"}
html_theme_options = {
    "home_page_in_toc": True,
    # The search field is in the sidebar.
    "navbar_persistent": [],
    "show_navbar_depth": 1,
    "show_toc_level": 2,
    "use_download_button": False,
    "use_fullscreen_button": False,
}
