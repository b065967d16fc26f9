"""Prune before training: methods of `prune` that score the weights of an untrained model.

Values stand in for the model's variables (``keras.StatelessScope``), so that nothing a run of the model would change,
such as moving statistics and seeds, changes in it.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from tf_robustcomp.backend import gradients, keras_private
from tf_robustcomp.pruning.kernels import read
from tf_robustcomp.pruning.one_shot_methods import OneShotMethod
from tf_robustcomp.utils.checks import check_at_least
from tf_robustcomp.utils.errors import InvalidArgument
from tf_robustcomp.utils.registry import register

OFFSETS = ("bias", "beta", "moving_mean")  # attributes of layers that hold what is added to their outputs
SMALL = 1e-34  # input in place of 1 where the flow overflows float32


class LossMethod(OneShotMethod):
    """Base of methods that differentiate the loss, in the mode of training, on all data given.

    The loss is the mean over the examples, computed a batch at a time.

    Args:
        loss: Keras loss, by name, instance or function; None for that of ``model.compile``.
    """

    needs_targets = True

    def __init__(self, loss: Any = None) -> None:
        self.loss = loss

    def batch_losses(self, model: Any, variables: list, batches: list) -> list[Callable]:
        """Return for each batch its part of the mean loss, a function of the values of the variables."""
        loss = self._loss(model)
        count = sum(len(keras.tree.flatten(batch)[0]) for batch in batches)

        def part(batch):
            inputs, targets = batch
            share = len(keras.tree.flatten(inputs)[0]) / count

            def mean_loss(values):
                with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
                    return share * ops.cast(loss(inputs, targets, model(inputs, training=True)), "float32")

            return mean_loss

        return [part(keras.tree.map_structure(ops.convert_to_tensor, batch)) for batch in batches]

    def scorer(self, model: Any, variables: list, batches: list) -> Callable[[], list]:
        """Return a function that gives the `sensitivities` at the present weights."""
        parts = self.batch_losses(model, variables, batches)

        def scores():
            values = _values(variables)
            slopes = _total(gradients.value_and_gradients(part, values)[1] for part in parts)
            return self.sensitivities(parts, values, slopes)

        return scores

    def sensitivities(self, parts: list, values: list, slopes: list) -> list:
        """Return the scores of all kernels, arrays; the lowest are cut.

        Args:
            parts: loss of each batch, a function of the kernels' values.
            values: of the kernels.
            slopes: gradient of the loss at these values.
        """
        raise NotImplementedError

    def _loss(self, model):
        """Function of inputs, targets and outputs."""
        if self.loss is None:
            if not getattr(model, "compiled", False):
                raise InvalidArgument(
                    f"model must be compiled with a loss, or method be {type(self).__name__}(loss=...). Received: one "
                    f"that is not compiled"
                )
            return lambda x, y, outputs: model.compute_loss(x=x, y=y, y_pred=outputs, training=True)
        function = keras.losses.get(self.loss)
        return lambda x, y, outputs: ops.mean(function(y, outputs))


@register("one-shot method", "snip")
class SNIP(LossMethod):
    """Keep the connections to which the loss is sensitive: ``|g w|`` (Lee et al. 2019, arXiv 1810.02340).

    To first order ``g w`` is what the loss loses where the weight is removed.  The paper compares all weights of the
    model, so choose distribution "global", and takes about ten examples of each class.

    Args:
        loss: Keras loss, by name, instance or function; None for that of ``model.compile``.

    Example:
        >>> rc.prune(model, 0.9, "snip", (images[:256], labels[:256]), distribution="global", batch_size=256)
    """

    def sensitivities(self, parts: list, values: list, slopes: list) -> list:
        """Return ``|g w|``."""
        return [abs(read(slope) * read(w)) for slope, w in zip(slopes, values, strict=True)]


@register("one-shot method", "grasp")
class GraSP(LossMethod):
    """Keep the flow of gradients: cut where ``-w (H g)`` is greatest (Wang et al. 2020, arXiv 2002.07376).

    The squared norm of the gradient g changes by ``-2 w (H g)`` to first order where the weight w is removed, H being
    the Hessian.  The score is ``w (H g)``, for the lowest are cut.  The paper compares all weights of the model, so
    choose distribution "global".

    Args:
        loss: Keras loss, by name, instance or function; None for that of ``model.compile``.

    Example:
        >>> rc.prune(model, 0.9, "grasp", (images[:256], labels[:256]), distribution="global", batch_size=256)
    """

    def sensitivities(self, parts: list, values: list, slopes: list) -> list:
        """Return ``w (H g)``."""
        products = _total(gradients.hessian_products(part, values, slopes) for part in parts)
        return [read(product) * read(w) for product, w in zip(products, values, strict=True)]


@register("one-shot method", "synflow")
class SynFlow(OneShotMethod):
    """Keep the flow through the network, without data (Tanaka et al. 2020, arXiv 2006.05467).

    All weights are replaced by their magnitudes and the input by ones; R is the sum of the outputs.  The score of a
    weight is ``|w dR/dw|``: the sum over all paths through it, of the products of their weights.  It is taken and the
    lowest are cut round after round, the sparsity rising as ``1 - (1 - s)^(k/n)``, so that no layer is emptied.  The
    paper compares all weights of the model, so choose distribution "global".  A softmax at the end hides R: the model
    must give logits.

    Args:
        rounds: int >= 1, n.
        input_shape: of one example, or a structure of shapes; None for that of ``model.inputs``.

    Example:
        >>> rc.prune(model, 0.99, "synflow", distribution="global")
    """

    def __init__(self, rounds: int = 100, input_shape: Any = None) -> None:
        self.rounds = check_at_least("rounds", rounds, 1)
        self.input_shape = input_shape

    def scorer(self, model: Any, variables: list, batches: list) -> Callable[[], list]:
        """Return a function that gives ``|w dR/dw| / R``, which has the same order and the size of 1."""
        inputs, chosen = self._ones(model), {id(v) for v in variables}
        others = [v for v in model.weights if id(v) not in chosen and "float" in str(v.dtype)]
        offsets = [keras_private.holder(v)[1] in OFFSETS for v in others]
        scales = [1.0, SMALL]

        def log_flow(scale, kernels, rest):
            scaled = [scale * value if offset else value for value, offset in zip(rest, offsets, strict=True)]
            with keras.StatelessScope(state_mapping=list(zip([*variables, *others], [*kernels, *scaled], strict=True))):
                x = keras.tree.map_structure(lambda one: ops.cast(scale * ops.cast(one, "float32"), one.dtype), inputs)
                outputs = keras.tree.flatten(model(x, training=False))
            return ops.log(sum(ops.sum(ops.cast(output, "float32")) for output in outputs))

        @gradients.compiled
        def flow_at(scale, kernels, rest):
            return gradients.value_and_gradients(lambda values: log_flow(scale, values, rest), kernels)

        def scores():
            kernels, rest = ([abs(value) for value in _values(some)] for some in (variables, others))
            flow, slopes = flow_at(ops.convert_to_tensor(scales[0]), kernels, rest)
            if not np.isfinite(read(flow)) and len(scales) > 1:
                scales.pop(0)
                return scores()
            if not np.isfinite(read(flow)):
                raise InvalidArgument("model must have a flow between 1e-38 and 1e70 for method synflow. Received: not")
            found = [abs(read(slope)) * read(value) for slope, value in zip(slopes, kernels, strict=True)]
            # Of a model without softmax or saturation the scores of each layer sum to about 1.
            if sum(score.sum() for score in found) < 1e-4:
                raise InvalidArgument(
                    "model must give outputs that depend on the size of its weights for method synflow, such as "
                    "logits. Received: constant ones, as of a softmax"
                )
            return found

        return scores

    def _ones(self, model):
        if self.input_shape is not None:
            shapes = self.input_shape
            is_shape = isinstance(shapes, tuple | list) and all(isinstance(size, int) for size in shapes)
            return ops.ones((1, *shapes)) if is_shape else keras.tree.map_shape_structure(_one, shapes)
        inputs = getattr(model, "inputs", None)
        if not inputs or any(size is None for tensor in inputs for size in tensor.shape[1:]):
            raise InvalidArgument(
                "model must have inputs of fixed shape, or method be SynFlow(input_shape=...). Received: "
                f"{[tuple(tensor.shape) for tensor in inputs or ()] or 'no inputs'}"
            )
        structure = inputs[0] if len(inputs) == 1 else model.input
        return keras.tree.map_structure(lambda tensor: ops.ones((1, *tensor.shape[1:]), tensor.dtype), structure)


def _one(shape):
    return ops.ones((1, *shape))


def _values(variables):
    return [gradients.read(variable) for variable in variables]


def _total(several):
    """The sum of lists of tensors, one by one."""
    total = None
    for tensors in several:
        total = tensors if total is None else [a + b for a, b in zip(total, tensors, strict=True)]
    return total
