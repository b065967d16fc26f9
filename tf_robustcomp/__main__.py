"""The package's commands, a line each: python -m tf_robustcomp"""

import ast
import pkgutil
from pathlib import Path


def commands():
    """Names of the modules that are commands, and the first line of what each says about itself."""
    found = {}
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        source = Path(__file__).with_name(f"{module.name}.py")
        if source.exists() and "\nCOMMAND = " in (text := source.read_text()):
            found[module.name] = (ast.get_docstring(ast.parse(text)) or "").splitlines()[0]
    return found


if __name__ == "__main__":
    for name, line in commands().items():
        print(f"python -m tf_robustcomp.{name:<22} {line}")
    print("Each has --help.")
