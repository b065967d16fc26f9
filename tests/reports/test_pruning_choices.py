"""Faults that users of pruning reported, B2, B4 to B7: what is pruned, how far, and by which optimizer."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import tf_robustcomp as rc
from tests.pruning.models import compiled, dense_net, kernels, small_data
from tests.reports.pruned import RULES, fit, masks, pruned_paths, values

pytestmark = pytest.mark.slow


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
