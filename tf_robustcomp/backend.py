"""The one file that knows which Keras backend runs."""

import contextlib
import contextvars
import functools
import itertools

import keras

from tf_robustcomp.errors import InvalidArgument

BACKEND = keras.backend.backend()
_fusing = True
_IN_TRAINING_STEP = contextvars.ContextVar("in_training_step", default=False)

if BACKEND == "tensorflow":
    import tensorflow as tf
elif BACKEND == "jax":
    import jax
elif BACKEND == "torch":
    import torch


def update_on_every_replica(updates):
    """Call functions that assign to variables: once each, or once each on every replica of a strategy.

    Under ``tf.distribute`` a mirrored variable may only be assigned where all replicas meet; there a function sees
    each device's own copies.  It must be deterministic, so that the copies stay equal.

    Args:
        updates: list of ``(function, variables)``; the function is called with as many ``keras.Variable`` (under a
            strategy ``tf.Variable``) as are listed, the first of which decides the device.
    """
    if BACKEND != "tensorflow" or not tf.distribute.has_strategy():
        for function, variables in updates:
            function(*variables)
        return

    def merged(strategy):
        for function, variables in updates:
            first, *others = (variable.value for variable in variables)
            strategy.extended.update(first, function, args=tuple(others), group=False)

    tf.__internal__.distribute.interim.maybe_merge_call(merged, tf.distribute.get_strategy())


def summed_over_replicas(tensors):
    """Sums of tensors over the replicas of a strategy, on each of them; without one the tensors as they are."""
    if BACKEND != "tensorflow" or not tensors or not tf.distribute.has_strategy():
        return tensors
    context = tf.distribute.get_replica_context()
    return tensors if context is None else list(context.all_reduce(tf.distribute.ReduceOp.SUM, tensors))


def apply_gradients(optimizer, gradients, variables):
    """``optimizer.apply`` of an optimizer inside another one, whatever it is.

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


def value_and_input_gradient(function, x):
    """Values of ``function`` and the gradient of their sum with respect to its input.

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


def fusing():
    """Whether batch norm is fused into one operation in training and into convolutions under attack."""
    return _fusing


def set_fusing(allowed):
    """Allow `fusing`, as by default, or do without it in what is traced from now on."""
    global _fusing
    _fusing = allowed


