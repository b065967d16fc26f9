"""The signals that ask a command to stop."""

import contextlib
import signal
from collections.abc import Callable, Iterator
from typing import Any


def stopping() -> list[signal.Signals]:
    """Return SIGINT, SIGTERM and, unless ``nohup`` has turned it off, SIGHUP: its terminal has closed."""
    hangup = getattr(signal, "SIGHUP", None)
    heard = hangup is not None and signal.getsignal(hangup) != signal.SIG_IGN
    return [signal.SIGINT, signal.SIGTERM, *([hangup] if heard and hangup else [])]


@contextlib.contextmanager
def handled(handler: Callable[[int, Any], Any]) -> Iterator[None]:
    """Handle the signals of `stopping` while the block runs."""
    previous = {number: signal.signal(number, handler) for number in stopping()}
    try:
        yield
    finally:
        for number, old in previous.items():
            signal.signal(number, old)
