"""Encoders: images per second of a list of 60,000 codes and of the search, at width 32, and the list's memory."""

import time
import tracemalloc

import numpy as np

from benchmarks.rows import row

CODES = 60_000
MEBIBYTE = 2**20


def measure(count=500):
    """Return the rows; weights do not matter for speed, so the model is untrained."""
    import tf_robustcomp as rc

    rng = np.random.default_rng(0)
    model = rc.Compressor(10, width=32)
    images = rng.random((count, 32, 32, 1), dtype=np.float32)
    encoder = rc.ListEncoder(rng.integers(0, model.levels, (CODES, model.latent_dim)))
    model.decode(np.zeros((250, model.latent_dim), np.int32))  # warm up
    tracemalloc.start()
    encoder(model, images[:250])
    peak = tracemalloc.get_traced_memory()[1] / MEBIBYTE
    tracemalloc.stop()
    rows = [row(f"peak memory of decoding and scanning {CODES} codes", peak, "MiB", "<= 400")]
    for name, one, goal in (
        (f"list of {CODES} codes", encoder, ">= 500"),
        ("search, default", rc.SearchEncoder(), ">= 20"),
        ("network", rc.NetworkEncoder(), ""),
    ):
        one(model, images[:250])
        began = time.perf_counter()
        one(model, images)
        rows.append(row(name, count / (time.perf_counter() - began), "images/s", goal))
    return rows
