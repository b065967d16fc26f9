"""Imported once by the server process that tasks are forked from."""

import gc

from tf_robustcomp.cli.startup import import_backend_quietly

import_backend_quietly()
gc.freeze()  # else the collector's marks would copy the memory that processes share
