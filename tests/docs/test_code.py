"""Every block of Python in README and pages runs."""

import pytest

from tests.docs.code import PAGES, blocks, intro, run

pytestmark = [pytest.mark.tensorflow_only, pytest.mark.slow, pytest.mark.usefixtures("reader")]

GIVEN = {  # page -> page of the reference whose names it takes
    "docs/pruning.md": "pruning",
    "docs/recipes.md": "pruning",
    "docs/smaller.md": "pruning",
    "docs/bounds.md": "bounds",
    "docs/photographs.md": "compression",
}


@pytest.mark.filterwarnings("ignore::UserWarning")  # of models trained on 64 examples
@pytest.mark.parametrize("page", [page for page in PAGES if "reference" not in page])
def test_the_code_of_a_page_runs(page):
    names = {"__name__": "page"}
    if page in GIVEN:
        run(intro(GIVEN[page]), names, f"docs/reference/{GIVEN[page]}.md")
    for number, block in enumerate(blocks(page), 1):
        run(block, names, f"{page}, block {number}")


def test_no_page_names_code_that_its_reader_cannot_run():
    """A literal Ellipsis as an argument is no code."""
    for page in PAGES:
        for block in blocks(page):
            assert "(...)" not in block and "=..." not in block, page