def fused_batch_norm(x, scale, offset, epsilon):
    """Batch norm in training as one operation, where the backend has it.

    Args:
        x: (n, h, w, c).
        scale, offset: (c,), float32.
        epsilon: float >= 0.00001.

    Returns:
        ``(normalised x, mean (c,), variance (c,) divided by n h w)``, the last two without gradient; or None.
    """
    if BACKEND != "tensorflow" or not fusing():
        return None
    y, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
        x=x,
        scale=tf.convert_to_tensor(scale),
        offset=tf.convert_to_tensor(offset),
        mean=tf.zeros(0),
        variance=tf.zeros(0),
        epsilon=epsilon,
        is_training=True,
    )
    count = tf.cast(tf.size(x) // tf.shape(x)[-1], variance.dtype)
    return y, tf.stop_gradient(mean), tf.stop_gradient(variance * (count - 1.0) / count)


def fused_adam(variable, momentum, velocity, gradient, learning_rate, step, beta_1, beta_2, epsilon):
    """One step of Adam on one variable as one operation, where the backend has it.

    Args:
        variable, momentum, velocity: variables of one shape, Keras' or TensorFlow's, all of which it assigns to.
        gradient: tensor of that shape.
        learning_rate, step: scalar tensors; the first step is 1.
        beta_1, beta_2, epsilon: floats.

    Returns:
        bool, whether it was done.
    """
    if BACKEND != "tensorflow" or not fusing() or tf.distribute.has_strategy():
        return False
    if isinstance(gradient, tf.IndexedSlices):
        return False
    variables = (v.value if isinstance(v, keras.Variable) else v for v in (variable, momentum, velocity))
    var, m, v = (one.handle for one in variables)
    dtype = variable.dtype
    beta_1, beta_2 = tf.constant(beta_1, dtype), tf.constant(beta_2, dtype)
    tf.raw_ops.ResourceApplyAdam(
        var=var,
        m=m,
        v=v,
        beta1_power=beta_1**step,
        beta2_power=beta_2**step,
        lr=tf.cast(learning_rate, dtype),
        beta1=beta_1,
        beta2=beta_2,
        epsilon=tf.constant(epsilon, dtype),
        grad=tf.cast(gradient, dtype),
    )
    return True


def compiled(function):
    """A function of tensors, traced once per shape where the backend can: tf.function, jax.jit; torch as it is."""
    if BACKEND == "tensorflow":
        return tf.function(function, autograph=False)
    return jax.jit(function) if BACKEND == "jax" else function


def read(variable):
    """The present value of a ``keras.Variable`` as a plain tensor without gradient; a tensor is returned as it is."""
    value = variable.value if isinstance(variable, keras.Variable) else variable
    if BACKEND == "tensorflow":
        return tf.convert_to_tensor(value)
    return value.detach() if BACKEND == "torch" else value


def is_concrete(x):
    """Whether the numbers in ``x`` can be looked at now, that is, ``x`` is not a placeholder in a trace."""
    if BACKEND == "tensorflow":
        return not tf.is_symbolic_tensor(x)
    if BACKEND == "jax":
        return not isinstance(x, jax.core.Tracer)
    return not torch.compiler.is_compiling()


@contextlib.contextmanager
def computing_in(model, dtype):
    """Layers of a model compute in another precision while this is entered; their variables stay as they are.

    Args:
        model: built Keras model.
        dtype: such as "bfloat16".  Layers that ask for another dtype than the model's own, such as the float32 ends of
            mixed-precision networks, keep it.
    """
    layers = [layer for layer in model._flatten_layers() if layer.dtype_policy.name == "float32" and layer.weights]
    layers = [layer for layer in layers if not isinstance(layer, keras.Model)]
    before = [layer.dtype_policy for layer in layers]
    try:
        for layer in layers:
            layer.dtype_policy = f"mixed_{dtype}"
        yield
    finally:
        for layer, policy in zip(layers, before, strict=True):
            layer.dtype_policy = policy


class PreparedModel(keras.Model):
    """A ``keras.Model`` that says once, for all backends, how a batch is made ready for the ordinary Keras step.

    Under JAX, Keras hands a training step the values of all variables and expects the new ones back.  Here
    ``prepare_train_batch`` reads and assigns variables in the plain way on every backend.
    """

    @property
    def in_training_step(self):
        """Whether a training step is being traced; each replica of a strategy has a thread of its own for that."""
        return _IN_TRAINING_STEP.get()

    def prepare_train_batch(self, data):
        """Training data as Keras has it -> ``(x, y)``.  May assign to any variable of the model."""
        return data

    def prepare_test_batch(self, data):
        """Test data as Keras has it -> ``(x, y)``.  Assigns to nothing."""
        return data

    def train_step(self, *args):
        """One training step, on JAX as ``(state, data)``."""
        *state, data = args
        entered = _IN_TRAINING_STEP.set(True)
        try:
            if not state:
                return super().train_step(self.prepare_train_batch(data))
            state, data = self._prepared_statelessly(state[0], data)
            return super().train_step(state, data)
        finally:
            _IN_TRAINING_STEP.reset(entered)

    def test_step(self, *args):
        """One test step, on JAX as ``(state, data)``."""
        *state, data = args
        return super().test_step(*state, self.prepare_test_batch(data))

    def _prepared_statelessly(self, state, data):
        variables = (
            self.trainable_variables,
            self.non_trainable_variables,
            self.optimizer.variables,
            self.metrics_variables,
        )
        pairs = zip(itertools.chain(*variables), itertools.chain(*state), strict=True)
        with keras.StatelessScope(pairs) as scope:
            data = self.prepare_train_batch(data)
        return tuple([scope.get_current_value(variable) for variable in group] for group in variables), data


def strategy_scope(name):
    """Context in which models are made and trained.

    Args:
        name: ``none`` for one device, ``mirrored`` for all devices of this machine that TensorFlow sees (its GPUs, else
            its logical CPU devices), each taking an equal part of every batch.

    Raises:
        InvalidArgument: ``mirrored`` on another backend.
    """
    if name == "none":
        return contextlib.nullcontext()
    if BACKEND != "tensorflow":
        raise InvalidArgument(f"--strategy {name} needs KERAS_BACKEND=tensorflow. Received: {BACKEND}")
    return _mirrored_strategy().scope()


@functools.cache
def _mirrored_strategy():
    """One for the process: a second one would count its collective operations from the start again and mix them up."""
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    return tf.distribute.MirroredStrategy([device.name for device in devices])


def join_batch_statistics(model, strategy):
    """Let batch norm see the whole batch under a strategy, as it does on one device.

    Args:
        model: built Keras model.
        strategy: as `strategy_scope` takes it.
    """
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.synchronized = strategy != "none"


def configured(settings):
    """Set precision and determinism for the process; gives the context in which models are made and trained.

    Args:
        settings: `flags.DeviceSettings`.
    """
    keras.backend.clear_session()
    keras.config.set_dtype_policy("mixed_bfloat16" if settings.mixed_precision else "float32")
    set_fusing(settings.fused)
    if settings.deterministic and BACKEND == "tensorflow":
        tf.config.experimental.enable_op_determinism()
    return strategy_scope(settings.strategy)
