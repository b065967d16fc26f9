"""Every example of a docstring runs, and prints what it says."""

import pytest

from tests.docs.code import REFERENCE, ROOT, examples, intro, run, run_example

pytestmark = [pytest.mark.tensorflow_only, pytest.mark.slow, pytest.mark.usefixtures("reader")]

PACKAGE = ROOT / "tf_robustcomp"
SOURCES = sorted(path for path in PACKAGE.rglob("*.py") if ">>>" in path.read_text())


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
def test_the_examples_of_docstrings_run(path, given):
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
