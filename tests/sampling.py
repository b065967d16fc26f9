"""Parameters of which `make test` takes a few, and `make test-thorough` the rest."""

from collections.abc import Iterable
from typing import Any

import pytest


def sampled(values: Iterable[Any], *quick: int) -> list[Any]:
    """Return the values, or tuples of values, as parameters: all thorough but those at the places ``quick``."""
    rows = [value if isinstance(value, tuple) else (value,) for value in values]
    return [
        pytest.param(*row, marks=() if place in quick else (pytest.mark.slow, pytest.mark.thorough))
        for place, row in enumerate(rows)
    ]
