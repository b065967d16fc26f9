"""How much of the fault suite runs: a short form in `make test`, all of it in `make test-faults` (FAULTS=full)."""

import os

import pytest

FULL = os.environ.get("FAULTS") == "full"


@pytest.fixture(scope="session")
def amount():
    """Function of the short and the full number of trials."""
    return lambda short, full: full if FULL else short
