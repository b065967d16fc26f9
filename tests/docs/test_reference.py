"""Every exported name is in the reference, has an example, is typed, and is known to editors."""

import ast
import inspect
import re
import subprocess
import sys
import tomllib
from configparser import ConfigParser

import nbformat
import pytest

import tf_robustcomp as rc
from tests.docs.code import ROOT

REFERENCE = "".join(path.read_text() for path in (ROOT / "docs" / "reference").glob("*.md"))
STUB = ast.parse((ROOT / "tf_robustcomp" / "__init__.pyi").read_text())
RESULTS = {  # what functions return: their examples show these
    "AimCurve",
    "AttackResult",
    "CertifiedCurve",
    "CorruptionCurve",
    "DualEstimate",
    "IterativePruningReport",
    "ModelReport",
    "PruningRound",
    "RateAllocation",
    "SensitivityReport",
    "ShiftCurve",
    "SparsityReport",
    "WorstCaseCurve",
    "WorstRotations",
}
HANDED_OVER = {"CodeSearch", "LayerCall", "Proposal", "Space", "StepContext"}  # to hooks, whose classes have examples
ERRORS = {"BitstreamError", "DataError", "Error", "InvalidArgument", "RunError"}  # raised, never made by users
WITHOUT = RESULTS | HANDED_OVER | ERRORS | {"__version__"}


def described(page=REFERENCE):
    return set(re.findall(r"^\.\. (?:auto(?:class|exception|function)|py:data):: (\w+)$", page, re.MULTILINE))


def test_every_public_name_is_in_the_reference_and_nothing_else():
    assert described() == {*rc.__all__, "load_all"}


def test_every_page_of_the_reference_lists_what_it_describes():
    for path in (ROOT / "docs" / "reference").glob("*.md"):
        listed = set(re.findall(r"^   (\w+)$", path.read_text(), re.MULTILINE))
        assert listed == described(path.read_text()) - {"__version__"}, path.name


@pytest.mark.parametrize("name", [name for name in rc.__all__ if name not in WITHOUT])
def test_every_public_name_has_an_example(name):
    assert ">>>" in inspect.getdoc(getattr(rc, name)).split("Example:")[1]


def test_names_without_an_example_are_public_and_have_none():
    assert set(rc.__all__) >= WITHOUT
    assert not [name for name in WITHOUT if ">>>" in (getattr(rc, name).__doc__ or "")]


def test_the_stub_declares_what_the_package_exports():
    """Editors and type checkers read the stub; it is also what the lazy package loads from."""
    imported = [alias.asname for node in STUB.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    own = [node.name for node in STUB.body if isinstance(node, ast.FunctionDef)]
    own += [node.target.id for node in STUB.body if isinstance(node, ast.AnnAssign)]
    assert sorted([*imported, *own]) == sorted([*rc.__all__, "load_all"])
    assert set(rc.__all__) <= set(dir(rc))
    for node in STUB.body:
        if isinstance(node, ast.ImportFrom):
            assert all(alias.name == alias.asname for alias in node.names)


def test_every_public_function_is_annotated_whole():
    for name in set(rc.__all__) - {"__version__"}:
        value = getattr(rc, name)
        for function in [value] if inspect.isfunction(value) else [value.__dict__.get("__init__")]:
            if function is None or not inspect.isfunction(function) or function.__module__ == "dataclasses":
                continue
            parameters = list(inspect.signature(function).parameters.values())[0 if inspect.isfunction(value) else 1 :]
            bare = [one.name for one in parameters if one.annotation is one.empty]
            assert not bare and "return" in function.__annotations__, (name, bare)


@pytest.mark.slow
def test_help_shows_the_docstring_and_the_arguments():
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import pydoc, tf_robustcomp as rc; print(pydoc.render_doc(rc.DNS, renderer=pydoc.plaintext))",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "class DNS" in done.stdout and "Dynamic Network Surgery" in done.stdout and "Example:" in done.stdout


@pytest.mark.slow
def test_the_public_surface_passes_strict_type_checks(tmp_path):
    words = ["--strict", "--follow-imports=silent", "--config-file", ROOT / "setup.cfg", "--cache-dir", tmp_path]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *words, ROOT / "tests" / "docs" / "surface.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


def test_the_version_stands_in_one_place():
    parser = ConfigParser()
    parser.read(ROOT / "setup.cfg")
    version = parser["metadata"]["version"]
    assert rc.__version__ == version
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text()
    assert "version" not in tomllib.loads((ROOT / "pyproject.toml").read_text()).get("project", {})


def test_every_page_and_notebook_is_on_the_site():
    """A page that no table of contents names is found by nobody."""
    index = (ROOT / "docs" / "index.md").read_text() + (ROOT / "docs" / "benchmarks.md").read_text()
    for path in ROOT.glob("docs/*.md"):
        assert path.stem == "index" or re.search(rf"(^|<){path.stem}>?$", index, re.MULTILINE), path.name
    for path in ROOT.glob("notebooks/*.ipynb"):
        assert f"<../notebooks/{path.stem}>\n" in index


@pytest.mark.parametrize("path", sorted(ROOT.glob("notebooks/*.ipynb")), ids=lambda path: path.stem)
def test_notebooks_open_with_what_one_will_see(path):
    first = nbformat.read(path, as_version=4).cells[0]
    title, _, text = first.source.partition("\n")
    assert first.cell_type == "markdown" and title.startswith("# ") and len(text.strip()) > 40


def test_pictures_have_texts():
    for path in (ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("results/**/*.md")):
        assert not re.findall(r"!\[\s*\]", path.read_text()), path


@pytest.mark.slow
def test_the_pictures_of_the_site_are_those_of_the_program(tmp_path):
    from tools import draw_docs

    assert draw_docs.main(["--out", str(tmp_path)]) == 0
    drawn = {path.name for path in tmp_path.iterdir()}
    assert drawn == {path.name for path in (ROOT / "docs" / "figures").iterdir()}
    page = (ROOT / "docs" / "how_it_works.md").read_text()
    assert drawn == set(re.findall(r"figures/(\w+\.svg)", page))
