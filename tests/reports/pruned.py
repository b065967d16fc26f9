"""Rules, and steps that the reports on pruning share."""

import numpy as np
from keras import ops

import tf_robustcomp as rc

RULES = [rc.MagnitudePruning, rc.DNS, rc.RigL, rc.MovementPruning, rc.RandomPruning]


def values(variables):
    return [ops.convert_to_numpy(variable) for variable in variables]


def masks(model):
    return {p.variable.path: ops.convert_to_numpy(p.mask) for p in model.optimizer.pruned}


def pruned_paths(model):
    model.compile(rc.MagnitudePruning("sgd", rc.ConstantSparsity(0.5, 0)), "mse")
    model.optimizer.build(model.trainable_variables)
    return {p.variable.path.removeprefix(f"{model.name}/") for p in model.optimizer.pruned}


def fit(model, steps=4):
    x = np.random.default_rng(1).normal(size=(4 * steps, *model.input_shape[1:])).astype("float32")
    y = np.zeros((4 * steps, *model.output_shape[1:]), "float32")
    model.fit(x, y, batch_size=4, shuffle=False, verbose=0)
    return model
