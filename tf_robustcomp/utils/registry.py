"""Find compressors, encoders, adversaries, augmentations, pruning rules and one-shot methods by their decorator.

The arguments of `register` are literals, so that names and flags are read from the source files: a command's ``--help``
lists every variant without importing Keras.
"""

import ast
import dataclasses
import functools
import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tf_robustcomp.utils.errors import InvalidArgument
from tf_robustcomp.utils.settings import spelled

PACKAGE = "tf_robustcomp"
FOLDERS = {  # kind of variant -> folder of the package that is searched
    "compressor": "compression",
    "adversary": "adversaries",
    "augmentation": "adversaries",
    "encoder": "compression/encoders",
    "pruning rule": "pruning",
    "one-shot method": "pruning",
}
Class = TypeVar("Class", bound=type)
_classes: dict[tuple[str, str], type] = {}
_extensions: list[Path] = []


@dataclasses.dataclass(frozen=True)
class Variant:
    """A registered class, as its decorator declares it.

    Attributes:
        kind: a key of `FOLDERS`.
        name: value of the command's flag that chooses it.
        path: source file.
        uses: constructor argument -> name of the setting that gives its value.
        flags: constructor argument -> (default, help) of a flag of the same name that the variant adds.
        rules: setting -> rule that this variant adds: ``minimum`` of a number, ``length`` of a list, ``given``.
    """

    kind: str
    name: str
    path: Path
    uses: Mapping[str, str]
    flags: Mapping[str, tuple[Any, str]]
    rules: Mapping[str, Mapping[str, Any]]

    @property
    def settings(self) -> dict[str, str]:
        """Constructor argument -> name of the setting that gives its value, its own flags included."""
        return {**self.uses, **{name: name for name in self.flags}}

    def load(self) -> type:
        """Return the class; its module is imported first.

        Raises:
            InvalidArgument: the file cannot be imported.
        """
        if (self.kind, self.name) not in _classes:
            _import(self.path)
        return _classes[self.kind, self.name]

    def check(self, settings: Any) -> None:
        """Check the settings against the variant's rules, without loading it.

        Raises:
            InvalidArgument: names the flag and the rule.
        """
        for name, rule in self.rules.items():
            value, flag = getattr(settings, name), spelled(name)
            if rule.get("given") and value in (None, ""):
                raise InvalidArgument(f"{self.kind} {self.name} needs {flag}. Received: none")
            if "minimum" in rule and value < rule["minimum"]:
                raise InvalidArgument(f"{flag} must be >= {rule['minimum']} for {self.name}. Received: {value}")
            if "length" in rule and len(value) != rule["length"]:
                raise InvalidArgument(f"{flag} must be {rule['length']} numbers. Received: {list(value)}")

    def build(self, settings: Any, *args: Any, **kwargs: Any) -> Any:
        """Return an instance whose arguments are taken from ``settings``, after those that are given."""
        cls: Any = self.load()
        if hasattr(cls, "from_settings"):
            return cls.from_settings(settings, *args, **kwargs)
        own = {argument: getattr(settings, name) for argument, name in self.settings.items()}
        return cls(*args, **own, **kwargs)


def register(
    kind: str,
    name: str,
    uses: Mapping[str, str] | Sequence[str] | None = None,
    flags: Mapping[str, tuple[Any, str]] | None = None,
    rules: Mapping[str, Mapping[str, Any]] | None = None,
) -> Callable[[Class], Class]:
    """Return a decorator that registers a class with this package and with Keras.

    All arguments must be literals.  A class whose arguments depend on several settings at once has a classmethod
    ``from_settings(settings)``; others are called with the settings named in ``uses`` and ``flags``.

    Args:
        kind: "compressor", "adversary", "augmentation", "pruning rule" or "one-shot method".
        name: by which a command chooses it.
        uses: constructor argument -> name of an existing setting of the command; or the names of both, where equal.
        flags: constructor argument -> (default, help): a new flag for each.
        rules: setting -> rules such as ``{"minimum": 3}``, ``{"length": 2}`` or ``{"given": True}``.

    Example:
        >>> @rc.register("adversary", "brighten", flags={"amount": (0.1, "added to every pixel")})
        ... class Brighten(rc.Adversary): ...
    """
    if kind not in FOLDERS:
        raise InvalidArgument(f"kind must be one of {', '.join(FOLDERS)}. Received: kind={kind!r}")

    def decorate(cls: Class) -> Class:
        import keras

        _classes[kind, name] = cls
        return keras.saving.register_keras_serializable(cls.__module__.split(".")[0])(cls)

    return decorate


def variants(kind: str) -> dict[str, Variant]:
    """Return the variants of a kind by name, in the order of their files."""
    package = sorted((Path(__file__).parents[1] / FOLDERS[kind]).glob("*.py"))
    declared = [variant for path in (*package, *_extensions) for variant in _declared(path)]
    return {variant.name: variant for variant in declared if variant.kind == kind}


def extend(path: str | Path) -> None:
    """Search a user's source file for registered classes, too.

    Raises:
        InvalidArgument: it is missing, is not Python, or registers nothing.
    """
    source = Path(path).resolve()
    if not source.is_file():
        raise InvalidArgument(f"{path}: no such file")
    if not _declared(source):
        raise InvalidArgument(f"{path}: registers no class; decorate one with @rc.register(kind, name)")
    if source not in _extensions:
        _extensions.append(source)


def load_extensions() -> None:
    """Import the users' source files, so that Keras can load models with their classes."""
    for path in _extensions:
        for variant in _declared(path):
            variant.load()


@functools.cache
def _declared(path: Path) -> tuple[Variant, ...]:
    """Variants that a source file declares, read without running it."""
    try:
        tree = ast.parse(path.read_text(), str(path))
    except (SyntaxError, ValueError) as error:
        raise InvalidArgument(f"{path}: cannot be read as Python ({error})") from None
    found = []
    for node in tree.body:
        for call in node.decorator_list if isinstance(node, ast.ClassDef) else ():
            if isinstance(call, ast.Call) and ast.unparse(call.func).split(".")[-1] == "register":
                found.append(_variant(path, call))
    return tuple(found)


def _variant(path: Path, call: ast.Call) -> Variant:
    try:
        kind, name = map(ast.literal_eval, call.args)
        options = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
    except ValueError:
        raise InvalidArgument(f"{path}:{call.lineno}: the arguments of @register must be literals") from None
    uses = options.get("uses") or {}
    uses = uses if isinstance(uses, dict) else {argument: argument for argument in uses}
    return Variant(kind, name, path, uses, options.get("flags") or {}, options.get("rules") or {})


def _import(path: Path) -> None:
    root = Path(__file__).parents[1]
    if path.is_relative_to(root):
        importlib.import_module(".".join((PACKAGE, *path.relative_to(root).with_suffix("").parts)))
        return
    spec: Any = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise InvalidArgument(f"{path}: cannot be imported ({type(error).__name__}: {error})") from None
