"""Settings of the site; `make docs` builds it, strictly, from the pages, results and notebooks of the repository."""

import importlib.metadata
import os
import re

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

project = "tf_robustcomp"
author = copyright = "The tf_robustcomp developers"
version = release = importlib.metadata.version("tf_robustcomp")

# The source folder is the whole repository, so that links between pages, results and notebooks are those of the files.
root_doc = "docs/index"
include_patterns = ["docs/**", "results/**", "notebooks/*.ipynb", "CHANGELOG.md", "CONTRIBUTING.md"]
exclude_patterns = [".venv*", "**/.*", "build"]
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon", "sphinx_copybutton"]

nb_execution_mode = "off"  # they are committed with what they gave, and a test runs them
myst_heading_anchors = 3
myst_links_external_new_tab = False
suppress_warnings = ["myst.header"]  # parts of reports begin below the first level

autosummary_generate = False
autodoc_typehints = "none"  # docstrings say type, shape, range and unit
autodoc_inherit_docstrings = False
autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
napoleon_use_rtype = napoleon_use_param = False
napoleon_use_ivar = True
default_role = "py:obj"  # `DNS` in a docstring is a link where there is such a name, and code elsewhere
add_module_names = False
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = "tf_robustcomp"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False
html_additional_pages = {"index": "to_docs.html"}
templates_path = ["templates"]
html_theme_options = {"navigation_with_keys": True}
pygments_style, pygments_dark_style = "a11y-high-contrast-light", "a11y-high-contrast-dark"


def as_text(app, what, name, object_, options, lines):
    """Escape, outside of code, what docstrings write as mathematics and RST would read as markup."""
    for index, line in enumerate(lines):
        if line.lstrip().startswith((">>>", "...")):
            continue
        parts = re.split(r"(``[^`]*``|`[^`]*`|\*\*[^*]+\*\*)", line)
        parts[::2] = [re.sub(r"([|*]|_(?=\W|$))", r"\\\1", part) for part in parts[::2]]
        lines[index] = "".join(parts)


def without_fields(app, what, name, object_, skip, options):
    """Leave out the fields of named tuples and data classes, which the class's docstring lists."""
    return True if type(object_).__name__ in ("_tuplegetter", "member_descriptor") else None


def setup(app):
    """Connect the two functions above."""
    app.connect("autodoc-process-docstring", as_text, priority=400)
    app.connect("autodoc-skip-member", without_fields)
