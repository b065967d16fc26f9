"""The package's errors.  Each message names what was wrong, where, and what to do."""


class Error(Exception):
    """Base of every error that this package raises on purpose."""


class InvalidArgument(Error, ValueError):
    """An argument, flag or input value breaks its rule."""


class DataError(Error):
    """A data file is missing, incomplete or damaged."""


class BitstreamError(DataError):
    """A compressed stream is damaged, cut, of another model, or none at all."""


class RunError(Error):
    """A run directory is in use, belongs to other settings, or cannot be read."""


class Interrupted(BaseException):
    """SIGINT or SIGTERM arrived; whoever can save does so and lets it pass."""

    def __init__(self, number):
        super().__init__(number)
        self.number = number
        self.hint = "run the same command again"
