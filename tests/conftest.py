"""Settings for every test: quiet, few threads, any backend."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import keras
import numpy as np
import pytest


@pytest.fixture(autouse=True, scope="module")
def cleared_session():
    """Forget the graphs of the modules before; once a module, as it walks through all of the memory."""
    keras.backend.clear_session()


@pytest.fixture(autouse=True)
def fresh_keras():
    keras.utils.set_random_seed(1)
    keras.config.set_dtype_policy("float32")
    yield
    keras.config.set_dtype_policy("float32")


@pytest.fixture
def rng():
    return np.random.default_rng(7)
