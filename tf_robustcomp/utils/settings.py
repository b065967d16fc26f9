"""Settings as frozen dataclasses: fields with help, rules and a flag's spelling."""

import dataclasses
import typing
from collections.abc import Callable, Sequence
from typing import Any

DEFINE = {str: "DEFINE_string", int: "DEFINE_integer", float: "DEFINE_float", bool: "DEFINE_bool"}


def field(
    default: Any,
    help: str,
    operational: bool = False,
    choices: Sequence[str] | Callable[[], Sequence[str]] | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
    above: float | None = None,
    repeated: bool = False,
    path: bool = False,
    length: bool = False,
) -> Any:
    """Return a dataclass field for a setting, with its flag's help and rules.

    Args:
        default: its value, of type str, int, float, bool or tuple (a comma-separated flag), or None.
        help: one line for ``--help``.
        operational: it does not change what a run computes, so a run may be resumed with another value.
        choices: the strings allowed, or a function that returns them.
        minimum, maximum: the closed range allowed, of a number or of each number of a tuple.
        above: a number that must be exceeded; infinity is refused too.
        repeated: a tuple's flag may be given several times and each is one item, whatever commas it holds.
        path: the value may name a file or folder.
        length: of a training; a run may be asked to go on to a larger one.
    """
    metadata = {
        "help": help,
        "operational": operational,
        "choices": choices,
        "minimum": minimum,
        "maximum": maximum,
        "above": above,
        "repeated": repeated,
        "path": path,
        "length": length,
    }
    return dataclasses.field(default=default, metadata=metadata)


def operational_names(settings: Any) -> set[str]:
    """Return the names of the settings that do not change what a run computes."""
    return {f.name for f in dataclasses.fields(settings) if f.metadata.get("operational")}


def spelled(name: str) -> str:
    """Return a setting's flag as users see it."""
    return "--" + name.replace("_", "-")


def as_word(value: Any) -> str:
    """Return a setting's value as a word of a command line: a tuple's items are joined by commas."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def kind_of(f: dataclasses.Field) -> type:
    """Return the type of a setting: str, int, float, bool or tuple."""
    kind = typing.get_origin(f.type) or f.type
    if kind in DEFINE or kind is tuple:
        return kind
    return next(k for k in typing.get_args(f.type) if k is not type(None))  # `str | None`
