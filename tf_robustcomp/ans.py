"""Decoding with constriction's stack of asymmetric numeral systems, of bytes that may be anything."""

import contextlib

import constriction
import numpy as np

WORD = np.dtype("<u4")


@contextlib.contextmanager
def decoder(data, error):
    """A coder that takes symbols off the stack; all must be taken.

    Args:
        data: bytes, whole words.
        error: exception to raise where they are not the code of what is taken.

    Yields:
        constriction's AnsCoder
    """
    words = np.frombuffer(data, WORD).astype(np.uint32)
    try:
        coder = constriction.stream.stack.AnsCoder(words)
        yield coder
        left = not coder.is_empty()
    except BaseException as caught:  # a Rust panic is no Exception
        if not isinstance(caught, Exception) and type(caught).__name__ != "PanicException":
            raise
        raise error("symbols cannot be decoded") from None
    if left:
        raise error("more symbols than stated")
