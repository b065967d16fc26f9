"""Code of pages and docstrings: find it, and run it as a reader would, on the embedded digits.

Trainings are cut to two epochs of 32 examples, slices to 16, rounds to two and attacks to their first price;
``DOCS=full`` cuts nothing.
"""

import ast
import doctest
import os
import re
from pathlib import Path

import keras
from PIL import Image
from sklearn.datasets import load_sample_image

ROOT = Path(__file__).parents[2]
FULL = os.environ.get("DOCS") == "full"
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("results/**/*.md"))
    if "```python" in path.read_text()
)
CUTS = ((r"\[:\d{2,}\]", "[:16]"), (r"\brounds=\d+", "rounds=2"), (r"\bgammas=\[([^],]+)[^]]*\]", r"gammas=[\1]"))
REFERENCE = {"pruning": "pruning", "networks": "bounds", "bounds": "bounds", "data": "bounds"}  # folder -> page
REFERENCE |= dict.fromkeys(("adversaries", "evaluation"), "evaluation") | {"compression": "compression"}
REFERENCE |= {"backend": "compression", "utils": "common", "": "common"}


def blocks(page: str) -> list[str]:
    """Return the blocks of Python of a page."""
    return re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)


def intro(name: str) -> str:
    """Return the block with which a page of the reference begins."""
    return blocks(f"docs/reference/{name}.md")[0]


def examples(path: Path) -> list[tuple[str, str]]:
    """Return (name, docstring) of what has an example in a source file."""
    found = []

    def visit(node, prefix):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef | ast.FunctionDef):
                name = f"{prefix}{child.name}"
                if ">>>" in (ast.get_docstring(child) or ""):
                    found.append((name, ast.get_docstring(child)))
                visit(child, f"{name}.")

    visit(ast.parse(path.read_text()), "")
    return found


def run(code: str, names: dict, where: str) -> None:
    """Run a block; an error names the page."""
    for pattern, less in () if FULL else CUTS:
        code = re.sub(pattern, less, code)
    exec(compile(code, where, "exec"), names)


def run_example(docstring: str, names: dict, where: str) -> None:
    """Run the example of a docstring; what it says that it prints must be so."""
    for example in doctest.DocTestParser().get_examples(docstring):
        if not example.want:
            run(example.source, names, where)
            continue
        value = repr(eval(compile(example.source.strip(), where, "eval"), names))
        assert value == example.want.strip(), f"{where}: {example.source.strip()} gives {value}"


def cut_training(monkeypatch) -> None:
    """Let ``fit`` see 32 examples, at most twice, and print nothing."""
    fit = keras.Model.fit

    def short(self, x=None, y=None, *, epochs=1, **kwargs):
        if hasattr(x, "shape") and not FULL:
            x, y, epochs = x[:32], None if y is None else y[:32], min(epochs, 2)
        return fit(self, x, y, epochs=epochs, **kwargs | {"verbose": 0})

    monkeypatch.setattr(keras.Model, "fit", short)


def write_photograph(folder: Path) -> None:
    """Write the photograph that pages speak of."""
    Image.fromarray(load_sample_image("china.jpg")[:64, :96]).save(folder / "photo.jpg")
