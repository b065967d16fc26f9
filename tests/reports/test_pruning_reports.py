"""Faults that users of pruning reported, by kind: each case with the line of the list and the public issue, if any."""

import json
import pathlib
import zipfile

import keras
import numpy as np
import pytest
from keras import layers, ops

import tf_robustcomp as rc
from tests.pruning.models import compiled, dense_net, kernels, small_data

pytestmark = pytest.mark.slow

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


# B2 (tensorflow/model-optimization 1132): a layer never vanishes; channels by the kind of the layer.


def images_net():
    return keras.Sequential(
        [
            layers.Input((8, 8, 6)),
            layers.DepthwiseConv2D(3, depth_multiplier=2, name="depthwise"),
            layers.SeparableConv2D(8, 3, name="separable"),
            layers.Conv2DTranspose(10, 3, name="transposed"),
            layers.Conv2D(4, 1, name="conv"),
            layers.Flatten(),
            layers.Dense(4, name="dense"),
        ]
    )


@pytest.mark.parametrize("rule", [rc.MagnitudePruning, rc.DNS])
def test_b2_channels_are_those_of_the_layer_s_output(rule):
    model = images_net()
    model.compile(rule("sgd", rc.ConstantSparsity(0.5, 0, frequency=1), pattern=rc.Channels()), "mse")
    fit(model)
    # Each kernel with its output channels last, as written down by hand from Keras' formats.
    expected = {
        "depthwise/kernel": (12, lambda mask: mask.reshape(-1, 12)),
        "separable/depthwise_kernel": (12, lambda mask: mask.reshape(-1, 12)),
        "separable/pointwise_kernel": (8, lambda mask: mask.reshape(-1, 8)),
        "transposed/kernel": (10, lambda mask: mask.transpose(0, 1, 3, 2).reshape(-1, 10)),
        "conv/kernel": (4, lambda mask: mask.reshape(-1, 4)),
        "dense/kernel": (4, lambda mask: mask),
    }
    found = {"/".join(path.split("/")[-2:]): mask for path, mask in masks(model).items()}
    assert set(found) == set(expected)
    for name, (channels, arranged) in expected.items():
        alive = arranged(found[name])
        assert (alive.all(axis=0) == alive.any(axis=0)).all(), name
        assert alive.any(axis=0).sum() == channels // 2, name


def test_b2_channels_and_groups_of_an_attention_layer_are_those_of_its_equations():
    inputs = layers.Input((6, 8))
    model = keras.Model(inputs, layers.MultiHeadAttention(2, 4, name="attention")(inputs, inputs))
    for pattern, arranged in (
        # Queries (input, heads, size): outputs are pairs of head and size.  Output (heads, size, output).
        (rc.Channels(), lambda mask, name: mask.reshape(-1, 8) if "output" in name else mask.reshape(8, -1)),
        # Groups of four along the input of queries, along the size of the output's kernel.
        (rc.NM(2, 4), lambda mask, name: mask.reshape(2, 4, -1) if "output" not in name else mask.transpose(1, 0, 2)),
    ):
        model.compile(rc.MagnitudePruning("sgd", rc.ConstantSparsity(0.5, 0, frequency=1), pattern=pattern), "mse")
        fit(model)
        assert len(masks(model)) == 4
        for path, mask in masks(model).items():
            alive = arranged(mask, path)
            if isinstance(pattern, rc.NM):
                assert (alive.sum(axis=0 if "output" in path else 1) == 2).all(), path
            else:
                assert (alive.all(axis=0) == alive.any(axis=0)).all() and alive.any(axis=0).sum() == 4, path


def test_b2_groups_of_a_transposed_convolution_go_along_its_input():
    model = keras.Sequential([layers.Input((4, 4, 8)), layers.Conv2DTranspose(6, 3)])
    model.compile(rc.MagnitudePruning("sgd", rc.ConstantSparsity(0.5, 0), pattern=rc.NM(2, 4)), "mse")
    (mask,) = masks(fit(model)).values()
    assert (mask.reshape(3, 3, 6, 2, 4).sum(axis=-1) == 2).all()


@pytest.mark.parametrize("pattern", [None, rc.Channels(), rc.Blocks(2, 1)])
@pytest.mark.parametrize(
    ("rule", "distribution"),
    [(rule, "uniform") for rule in RULES]
    + [(rule, "global") for rule in RULES if rule.global_scores]
    + [(rc.MagnitudePruning, "erk"), (rc.DNS, {"kernel": 0.999})],
)
def test_b2_no_layer_vanishes(rule, distribution, pattern):
    model = keras.Sequential(
        [layers.Input((2,)), layers.Dense(2, name="a"), layers.Dense(2, name="b"), layers.Dense(1, name="c")]
    )
    model.layers[1].kernel.assign(model.layers[1].kernel * 1e-6)  # the first to go, where scores compare
    schedule = rc.ConstantSparsity(0.999, 0, frequency=1)
    optimizer = rule(keras.optimizers.SGD(1e-3), schedule, pattern=pattern, distribution=distribution)
    optimizer.build(model.trainable_variables)
    for _ in range(3):
        optimizer.apply([ops.ones(variable.shape) for variable in model.trainable_variables])
    for p in optimizer.pruned:
        whole = optimizer.pattern.pool(ops.cast(ops.convert_to_tensor(p.mask), "float32"))
        assert ops.convert_to_numpy(whole).max() == 1.0, p.variable.path  # one unit stays, and as a whole


