"""Read JSON that may be damaged, or somebody else's, by a schema: `msgspec` checks names and types."""

import json
from pathlib import Path
from typing import TypeVar

import msgspec

from tf_robustcomp.utils.errors import DataError

Kind = TypeVar("Kind")


def read(path: str | Path, kind: type[Kind]) -> Kind:
    """Return the content of a JSON file.

    Args:
        path: of the file.
        kind: its type: a dataclass, whose further names in the file are passed over, or such as ``dict[str, float]``.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: it cannot be read, is no JSON, or of another type; one line.
    """
    try:
        return msgspec.convert(json.loads(Path(path).read_bytes()), kind)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, RecursionError, msgspec.MsgspecError) as error:
        reason = (str(error).splitlines() or [""])[0][:120]
        raise DataError(f"{path}: cannot be read ({reason or type(error).__name__})") from None
