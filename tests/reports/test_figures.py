"""Faults that readers of reports, tables and figures reported; names begin with the report's number."""

import csv
import itertools
import json
import re
import shutil

import numpy as np
import pytest

from tests.reports.conftest import ROOT
from tf_robustcomp import reproduce
from tf_robustcomp.evaluation import reconstructions
from tf_robustcomp.experiments import summary
from tf_robustcomp.utils import drawing

pytestmark = [pytest.mark.tensorflow_only, pytest.mark.slow]
# Machado, Oliveira, Fernandes 2009: linear RGB as two kinds of colour-blind readers see it.
SEEN = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
}


@pytest.fixture
def drawn(monkeypatch):
    """The figures that a test draws, still open."""
    figures = []
    monkeypatch.setattr(drawing, "save", lambda figure, *paths: figures.append(figure))
    yield figures
    drawing.pyplot().close("all")


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Folders of the committed studies with their reports written again, by study."""
    written = {}
    for study in reproduce.STUDIES:
        written[study] = shutil.copytree(ROOT / "results" / study, tmp_path_factory.mktemp("pages") / study)
        assert reproduce.main([study, f"--report={written[study]}"]) == 0
    return written


def tables(text):
    """Tables of a Markdown text, each a list of rows of cells."""
    for block in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
        yield [[cell.strip() for cell in line.strip("|\n").split("|")] for line in block.splitlines()]


def test_e1_accuracy_is_drawn_against_the_sparsity_reached_from_the_unpruned_network_on(drawn):
    with open(ROOT / "results/randomisation/figures/summary.csv", newline="") as file:
        rows = [{key: float(value) if value else "" for key, value in row.items()} for row in csv.DictReader(file)]
    for row in rows:
        row["sparsity"] *= 0.95  # a threshold that prunes less than its target
    summary.draw("figure.png", rows, summary.title(["data/cifar10_train.tfrecord"]))
    assert drawn[0].get_suptitle() == "trained on cifar10_train"  # E3
    assert "4,000 images" in drawn[0].axes[0].get_title()
    for axis in drawn[0].axes:
        for container in axis.containers:
            line = container.lines[0]
            label = float(container.get_label().rstrip(" %")) / 100
            reached = sorted(row["sparsity"] for row in rows if row["proportion_random"] == label)
            np.testing.assert_allclose(np.asarray(line.get_xdata(), float), reached)
            assert reached[0] == 0


def test_e1_the_report_says_which_thresholds_it_compares(pages):
    text = (pages["randomisation"] / "report.md").read_text()
    assert "published threshold is a quantile" in text and "ours at a sparsity with the published ones" in text
    assert "Sparsity reached" in text


def test_e2_every_table_of_means_has_its_number_of_images_and_errors(pages):
    text = (pages["robust"] / "report.md").read_text()
    measured = [table for table in tables(text) if table[0][0] == "compressor"]
    assert len(measured) >= 3 and all("images" in table[0] for table in measured)
    assert "mean over test images ± standard error" in text and "different numbers of test images" in text
    attacked = next(table for table in measured if "worst case" in table[0])
    column = attacked[0].index("worst case")
    assert all("±" in row[column] for row in attacked[2:])
    assert "4,000 images" in (pages["randomisation"] / "report.md").read_text()


@pytest.mark.parametrize("study", reproduce.STUDIES)
def test_e2_numbers_are_right_aligned_and_the_page_fits_a_phone_and_the_dark(study, pages):
    for table in tables((pages[study] / "report.md").read_text()):
        for column, rule in enumerate(table[1]):
            cells = [row[column] for row in table[2:]]
            numbers = [cell for cell in cells if re.fullmatch(r"[-\d.,]+( ± [\d.]+)?( %)?", cell)]
            assert (rule == "---:") or len(numbers) < len(cells), table[0][column]
    page = (pages[study] / "report.html").read_text()
    assert 'name="viewport"' in page and "prefers-color-scheme:dark" in page and ".scroll{overflow-x:auto}" in page
    assert page.count("<table") == page.count('<div class="scroll"><table')


def test_e3_lines_differ_by_marker_and_dashes_and_by_colours_that_everybody_sees():
    looks = [drawing.line(number) for number in range(8)]
    assert len({(look["marker"], look["linestyle"]) for look in looks}) == len(looks)

    def seen(colour, matrix):
        values = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
        turned = np.clip(np.array(matrix) @ linear, 0, 1)
        return np.where(turned <= 0.0031308, 12.92 * turned, 1.055 * turned ** (1 / 2.4) - 0.055)

    for matrix in SEEN.values():
        for one, other in itertools.combinations([look["color"] for look in looks[:4]], 2):
            assert np.linalg.norm(seen(one, matrix) - seen(other, matrix)) > 0.15, (one, other)


def test_e3_labels_of_reconstructions_stay_inside_and_apart_and_the_title_says_what_is_shown(drawn, tmp_path):
    labels = ["standard", "min-max at gamma 1 against a converged attack", "structured_groupshift_rotation_of_seed_12"]
    images = np.random.default_rng(0).uniform(size=(2, 16, 16, 3)).astype("float32")
    reconstructions.draw(tmp_path / "r.png", {label: lambda x: 0.9 * x for label in labels}, images, title="digits, 2")
    figure = drawn[0]
    figure.canvas.draw()
    boxes = [figure.axes[row * 6].yaxis.label.get_window_extent() for row in range(4)]
    for box in boxes:
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1
    for above, below in itertools.pairwise(boxes):
        assert below.y1 <= above.y0
    assert figure.get_suptitle() == "digits, 2"
    assert figure.axes[0].images[0].get_array().shape == (16, 16, 3)  # B10: colours are drawn in colour


def test_e7_notebooks_run_after_the_demo_and_an_extra_installs_them():
    setup = (ROOT / "setup.cfg").read_text()
    assert "notebooks =\n    jupyterlab" in setup
    for name in ("eval_wass_ball", "eval_rotations"):
        cells = json.loads((ROOT / f"notebooks/{name}.ipynb").read_text())["cells"]
        assert any("../demo-out/data/standard" in "".join(cell["source"]) for cell in cells)