@pytest.mark.parametrize("exact", [True, False])
def test_b2_dns_keeps_a_weight_when_all_shrink_below_the_threshold(exact):
    variable = keras.Variable(np.array([[1.0, 2.0, 3.0, 4.0]], "float32"), name="kernel")
    inner = keras.optimizers.SGD(0.5, weight_decay=1.0)  # each step halves the weights
    optimizer = rc.DNS(inner, rc.ConstantSparsity(0.5, 0, frequency=100), update_probability=1.0, exact=exact)
    optimizer.build([variable])
    for _ in range(6):
        optimizer.apply([ops.zeros((1, 4))], [variable])
    assert ops.convert_to_numpy(variable)[0].nonzero()[0].tolist() == [3]


def test_b2_sparsity_one_asked_of_a_pattern_cuts_all_and_below_it_one_unit_stays():
    scores = np.arange(6.0, dtype="float32").reshape(2, 3)
    for pattern in (rc.Unstructured(), rc.Channels(), rc.Blocks(1, 1)):
        assert not ops.convert_to_numpy(pattern.select(scores, 1.0)).any()
        assert ops.convert_to_numpy(pattern.select(scores, 0.9999)).any()


# B7: what is pruned follows from the layer's class and attribute.


class Tokens(layers.Layer):
    """A user's layer, whose weights have no names of their own in half of the cases."""

    def build(self, shape):
        self.cls_token = self.add_weight(shape=(1, 1, 8))
        self.pos_embed = self.add_weight(shape=(7, 8))
        self.embed = self.add_weight(shape=(1, 7, 8))  # no telling name: laid over the batch
        self.layer_scale = self.add_weight(shape=(7, 8), name="ls")
        self.gamma = self.add_weight(shape=(7, 8))
        self.alphabet_kernel = self.add_weight(shape=(8, 8), name="alphabet_kernel")
        self.gammatone = self.add_weight(shape=(8, 8), name="gammatone")
        self.mixing = [self.add_weight(shape=(8, 8), name="mixing")]
        super().build(shape)

    def call(self, x):
        x = ops.concatenate([ops.repeat(self.cls_token, ops.shape(x)[0], 0), x], 1) + self.pos_embed + self.embed
        x = x * self.layer_scale * self.gamma
        return ops.matmul(ops.matmul(ops.matmul(x, self.alphabet_kernel), self.gammatone), self.mixing[0])


def test_b7_the_layer_s_attribute_decides_not_a_part_of_the_name():
    model = keras.Sequential([layers.Input((6, 8)), Tokens(name="tokens"), layers.Dense(4, name="dense")])
    pruned_paths(model)
    tokens = model.layers[0]
    expected = [tokens.alphabet_kernel, tokens.gammatone, tokens.mixing[0], model.layers[1].kernel]
    assert [id(p.variable) for p in model.optimizer.pruned] == [id(variable) for variable in expected]


def test_b7_adapters_are_not_pruned():
    model = keras.Sequential(
        [
            layers.Input((6,), dtype="int32"),
            layers.Embedding(20, 8, name="embedding"),
            layers.Dense(8, name="adapted"),
            layers.Dense(8, name="lora_A"),  # an adapter made of layers, as in Keras' guide
            layers.Dense(4, name="flora"),
        ]
    )
    model.get_layer("adapted").enable_lora(2)
    model.get_layer("embedding").enable_lora(2)
    assert pruned_paths(model) == {"flora/kernel"}


@keras.saving.register_keras_serializable("tests")
class OwnDense(layers.Dense):
    pass


def test_b7_ordinary_layers_are_pruned_as_before():
    model = keras.Sequential(
        [
            layers.Input((6,), dtype="int32"),
            layers.Embedding(20, 8, name="beta"),  # names of layers, which a user chooses, decide nothing
            layers.GRU(8, return_sequences=True, name="gru"),
            OwnDense(8, name="bias_layer"),
            layers.LayerNormalization(axis=[-2, -1], name="norm"),
            layers.PReLU(name="activation"),
        ]
    )
    assert pruned_paths(model) == {
        "beta/embeddings",
        "gru/gru_cell/kernel",
        "gru/gru_cell/recurrent_kernel",
        "bias_layer/kernel",
    }


class Tied(layers.Layer):
    """An output layer that shares the matrix of another, by an attribute that says nothing of a kernel."""

    def __init__(self, source, **kwargs):
        super().__init__(**kwargs)
        self.token_bias = source.kernel

    def call(self, x):
        return ops.matmul(x, self.token_bias)


def test_b7_a_tied_weight_is_its_maker_s():
    maker = layers.Dense(4, name="maker")
    maker.build((None, 4))
    assert pruned_paths(keras.Sequential([layers.Input((4,)), maker, Tied(maker)])) == {"maker/kernel"}


# B5: settings reach the optimizer that trains.


