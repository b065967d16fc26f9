"""Gradients, tracing and reading of variables on every backend."""

import contextlib
import itertools
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np

from tf_robustcomp.backend import BACKEND

if BACKEND == "tensorflow":
    import tensorflow as tf
elif BACKEND == "jax":
    import jax
elif BACKEND == "torch":
    import torch


def without_gradients() -> contextlib.AbstractContextManager:
    """Return a context in which PyTorch keeps nothing for gradients; other backends keep nothing outside of a tape."""
    return torch.no_grad() if BACKEND == "torch" else contextlib.nullcontext()


def apply_gradients(optimizer: keras.optimizers.Optimizer, gradients: list, variables: list) -> None:
    """Apply gradients by an optimizer that is inside another one.

    Keras' loss scaling branches, and under JAX branches may not assign: there it is asked for the new values.

    Args:
        optimizer: built Keras optimizer.
        gradients, variables: lists of one length, for all that the optimizer trains.
    """
    if BACKEND != "jax" or not isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        optimizer.apply(gradients, variables)
        return
    state = list(optimizer.variables)
    values = optimizer.stateless_apply([v.value for v in state], gradients, [v.value for v in variables])
    for variable, value in zip([*variables, *state], itertools.chain(*values), strict=True):
        variable.assign(value)


def value_and_input_gradient(function: Callable, x: Any) -> tuple[Any, Any]:
    """Return the values of ``function`` and the gradient of their sum with respect to its input.

    Args:
        function: maps a float tensor (n, ...) to values (n,), row by row independently of one another.
        x: float tensor (n, ...).

    Returns:
        ``(values, gradient)``, of shapes (n,) and that of ``x``, both cut off from any gradient taken outside.
    """
    if BACKEND == "tensorflow":
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(x)
            values = function(x)
        return values, tape.gradient(values, x, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    if BACKEND == "jax":
        values, pull_back = jax.vjp(function, x)
        return values, pull_back(jax.numpy.ones_like(values))[0]
    with torch.enable_grad():  # Keras evaluates and predicts under no_grad
        leaf = x.detach().requires_grad_(True)
        values = function(leaf)
        (gradient,) = torch.autograd.grad(values.sum(), leaf)
    return values.detach(), gradient


def value_and_gradients(function: Callable, values: list) -> tuple[Any, list]:
    """Return the value of a scalar function and its gradient with respect to each of its tensors.

    Args:
        function: maps a list of float tensors to a scalar.
        values: list of float tensors.

    Returns:
        ``(value, gradients)``, these of the tensors' shapes; zeros where the function does not depend on one.
    """
    if BACKEND == "tensorflow":
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(values)
            result = function(values)
        return result, _dense(tape.gradient(result, values, unconnected_gradients=tf.UnconnectedGradients.ZERO))
    if BACKEND == "jax":
        return jax.value_and_grad(function)(values)
    with torch.enable_grad():
        leaves = [value.detach().requires_grad_(True) for value in values]
        result = function(leaves)
        slopes = torch.autograd.grad(result, leaves, materialize_grads=True, allow_unused=True)
    return result.detach(), list(slopes)


def hessian_products(function: Callable, values: list, vectors: list) -> list:
    """Return the products ``H v`` of the Hessian of a scalar function with vectors, as one vector each.

    Args:
        function: maps a list of float tensors to a scalar; twice differentiable.
        values, vectors: lists of float tensors of the same shapes.

    Returns:
        list of tensors of the same shapes.
    """
    if BACKEND == "jax":
        return jax.jvp(jax.grad(function), (values,), (vectors,))[1]
    if BACKEND == "tensorflow":
        zero = tf.UnconnectedGradients.ZERO
        with tf.GradientTape(watch_accessed_variables=False) as outer:
            outer.watch(values)
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(values)
                result = function(values)
            slopes = _dense(tape.gradient(result, values, unconnected_gradients=zero))
            product = tf.add_n([tf.reduce_sum(a * b) for a, b in zip(slopes, vectors, strict=True)])
        return _dense(outer.gradient(product, values, unconnected_gradients=zero))
    with torch.enable_grad():
        leaves = [value.detach().requires_grad_(True) for value in values]
        options: Any = {"materialize_grads": True, "allow_unused": True}
        slopes = torch.autograd.grad(function(leaves), leaves, create_graph=True, **options)
        product = sum((a * b).sum() for a, b in zip(slopes, vectors, strict=True))
        if not product.requires_grad:  # a function that is linear in all of its tensors
            return [torch.zeros_like(leaf) for leaf in leaves]
        return list(torch.autograd.grad(product, leaves, **options))


def _dense(values):
    """Tensors of gradients, which come as slices where rows are looked up."""
    return [tf.convert_to_tensor(value) for value in values]


def compiled(function: Callable) -> Callable:
    """Return a function of tensors, traced once per shape where the backend can: tf.function, jax.jit."""
    if BACKEND == "tensorflow":
        return tf.function(function, autograph=False)
    return jax.jit(function) if BACKEND == "jax" else function


def read(variable: Any) -> Any:
    """Return the value of a ``keras.Variable`` as a tensor without gradient; a tensor is returned as it is."""
    value = variable.value if isinstance(variable, keras.Variable) else variable
    if BACKEND == "tensorflow":
        return tf.convert_to_tensor(value)
    return value.detach() if BACKEND == "torch" else value


def at_once() -> contextlib.AbstractContextManager:
    """Return a context in which TensorFlow reads and assigns now, also while it traces a function."""
    return tf.init_scope() if BACKEND == "tensorflow" else contextlib.nullcontext()


def numpy_values(variables: Iterable) -> list[np.ndarray]:
    """Return the values of variables as arrays, also while TensorFlow traces a function that uses them."""
    with at_once():
        return [keras.ops.convert_to_numpy(variable) for variable in variables]


def is_concrete(x: Any) -> bool:
    """Return whether ``x`` holds numbers now, and is not a placeholder in a trace."""
    if BACKEND == "tensorflow":
        return not tf.is_symbolic_tensor(x)
    if BACKEND == "jax":
        return not isinstance(x, jax.core.Tracer)
    return not torch.compiler.is_compiling()
