"""Standard output and error that may be lost, a reader that went away or a full disk, without an end to the work."""

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from typing import Any


class Output:
    """A text stream that goes on into nothing once it cannot be written to.

    Args:
        stream: to write to, or None.

    Attributes:
        lost: the error that ended it, or None.
    """

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.lost: OSError | None = None

    def write(self, text: str) -> int:
        """Write text; characters that the stream cannot hold are written as escapes."""
        with self._losing():
            try:
                self.stream.write(text)
            except UnicodeEncodeError:  # a path that is not UTF-8
                encoding = self.stream.encoding
                self.stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def flush(self) -> None:
        """Flush the stream."""
        with self._losing():
            self.stream.flush()

    @property
    def reason(self) -> str | None:
        """Why it was lost, unless its reader just went away, as ``head`` does."""
        return self.lost.strerror if self.lost and self.lost.errno != errno.EPIPE else None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    @contextlib.contextmanager
    def _losing(self):
        try:
            yield
        except OSError as error:
            self.lost = self.lost or error
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.stream.fileno())  # what is buffered still goes somewhere, now and when Python ends
            os.close(nowhere)


@contextlib.contextmanager
def forgiving() -> Iterator[Output | None]:
    """Replace standard output and error by streams that may be lost; give the former."""
    streams = sys.stdout, sys.stderr
    replaced = [Output(stream) if stream else None for stream in streams]
    sys.stdout, sys.stderr = replaced  # type: ignore[assignment]
    try:
        yield replaced[0]
    finally:
        for stream in filter(None, replaced):
            stream.flush()
        sys.stdout, sys.stderr = streams