def trained_by(make, setting):
    """Variables after steps without pruning, the settings made on the pruning optimizer or on a plain one."""
    rng = np.random.default_rng(3)
    variables = [keras.Variable(rng.normal(size=(3, 4)).astype("float32"), name="kernel") for _ in range(2)]
    inner = keras.optimizers.SGD(0.5)
    optimizer = rc.MagnitudePruning(inner, rc.ConstantSparsity(0.0, 0)) if make == "wrapped" else inner
    setting(optimizer)
    optimizer.build(variables)
    for _ in range(6):
        scale = optimizer.scale_loss(1.0)
        optimizer.apply([ops.convert_to_tensor(scale * rng.normal(size=(3, 4)).astype("float32")) for _ in range(2)])
    optimizer.finalize_variable_values(variables)
    return values(variables)


SETTINGS = {
    "weight_decay": {"weight_decay": 0.1},
    "clipnorm": {"clipnorm": 0.01},
    "clipvalue": {"clipvalue": 0.001},
    "global_clipnorm": {"global_clipnorm": 0.01},
    "use_ema": {"use_ema": True, "ema_momentum": 0.5},
    "ema_overwrite": {"use_ema": True, "ema_overwrite_frequency": 2},
    "accumulation": {"gradient_accumulation_steps": 2},
    "loss_scale": {"loss_scale_factor": 8.0, "clipnorm": 0.01},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_b5_a_setting_acts_as_it_does_without_pruning(name):
    def setting(optimizer):
        for key, value in SETTINGS[name].items():
            setattr(optimizer, key, value)
            assert getattr(optimizer, key) == value

    expected, found = trained_by("plain", setting), trained_by("wrapped", setting)
    for a, b in zip(expected, found, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    if name != "loss_scale":
        changed = trained_by("plain", lambda optimizer: None)
        assert any(np.abs(a - b).max() > 1e-4 for a, b in zip(changed, found, strict=True))


@pytest.mark.parametrize("scaled", [False, True])
def test_b5_variables_are_excluded_from_weight_decay(scaled):
    variables = [keras.Variable(np.ones((2, 2), "float32"), name=name) for name in ("kernel", "bias")]
    inner = keras.optimizers.AdamW(0.0, weight_decay=0.5)
    inner = keras.optimizers.LossScaleOptimizer(inner) if scaled else inner
    inner.learning_rate = 1.0
    optimizer = rc.MagnitudePruning(inner, rc.ConstantSparsity(0.0, 0))
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    optimizer.apply([ops.zeros((2, 2))] * 2, variables)
    np.testing.assert_allclose(ops.convert_to_numpy(variables[0]), 0.5)
    np.testing.assert_allclose(ops.convert_to_numpy(variables[1]), 1.0)


def test_b5_loss_scaling_outside_disables_the_scale_inside_as_in_keras():
    optimizer = rc.MagnitudePruning(keras.optimizers.SGD(0.1, loss_scale_factor=8.0), rc.ConstantSparsity(0.0, 0))
    keras.optimizers.LossScaleOptimizer(optimizer)
    assert optimizer.inner_optimizer.loss_scale_factor is None


def test_b5_what_cannot_be_forwarded_is_refused_in_one_line():
    for name, value in (("weight_decay", 0.1), ("clipnorm", 1.0), ("learning_rate", 0.1), ("use_ema", True)):
        with pytest.raises(rc.InvalidArgument, match=f"{name} must be .* Received: {name}={value}"):
            rc.DNS("sgd", rc.ConstantSparsity(0.5, 0), **{name: value})
    with pytest.raises(TypeError, match="clipnorn"):
        rc.DNS("sgd", rc.ConstantSparsity(0.5, 0), clipnorn=1.0)
    optimizer = rc.DNS("sgd", rc.ConstantSparsity(0.5, 0))
    optimizer.build(dense_net().trainable_variables)
    for name, value in (("use_ema", True), ("gradient_accumulation_steps", 4)):
        with pytest.raises(rc.InvalidArgument, match=f"{name} must be set before .* Received: {value}"):
            setattr(optimizer, name, value)
    scaled = rc.DNS(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD()), rc.ConstantSparsity(0.5, 0))
    with pytest.raises(rc.InvalidArgument, match="loss_scale_factor must be None"):
        scaled.loss_scale_factor = 2.0


# B6: the target is reached, or a warning says so (tfmot updates at multiples of the frequency only).


@pytest.mark.parametrize(("end", "frequency"), [(50, 100), (120, 50), (7, 3), (6, 3)])
@pytest.mark.parametrize("hold", [False, True])
def test_b6_masks_are_updated_where_the_rise_ends(end, frequency, hold):
    schedule = rc.PolynomialDecay(0.0, 0.9, 0, end, frequency=frequency, hold=hold)
    answers = [schedule(step) for step in range(2 * end)]
    now = [step for step, (update, _) in enumerate(answers) if ops.convert_to_numpy(update)]
    assert now == [s for s in range(2 * end) if (s % frequency == 0 and (hold or s <= end)) or s == end]
    assert float(ops.convert_to_numpy(answers[end][1])) == pytest.approx(0.9)


@pytest.mark.parametrize("rule", RULES)
def test_b6_the_target_is_met_where_the_frequency_does_not_divide(rule):
    variable = keras.Variable(np.random.default_rng(1).normal(size=(10, 10)).astype("float32"), name="kernel")
    optimizer = rule(keras.optimizers.SGD(0.01), rc.PolynomialDecay(0.0, 0.9, 0, 5))  # frequency 100
    optimizer.build([variable])
    for _ in range(6):
        optimizer.apply([ops.ones((10, 10))], [variable])
    assert ops.convert_to_numpy(optimizer.pruned[0].mask).mean() == pytest.approx(0.1)


def test_b6_a_run_that_ends_short_of_its_target_says_so(recwarn):
    x, y = small_data()
    for schedule, words in (
        (
            rc.PolynomialDecay(0.0, 0.9, 0, 4, frequency=2),
            r"past step 4 to .* sparsity 0\.9\. Received: 4 steps, .* 0\.78",
        ),
        (rc.ConstantSparsity(0.5, 100), r"past step 100 to .* sparsity 0\.5\. Received: 4 steps, which reached 0$"),
    ):
        model = compiled(dense_net(), rc.MagnitudePruning("sgd", schedule))
        with pytest.warns(UserWarning, match=words):
            model.fit(x, y, batch_size=16, verbose=0)
        recwarn.clear()
        if schedule.final_step == 4:
            model.fit(x[:16], y[:16], verbose=0)
            assert not [one for one in recwarn if "training must go on" in str(one.message)]


def test_b6_a_callback_s_run_that_ends_short_says_so():
    x, y = small_data()
    model = compiled(dense_net(), "sgd")
    with pytest.warns(UserWarning, match="training must go on past step 9"):
        model.fit(x, y, verbose=0, callbacks=[rc.DynamicNetworkSurgery(rc.PolynomialDecay(0.0, 0.5, 0, 9))])


# B8: compiling again keeps the zeros that are there (tfmot: transfer from a pruned base).


def sparse_net(sparsity=0.75):
    """A net whose kernels were pruned by magnitude, no longer compiled to prune, and where it is zero."""
    model = compiled(dense_net(), rc.MagnitudePruning("sgd", rc.ConstantSparsity(sparsity, 0)))
    model.fit(*small_data(), verbose=0)
    return model, [kernel == 0 for kernel in kernels(model)]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("initial_sparsity", [0.0, 0.75])
def test_b8_a_sparse_model_compiled_again_starts_from_its_zeros(rule, initial_sparsity):
    rng = np.random.default_rng(2)
    zeros = [rng.permutation(64).reshape(8, 8) < cut for cut in (48, 52)]
    variables = [
        keras.Variable(np.where(cut, 0, rng.normal(size=(8, 8))).astype("float32"), name="kernel") for cut in zeros
    ]
    schedule = rc.PolynomialDecay(initial_sparsity, 0.9, 2, 8, frequency=2)
    optimizer = rule(keras.optimizers.SGD(0.1, momentum=0.9), schedule, initial_masks="from_zeros")
    optimizer.build(variables)
    least = [48, 52]
    for step in range(10):
        optimizer.apply([ops.convert_to_tensor(rng.normal(size=(8, 8)).astype("float32")) for _ in range(2)])
        cut = [~ops.convert_to_numpy(p.mask) for p in optimizer.pruned]
        if step < 2 or rule in (rc.MagnitudePruning, rc.RandomPruning):  # those rules bring no weight back
            assert all((now | ~before).all() for now, before in zip(cut, zeros, strict=True))
        if rule is not rc.DNS or step in (2, 4, 6, 8):  # between updates it moves masks by its threshold
            assert all(now.sum() >= count for now, count in zip(cut, least, strict=True))
            least = [now.sum() for now in cut]
    assert least == [58, 58]


def test_b8_a_sparse_file_is_trained_on_with_its_zeros(tmp_path):
    model, _ = sparse_net()
    rc.save_sparse(model, tmp_path / "m.rcsm")
    loaded = compiled(
        rc.load_sparse(tmp_path / "m.rcsm"),
        rc.DNS(keras.optimizers.SGD(0.1), rc.ConstantSparsity(0.0, 0, frequency=1), initial_masks="from_zeros"),
    )
    for _ in range(2):  # and so does the file of a training that went on
        loaded.fit(*small_data(), batch_size=16, verbose=0)
        assert rc.sparsity_report(loaded, sizes=False).total.sparsity == 0.75
        loaded.save(tmp_path / "m.keras")
        loaded = rc.load_model(tmp_path / "m.keras")
        assert loaded.optimizer.initial_masks == "from_zeros"
    dense = compiled(rc.load_sparse(tmp_path / "m.rcsm"), rc.DNS("sgd", rc.ConstantSparsity(0.0, 0, frequency=1)))
    dense.fit(*small_data(), batch_size=16, verbose=0)
    assert rc.sparsity_report(dense, sizes=False).total.sparsity < 0.1


def test_b8_a_kernel_of_zeros_only_is_not_cut():
    model = keras.Sequential([layers.Input((8,)), layers.Dense(4, kernel_initializer="zeros")])
    compiled(model, rc.MagnitudePruning("sgd", rc.ConstantSparsity(0.5, 0), initial_masks="from_zeros"))
    model.fit(*small_data(), verbose=0)
    assert np.count_nonzero(kernels(model)[0]) == 16


@pytest.mark.parametrize("loaded", [False, True])
def test_b8_a_new_schedule_goes_on_with_masks_dense_weights_and_slots(loaded, tmp_path):
    x, y = small_data()

    def made(schedule):
        keras.utils.set_random_seed(5)
        return compiled(dense_net(), rc.DNS(keras.optimizers.Adam(0.05), schedule))

    # Both halves in one schedule, as an independent account: constant 0.5, then a jump to 0.75 at step 4.
    class Jump(rc.ConstantSparsity):
        def sparsity_at(self, step):
            return ops.where(step < 4, 0.5, 0.75)

    expected = made(Jump(0.75, 0, frequency=2))
    expected.fit(x, y, batch_size=16, epochs=2, shuffle=False, verbose=0)
    model = made(rc.ConstantSparsity(0.5, 0, frequency=2))
    model.fit(x, y, batch_size=16, shuffle=False, verbose=0)
    if loaded:
        model.save(tmp_path / "m.keras")
        model = rc.load_model(tmp_path / "m.keras")
    rc.reschedule(model, rc.ConstantSparsity(0.75, 0, frequency=2))
    model.fit(x, y, batch_size=16, shuffle=False, verbose=0)
    for a, b in zip(
        values(expected.variables + expected.optimizer.variables),
        values(model.variables + model.optimizer.variables),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, atol=1e-6)
    model.save(tmp_path / "m.keras")
    assert rc.load_model(tmp_path / "m.keras").optimizer.schedule.final == 0.75


def test_b8_a_new_schedule_that_breaks_a_rule_changes_nothing():
    model = compiled(dense_net(), rc.DNS("sgd", rc.ConstantSparsity(0.5, 0), pattern=rc.NM(2, 4)))
    model.fit(*small_data(), verbose=0)
    for schedule, distribution in ((rc.ConstantSparsity(0.9, 0), None), (rc.ConstantSparsity(0.5, 0), "global")):
        with pytest.raises(rc.InvalidArgument):
            rc.reschedule(model, schedule, distribution)
        assert model.optimizer.schedule.final == 0.5 and model.optimizer.distribution == rc.Uniform()
    with pytest.raises(rc.InvalidArgument, match="model must be compiled with a pruning optimizer"):
        rc.reschedule(compiled(dense_net(), "sgd"), rc.ConstantSparsity(0.5, 0))


# B3: what the callback prunes is saved, loaded and restored as pruned.


def surgery(**options):
    return rc.DynamicNetworkSurgery(rc.PolynomialDecay(0.0, 0.75, 0, 6, frequency=2), seed=2, **options)


def model_state(model):
    return values(model.trainable_variables + model.optimizer.variables)


@pytest.mark.parametrize("scaled", [None, "mixed_float16", "by hand"])
def test_b3_a_model_that_the_callback_pruned_is_saved_and_loaded_as_pruned(scaled, tmp_path):
    x, y = small_data()
    if scaled == "mixed_float16":
        keras.config.set_dtype_policy(scaled)
    inner = keras.optimizers.Adam(0.01)
    model = compiled(dense_net(), keras.optimizers.LossScaleOptimizer(inner) if scaled == "by hand" else inner)
    checkpoint = keras.callbacks.ModelCheckpoint(str(tmp_path / "during.keras"))
    model.fit(x, y, batch_size=16, epochs=2, shuffle=False, verbose=0, callbacks=[checkpoint, surgery()])
    model.save(tmp_path / "after.keras")
    for name in ("during", "after"):
        loaded = rc.load_model(tmp_path / f"{name}.keras")
        assert type(loaded.optimizer) is type(model.optimizer)
        for a, b in zip(model_state(model), model_state(loaded), strict=True):
            np.testing.assert_array_equal(a, b)
    for one in (model, loaded):
        one.fit(x, y, batch_size=16, shuffle=False, verbose=0)
        assert rc.sparsity_report(one, sizes=False).total.sparsity == 0.75
    for a, b in zip(model_state(model), model_state(loaded), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("first", ["backup", "surgery"])
def test_b3_a_killed_training_is_restored_in_any_order_of_callbacks(first, tmp_path):
    x, y = small_data()

    class Killed(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    def made():
        keras.utils.set_random_seed(4)
        return compiled(dense_net(), keras.optimizers.SGD(0.1, momentum=0.9))

    def fit(model, *callbacks):
        backup = keras.callbacks.BackupAndRestore(str(tmp_path / "backup"))
        own = [backup, surgery()] if first == "backup" else [surgery(), backup]
        model.fit(x, y, batch_size=16, epochs=4, shuffle=False, verbose=0, callbacks=[*own, *callbacks])
        return model

    straight = fit(made())
    with pytest.raises(KeyboardInterrupt):
        fit(made(), Killed())
    for a, b in zip(model_state(straight), model_state(fit(made())), strict=True):
        np.testing.assert_array_equal(a, b)


# C1 (tensorflow/tensorflow 11055): weights load into any compiled model, as in Keras.


@pytest.mark.parametrize(
    ("saved_by", "built"),
    [
        ("the same rule", False),
        ("the same rule", True),
        ("another rule", True),
        ("Adam", False),
        ("Adam", True),
        ("other layers", True),
        ("not trained", False),
        ("not trained", True),
    ],
)
def test_c1_weights_load_with_a_warning_whatever_trained_them(saved_by, built, tmp_path):
    x, y = small_data()
    made = {
        "the same rule": lambda: rc.DNS(keras.optimizers.Adam(), rc.ConstantSparsity(0.5, 0)),
        "another rule": lambda: rc.MovementPruning(keras.optimizers.Adam(), rc.ConstantSparsity(0.5, 0)),
        "Adam": keras.optimizers.Adam,
        "other layers": lambda: rc.DNS(keras.optimizers.Adam(), rc.ConstantSparsity(0.5, 0), include="dense_1"),
        "not trained": lambda: rc.DNS(keras.optimizers.Adam(), rc.ConstantSparsity(0.5, 0)),
    }[saved_by]
    source = compiled(dense_net(), made())
    if saved_by != "not trained":
        source.fit(x, y, verbose=0)
    source.save_weights(tmp_path / "m.weights.h5")
    include = "dense/kernel" if saved_by == "other layers" else None  # as many slots, of another shape
    model = compiled(dense_net(), rc.DNS(keras.optimizers.Adam(), rc.ConstantSparsity(0.5, 0), include=include))
    if built:
        model.optimizer.build(model.trainable_variables)
    if saved_by in ("the same rule", "not trained") and built == (saved_by == "the same rule"):
        model.load_weights(tmp_path / "m.weights.h5")
        for a, b in zip(model_state(source), model_state(model), strict=True):
            np.testing.assert_array_equal(a, b)
    else:
        with pytest.warns(UserWarning, match="Skipping variable loading for optimizer"):
            model.load_weights(tmp_path / "m.weights.h5")
    for a, b in zip(source.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    model.fit(x, y, verbose=0)


# C2: what training needs is not asked for when loading.


def frozen_whole(model):
    model.trainable = False


def frozen_first(model):
    model.layers[0].trainable = False


def quantized(model):
    model.quantize("int8")


@pytest.mark.parametrize(
    ("change", "options"),
    [
        (frozen_whole, {}),
        (frozen_whole, {"distribution": {"dense/": 0.5}}),
        (frozen_first, {}),
        (frozen_first, {"include": "dense/kernel"}),
        (frozen_first, {"distribution": {"dense/": 0.5}}),
        (quantized, {}),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_c2_a_frozen_or_quantised_model_loads_and_evaluates(change, options, tmp_path):
    if change is quantized and keras.backend.backend() != "tensorflow":
        return  # the same code of ours; Keras' own differs
    x, y = small_data()
    model = compiled(dense_net(), rc.DNS("adam", rc.ConstantSparsity(0.5, 0), **options))
    model.fit(x, y, verbose=0)
    before = rc.sparsity_report(model, sizes=False).total.sparsity
    change(model)
    expected = model.predict(x, verbose=0)
    model.save(tmp_path / "m.keras")
    loaded = rc.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), expected)
    loaded.evaluate(x, y, verbose=0)
    if change is frozen_whole and not options:
        assert rc.sparsity_report(loaded, sizes=False).total.sparsity == before
    if change is frozen_whole:
        loaded.fit(x, y, verbose=0)
        np.testing.assert_array_equal(loaded.predict(x, verbose=0), expected)
    elif change is frozen_first and not options:
        loaded.fit(x, y, verbose=0)
    elif change is frozen_first and "include" in options:  # training is where it is said that nothing would be pruned
        with pytest.raises(rc.InvalidArgument, match="include must choose at least one variable"):
            loaded.fit(x, y, verbose=0)


@pytest.mark.parametrize(("rule", "distribution"), [(rc.DNS, {"dense": 0.5}), (rc.DNS, "erk"), (rc.RigL, "uniform")])
@pytest.mark.filterwarnings("ignore")
def test_c2_fit_and_evaluate_with_everything_frozen_as_in_keras(rule, distribution):
    x, y = small_data()
    model = dense_net()
    model.trainable = False
    compiled(model, rule(keras.optimizers.SGD(), rc.ConstantSparsity(0.5, 0), distribution=distribution))
    before = model.get_weights()
    model.evaluate(x, y, verbose=0)
    model.fit(x, y, verbose=0)
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.filterwarnings("ignore")
def test_c2_a_report_counts_frozen_kernels():
    model, _ = sparse_net()
    model.compile("sgd", "mse")
    model.trainable = False
    assert rc.sparsity_report(model, sizes=False).total.sparsity == 0.75


@pytest.mark.filterwarnings("ignore")
def test_c2_a_frozen_compressor_loads(tmp_path):
    model = rc.Compressor(latent_dim=4, levels=4, width=4, image_shape=(16, 16, 1))
    model.compile(rc.DNS(rc.Adam(1e-3), rc.ConstantSparsity(0.5, 0)))
    x = np.random.default_rng(0).random((4, 16, 16, 1), dtype="float32")
    model.fit(x, verbose=0)
    model.trainable = False
    model.save(tmp_path / "m.keras")
    loaded = rc.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), model.predict(x, verbose=0))
    loaded.evaluate(x, verbose=0)


# B1: a sparse file holds what layers keep outside of their variables.


@keras.saving.register_keras_serializable("tests")
class Table(layers.Layer):
    """A user's layer with a table that is no variable, and a number in an asset."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.table, self.offset = np.zeros(6, "float32"), 0.0

    def build(self, shape):
        self.kernel = self.add_weight(shape=(6, 6), name="kernel")
        super().build(shape)

    def call(self, x):
        return ops.matmul(x, self.kernel) * self.table + self.offset

    def save_own_variables(self, store):
        super().save_own_variables(store)
        store["table"] = self.table

    def load_own_variables(self, store):
        self.table = np.array(store["table"])
        super().load_own_variables({"0": store["0"]})

    def save_assets(self, dir_path):
        with open(f"{dir_path}/offset.txt", "w") as file:
            file.write(str(self.offset))

    def load_assets(self, dir_path):
        with open(f"{dir_path}/offset.txt") as file:
            self.offset = float(file.read())


def with_normalization():
    x = np.random.default_rng(1).normal(50, 20, size=(16, 6)).astype("float32")
    inner = layers.Normalization()
    inner.adapt(x)
    nested = keras.Sequential([layers.Input((6,)), layers.Normalization(mean=1.0, variance=4.0), layers.Dense(6)])
    return keras.Sequential([layers.Input((6,)), inner, nested, layers.Dense(3)]), x


def with_discretization():
    x = np.random.default_rng(1).normal(50, 20, size=(16, 6)).astype("float32")
    layer = layers.Discretization(num_bins=4)
    layer.adapt(x)
    return keras.Sequential([layers.Input((6,)), layer, layers.Embedding(4, 3)]), x


def with_table():
    model, x = keras.Sequential([layers.Input((6,)), Table(), layers.Dense(3)]), np.ones((2, 6), "float32")
    model.layers[0].table, model.layers[0].offset = np.arange(6, dtype="float32"), 2.5
    return model, x


def with_integers(**options):
    x = np.array([[3, 7, 9], [7, 7, 3], [5, 1, 1]])
    layer = layers.IntegerLookup(**options)
    layer.adapt(x)
    return keras.Sequential([layers.Input((3,), dtype="int64"), layer, layers.Dense(3)]), x


def with_strings(layer):
    import tensorflow as tf

    x = tf.constant([["a b"], ["c d b"], ["é b"]])
    if not isinstance(layer, layers.Hashing) and not layer.get_config()["vocabulary"]:
        layer.adapt(x)
    return keras.Sequential([layers.Input((1,), dtype="string"), layer, layers.Dense(3)]), x


STATES = {
    "normalization": with_normalization,
    "discretization": with_discretization,
    "table": with_table,
}
STRINGS = {
    "integers": lambda: with_integers(output_mode="multi_hot"),
    "idf": lambda: with_integers(output_mode="tf_idf"),
    "strings": lambda: with_strings(layers.StringLookup(output_mode="multi_hot")),
    "text": lambda: with_strings(layers.TextVectorization(output_mode="tf_idf")),
    "given": lambda: with_strings(layers.TextVectorization(vocabulary=["b", "a"], output_mode="multi_hot")),
    "hashing": lambda: with_strings(layers.Hashing(4, output_mode="multi_hot")),
}


def comes_back_as_from_keras(made, tmp_path):
    model, x = made()
    expected = model.predict(x, verbose=0)
    model.save(tmp_path / "m.keras")
    np.testing.assert_array_equal(rc.load_model(tmp_path / "m.keras").predict(x, verbose=0), expected)
    rc.save_sparse(model, tmp_path / "m.rcsm")
    loaded = rc.load_sparse(tmp_path / "m.rcsm")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), expected)
    rc.save_sparse(loaded, tmp_path / "again.rcsm")
    np.testing.assert_array_equal(rc.load_sparse(tmp_path / "again.rcsm").predict(x, verbose=0), expected)


@pytest.mark.parametrize("name", STATES)
def test_b1_a_sparse_file_gives_the_predictions_of_a_keras_file(name, tmp_path):
    comes_back_as_from_keras(STATES[name], tmp_path)


@pytest.mark.tensorflow_only
@pytest.mark.parametrize("name", STRINGS)
def test_b1_vocabularies_come_back(name, tmp_path):
    comes_back_as_from_keras(STRINGS[name], tmp_path)


def test_b1_a_kernel_is_not_stored_twice_and_adapters_stay_as_they_are(tmp_path):
    model, x = with_table()
    model.layers[1].enable_lora(2)
    model.layers[1].lora_kernel_b.assign(np.ones((2, 3)))
    rc.save_sparse(model, tmp_path / "m.rcsm")
    with zipfile.ZipFile(tmp_path / "m.rcsm") as archive:
        states = json.loads(archive.read("config.json"))["states"]
    (state,) = states.values()
    assert state["own"]["0"] == 0 and state["own"]["table"][:2] == ["<f4", [6]]
    loaded = rc.load_sparse(tmp_path / "m.rcsm")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), model.predict(x, verbose=0))
    for a, b in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_b1_a_state_that_cannot_be_written_is_refused_and_its_layer_named(tmp_path):
    model, _ = with_table()
    model.layers[0].table = np.array([{"a": 1}], object)
    with pytest.raises(rc.InvalidArgument, match=f"layer {model.layers[0].name} must keep its state in arrays"):
        rc.save_sparse(model, tmp_path / "m.rcsm")
    assert not (tmp_path / "m.rcsm").exists()


@pytest.mark.parametrize("change", ["name", "absolute", "shape", "missing", "kind"])
def test_b1_a_damaged_state_is_refused_in_one_line_and_leads_nowhere(change, tmp_path):
    model, _ = with_table()
    path = tmp_path / "m.rcsm"
    rc.save_sparse(model, path)
    with zipfile.ZipFile(path) as archive:
        head, weights = json.loads(archive.read("config.json")), archive.read("weights.bin")
    (state,) = head["states"].values()
    data = state["assets"].pop("offset.txt")
    outside = tmp_path / "outside.txt"
    if change == "missing":
        head["states"] = {}
    elif change == "kind":
        state["own"] = 3
    elif change == "shape":
        state["own"]["table"][1] = [10**12]
    else:
        state["assets"][str(outside) if change == "absolute" else "../outside.txt"] = data
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps(head))
        archive.writestr("weights.bin", weights)
    with pytest.raises(rc.DataError, match=f"the state of layer {model.layers[0].name} cannot be read") as error:
        rc.load_sparse(path)
    assert "\n" not in str(error.value) and not outside.exists()


# B4 (neuralmagic/sparseml 1486): moving averages are sparse wherever they are seen.


class Watch(keras.callbacks.Callback):
    """Keeps the weights after every step, and what validation sees."""

    def on_train_begin(self, logs=None):
        self.steps, self.validated = [], []

    def on_train_batch_end(self, batch, logs=None):
        self.steps.append(kernels(self.model))

    def on_test_batch_end(self, batch, logs=None):
        self.validated.append(kernels(self.model))


@pytest.mark.parametrize("scaled", [None, "mixed_float16"])
def test_b4_validation_and_checkpoints_see_the_masked_average(scaled, tmp_path):
    if scaled:
        keras.config.set_dtype_policy(scaled)
    x, y = small_data()
    inner = keras.optimizers.SGD(0.5, use_ema=True, ema_momentum=0.8)
    model = compiled(dense_net(), rc.MagnitudePruning(inner, rc.ConstantSparsity(0.5, 2, end_step=2)))
    checkpoint = keras.callbacks.ModelCheckpoint(str(tmp_path / "{epoch}.keras"))
    swap, watch = keras.callbacks.SwapEMAWeights(swap_on_epoch=True), Watch()
    model.fit(
        *(x, y),
        batch_size=16,
        epochs=2,
        shuffle=False,
        verbose=0,
        validation_data=(x[:16], y[:16]),
        callbacks=[swap, checkpoint, watch],
    )
    steps, validated = watch.steps, watch.validated
    assert len(steps) == 8 and len(validated) == 2
    for layer in range(2):
        average = steps[0][layer]
        for step in range(8):
            average = 0.8 * average + 0.2 * steps[step][layer] if step else average
            if step % 4 == 3:
                expected = average * (steps[step][layer] != 0)
                found = validated[step // 4][layer]
                assert np.mean(found == 0) == 0.5
                np.testing.assert_allclose(found, expected, atol=1e-5)
                saved = kernels(rc.load_model(tmp_path / f"{step // 4 + 1}.keras"))[layer]
                np.testing.assert_array_equal(saved == 0, found == 0)
                np.testing.assert_allclose(saved, expected, atol=1e-5)


@pytest.mark.parametrize("overwrite", [None, 3])
def test_b4_the_average_of_a_weight_that_comes_back_begins_with_its_dense_value(overwrite):
    variable = keras.Variable(np.array([[0.5, 1.0]], "float32"), name="kernel")
    inner = keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.75, ema_overwrite_frequency=overwrite)
    optimizer = rc.DNS(inner, rc.ConstantSparsity(0.5, 0, frequency=1), update_probability=1.0)
    optimizer.build([variable])
    dense, average, used = np.array([0.5, 1.0]), None, np.array([True, True])
    for step in range(9):
        optimizer.apply([ops.convert_to_tensor(np.array([[-1.5, 0.0]], "float32"))], [variable])
        before, dense = dense, dense + np.array([0.15, 0.0])
        average = dense if step == 0 else 0.75 * np.where(used, average, before) + 0.25 * dense
        if overwrite and (step + 1) % overwrite == 0:  # Keras counts the update before it counts the step
            dense = average
        scores = np.abs(dense) / np.where(used, 0.9, 1.1)
        used = np.arange(2) == np.argmax(scores)
        np.testing.assert_allclose(ops.convert_to_numpy(variable)[0], dense * used, atol=1e-5)
        found = ops.convert_to_numpy(inner._model_variables_moving_average[0])[0]
        np.testing.assert_allclose(found, average * used, atol=1e-5)
    assert used[0]  # it came back on the way


# E8: every public name of pruning and networks is in its document, and what loading needs is said ---------------------


def test_e8_every_public_name_is_documented():
    import tf_robustcomp.pruning as pruning

    docs = pathlib.Path(__file__).parents[2] / "docs"
    text = "".join((docs / f"{name}.md").read_text() for name in ("pruning", "recipes", "smaller", "extending"))
    names = [*pruning.__all__, "resnet_v2", "random_labels", "load_model", "Error", "InvalidArgument", "DataError"]
    assert all(hasattr(rc, name) for name in names)
    assert [name for name in names if f"rc.{name}" not in text] == []
