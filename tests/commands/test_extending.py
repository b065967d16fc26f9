"""The page docs/extending.md, taken at its word: each class goes through the real command."""

import re
from pathlib import Path

import keras
import numpy as np
import pytest

import tf_robustcomp as rc
from tf_robustcomp import eval_wass_ball, prune_resnet_dns, train_compressor, train_resnet_random
from tf_robustcomp.runs.directory import Run
from tf_robustcomp.utils import registry
from tf_robustcomp.utils.errors import InvalidArgument

pytestmark = pytest.mark.tensorflow_only

PAGE = (Path(__file__).parents[2] / "docs/extending.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
COMPRESSOR = ["--data=digits", "--side=16", "--epochs=0.2", "--log-steps=2", "--eval-images=8"]
CLASSIFIER = ["--dataset=digits", "--model-size=8", "--bn-momentum=0.9", "--batch-size=32", "--max-steps=6"]


@pytest.fixture
def extension(tmp_path, monkeypatch):
    """Write the block with a class to a file that the package does not know yet, and forget it afterwards."""
    monkeypatch.setattr(registry, "_extensions", [])

    def write(name):
        block = next(block for block in BLOCKS if f'"{name}"' in block)
        path = tmp_path / f"{name}_{len(list(tmp_path.iterdir()))}.py"
        path.write_text(block)
        return str(path)

    return write


def test_each_takes_less_than_twenty_lines():
    assert len(BLOCKS) == 4
    for block in BLOCKS:
        assert len([line for line in block.splitlines() if line.strip() and "import" not in line]) < 20


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("brighten", ["--adversary=brighten", "--amount=0.2", "--latent-dim=3", "--width=4"]),
        ("linear", ["--model=linear", "--latent-dim=3"]),
    ],
)
@pytest.mark.slow
def test_a_compressor_and_an_adversary_train_are_evaluated_and_loaded(name, words, extension, tmp_path, capsys):
    words = [*COMPRESSOR, *words, f"--extension={extension(name)}", f"--train-dir={tmp_path / 'out'}"]
    assert train_compressor.main([*words, "--help"]) == 0
    listed = capsys.readouterr().out
    assert name in listed and ("--amount\n      added to every pixel [default: 0.1]" in listed) == (name == "brighten")
    assert train_compressor.main(["train", *words]) == 0, capsys.readouterr().err
    assert train_compressor.main(["eval", *words]) == 0, capsys.readouterr().err
    settings = Run(tmp_path / "out").config["settings"]
    assert settings["extension"] and settings.get("amount") == (0.2 if name == "brighten" else None)
    # Another command knows nothing but the run directory.
    evaluate = [f"--models={tmp_path / 'out'}", "--images=4", "--gammas=1", "--attack-steps=2", "--check-images=0"]
    assert eval_wass_ball.main([*evaluate, f"--output={tmp_path / 'worst'}"]) == 0, capsys.readouterr().err
    model = Run(tmp_path / "out").load_model()
    if name == "brighten":
        assert model.adversary.get_config() == {"amount": 0.2}
    else:
        assert type(model).__name__ == "LinearCompressor"


def test_a_pruning_rule_prunes(extension, tmp_path, capsys):
    train = [*CLASSIFIER, "--learning-rates=0.1", "--boundaries=", f"--train-dir={tmp_path / 'dense'}"]
    assert train_resnet_random.main(["train", *train]) == 0
    path = extension("gradient")
    own = [f"--extension={path}", "--rule=gradient", "--power=0.5", "--ramp-steps=4", "--update-steps=1"]
    words = [*CLASSIFIER, *own, "--target-sparsity=0.6", f"--warm-start={tmp_path / 'dense'}"]
    words.append(f"--train-dir={tmp_path / 'pruned'}")
    assert prune_resnet_dns.main(["train", *words]) == 0, capsys.readouterr().err
    model = Run(tmp_path / "pruned").load_model()
    assert type(model.optimizer).__name__ == "GradientPruning" and model.optimizer.power == 0.5
    assert rc.sparsity_report(model, sizes=False).total.sparsity == pytest.approx(0.6, abs=0.01)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no such file"),
        ("x = 1\n", "registers no class"),
        ("def (\n", "cannot be read as Python"),
        ('n = "a"\n@register("adversary", n)\nclass A: pass\n', "must be literals"),
        ('@register("adversary", "a")\nclass A(Missing): pass\n', "cannot be imported"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_clear_line(text, message, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(registry, "_extensions", [])
    path = tmp_path / "mine.py"
    if text is not None:
        path.write_text(text)
    words = [*COMPRESSOR, "--latent-dim=3", f"--extension={path}", f"--train-dir={tmp_path / 'out'}"]
    chosen = ["--adversary=a"] if message == "cannot be imported" else []
    assert train_compressor.main(["train", *words, *chosen]) == 2
    error = capsys.readouterr().err
    assert message in error and "mine.py" in error and error.count("\n") == 1


def test_an_unknown_kind_is_refused():
    with pytest.raises(InvalidArgument, match="kind must be one of compressor"):
        rc.register("codec", "mine")


def test_every_built_in_variant_is_known_to_keras():
    for kind in registry.FOLDERS:
        for variant in registry.variants(kind).values():
            cls = variant.load()
            assert keras.saving.get_registered_name(cls) == f"tf_robustcomp>{cls.__name__}"


def test_an_encoder_offers_codes():
    names: dict = {}
    exec(next(block for block in BLOCKS if "rc.Encoder" in block), names)
    model = rc.Compressor(3, levels=5, width=2, image_shape=(16, 16, 1))
    images = np.random.default_rng(0).random((6, 16, 16, 1), dtype="float32")
    network, found = (
        np.sum((images - keras.ops.convert_to_numpy(model.decode(encoder(model, images)))) ** 2.0, axis=(1, 2, 3))
        for encoder in (rc.NetworkEncoder(), names["Jumps"]())
    )
    assert (found <= network).all() and (found < network).any()
