"""Every block of Python in README, pages and docstrings runs."""

import pytest

from tests.docs.code import (
    PAGES,
    REFERENCE,
    ROOT,
    blocks,
    cut_training,
    examples,
    intro,
    run,
    run_example,
    write_photograph,
)
from tf_robustcomp.utils import registry

pytestmark = [pytest.mark.tensorflow_only, pytest.mark.slow]

PACKAGE = ROOT / "tf_robustcomp"
SOURCES = sorted(path for path in PACKAGE.rglob("*.py") if ">>>" in path.read_text())
GIVEN = {  # page -> page of the reference whose names it takes
    "docs/pruning.md": "pruning",
    "docs/recipes.md": "pruning",
    "docs/smaller.md": "pruning",
    "docs/bounds.md": "bounds",
    "docs/photographs.md": "compression",
}


@pytest.fixture(autouse=True)
def reader(tmp_path, monkeypatch):
    """An empty folder with a photograph; variants that a page registers are gone afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.setattr(registry, "_classes", dict(registry._classes))
    write_photograph(tmp_path)
    cut_training(monkeypatch)


@pytest.mark.filterwarnings("ignore::UserWarning")  # of models trained on 64 examples
@pytest.mark.parametrize("page", [page for page in PAGES if "reference" not in page])
def test_the_code_of_a_page_runs(page):
    names = {"__name__": "page"}
    if page in GIVEN:
        run(intro(GIVEN[page]), names, f"docs/reference/{GIVEN[page]}.md")
    for number, block in enumerate(blocks(page), 1):
        run(block, names, f"{page}, block {number}")


@pytest.fixture(scope="module")
def given():
    """Names of the reference, by page: each introduction runs once."""
    return {}


def restored(names):
    """The names of a page, its model as it was."""
    model, weights, compiled = (names[name] for name in ("model", " weights", " compiled"))
    model.set_weights(weights)
    model.compile_from_config(compiled)
    return dict(names)


def room(path):
    parts = path.relative_to(PACKAGE).parts
    return REFERENCE[parts[0] if len(parts) > 1 else ""]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_the_examples_of_docstrings_run(path, given, monkeypatch):
    page = room(path)
    if page not in given:
        names = {"__name__": "page"}
        run(intro(page), names, page)
        names |= {" weights": names["model"].get_weights(), " compiled": names["model"].get_compile_config()}
        given[page] = names
    if page == "common":
        given[page]["model"].save("model.keras")
    for name, docstring in examples(path):
        run_example(docstring, restored(given[page]), f"{path.name}: {name}")


def test_no_page_names_code_that_its_reader_cannot_run():
    """A literal Ellipsis as an argument is no code."""
    for page in PAGES:
        for block in blocks(page):
            assert "(...)" not in block and "=..." not in block, page
