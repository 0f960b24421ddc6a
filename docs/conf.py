"""Sphinx configuration. The build needs no network, and neither does what it makes."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))
os.environ.setdefault("MPLBACKEND", "agg")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the tutorials' numbers do not depend on the machine
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import tnet

project = "tnet"
author = "The tnet authors"
copyright = "The tnet authors, Apache-2.0"
release = tnet.__version__
version = release

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "numpydoc",
    "sphinx_gallery.gen_gallery",
    "sphinxcontrib.bibtex",
    "myst_parser",
    "mathml",
    "front_door",
    "command_line",
    "measured_figures",
]
templates_path = ["_templates"]
exclude_patterns = ["_build", "_ext", "_templates", "inventories", "tutorials", "**/sg_execution_times.rst"]
root_doc = "index"
nitpicky = True

# Formulas
html_math_renderer = "mathml"
myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 3

# Docstrings
autosummary_generate = True
autodoc_typehints = "none"
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False
numpydoc_xref_param_type = False

# References: inventories/make.py says which names these files hold, and why they are here.
intersphinx_mapping = {
    "python": ("https://docs.python.org/3/", "inventories/python.inv"),
    "numpy": ("https://numpy.org/doc/stable/", "inventories/numpy.inv"),
    "scipy": ("https://docs.scipy.org/doc/scipy/", "inventories/scipy.inv"),
    "torch": ("https://docs.pytorch.org/docs/stable/", "inventories/torch.inv"),
}
bibtex_bibfiles = ["references.bib"]
bibtex_reference_style = "author_year"

# Tutorials: run at every build; one that raises, or warns, ends it.
sphinx_gallery_conf = {
    "examples_dirs": "tutorials",
    "gallery_dirs": "auto_tutorials",
    "filename_pattern": r"[/\\]plot_",
    "within_subsection_order": "FileNameSortKey",
    "abort_on_example_error": True,
    "download_all_examples": False,
    "write_computation_times": False,
    "show_memory": False,
    "min_reported_time": 0,
    "remove_config_comments": True,
    "backreferences_dir": None,
    "reference_url": {"tnet": None},
    "matplotlib_animations": False,
    "image_scrapers": ("matplotlib",),
    "capture_repr": ("_repr_html_", "__repr__"),
}
warnings.filterwarnings("ignore", message="Matplotlib is currently using agg", category=UserWarning)

# Pages
html_theme = "pydata_sphinx_theme"
html_title = f"tnet {release}"
html_static_path = ["_static"]
html_css_files = ["tnet.css"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "navigation_with_keys": False,
    "show_prev_next": False,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "navbar_end": ["theme-switcher"],
    "pygments_light_style": "tango",
    "pygments_dark_style": "github-dark",
}
html_sidebars = {"changelog": [], "references": []}
