"""Train networks whose code is short, and say what their files prove."""

import dataclasses
import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tf_robustcomp.backend.gradients import read
from tf_robustcomp.bounds.kl import KINDS, generalization_bound, kl, least_bits
from tf_robustcomp.bounds.network_file import code_bits, coded_optimizer, load_code, save_code
from tf_robustcomp.bounds.optimizers import Quantize, Subspace
from tf_robustcomp.data.batches import evaluation_batches, scaled, training_batches
from tf_robustcomp.data.images import is_source
from tf_robustcomp.experiments.classifier import compiled, labelled_records
from tf_robustcomp.networks import compact_network
from tf_robustcomp.pruning import load_sparse, save_sparse
from tf_robustcomp.runs import trainer
from tf_robustcomp.runs.directory import Run
from tf_robustcomp.runs.models import load_trained, model_path
from tf_robustcomp.utils import drawing, table
from tf_robustcomp.utils.errors import InvalidArgument

CODE, SPARSE = ".rcnb", ".rcsm"
WARMUP_STEPS = 400
COLUMNS = ("network", "bits", "training_error", "test_error", "bound", "binomial", "catoni", "chance", "verdict")


def of_grid(command: str, settings: Any) -> None:
    """Train a network for each point of the grid, bound each, and write bounds.csv; what was chosen is paid for.

    Args:
        command: name of the command.
        settings: `BoundSettings`.
    """
    data = _labelled(settings)
    first = 0
    if settings.prior_share:
        first = int(settings.prior_share * len(data["train"][0]))
        if not 0 < first < len(data["train"][0]):
            raise InvalidArgument(f"--prior-share must leave images on both sides. Received: {settings.prior_share}")
    if settings.start:  # refused here, before a run's folder holds these flags
        load_code(settings.start, _network(settings, data["train"][0].shape[1:], _classes(data))[0])
    grid = [(weight, seed) for weight in settings.bit_weights for seed in settings.seeds]
    chosen_bits = math.log2(len(grid) * settings.compared)
    rows = []
    for weight, seed in grid:
        name = f"w{weight:g}-s{seed}"
        own = dataclasses.replace(settings, bit_weights=(weight,), seeds=(seed,))
        path = Path(settings.train_dir)
        if first:
            prior = dataclasses.replace(settings, seeds=(seed,))
            _train(command, prior, path / f"prior-s{seed}", data, slice(0, first), _prior, settings.prior_epochs)
        begin = path / f"prior-s{seed}" if first else None
        _train(command, own, path / name, data, slice(first, None), _coded(begin), settings.epochs)
        rows.append(_row(own, path / name, data, slice(first, None), begin, chosen_bits))
    best = min(rows, key=lambda row: row["bound"])
    table.write_csv(Path(settings.train_dir) / "bounds.csv", rows)
    draw(Path(settings.train_dir) / "bounds.png", rows)
    _print(rows, "prior from the first images: data-dependent" if first else "prior fixed before the data")
    print(f"best: {best['network']}, true error at most {best['bound']:.4f} with probability {1 - settings.delta:g}")
    _hint(settings, best)


def draw(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Draw training error, test error and bound against the bits of the code: each network, and means over seeds.

    Args:
        path: of the figure.
        rows: of bounds.csv.
    """
    figure, axis = drawing.pyplot().subplots(figsize=(6, 4), layout="constrained")
    for number, name in enumerate(("bound", "test_error", "training_error")):
        groups: dict[str, list] = {}  # of one bit weight, which the name says before its seed
        for row in rows:
            if row[name] != "":
                point = float(row["bits"]), float(row[name])
                groups.setdefault(row["network"].rpartition("-s")[0], []).append(point)
        means = np.array(sorted(tuple(np.mean(points, axis=0)) for points in groups.values())).reshape(-1, 2)
        (line,) = axis.plot(*means.T, **drawing.line(number), label=name.replace("_", " "))
        if sum(map(len, groups.values())) > len(means):
            points = np.concatenate(list(groups.values()))
            axis.scatter(*points.T, s=8, color=line.get_color(), alpha=0.5)
    chance = float(rows[0]["chance"])
    if max(float(row["bound"]) for row in rows) > chance / 2:  # else it would only press the lines together
        axis.axhline(chance, color="grey", linewidth=0.8, linestyle=":", label="guessing")
    axis.set(xlabel="bits of the code", ylabel="fraction of images", ylim=(0, None))
    axis.grid(alpha=0.3)
    axis.legend()
    drawing.save(figure, path)


def of_model(settings: Any) -> None:
    """Bound the error of a network that is there already: a run, a .keras, a .rcsm or a .rcnb file.

    Of a run or a .keras file, `rc.save_sparse` makes a file first, and what that file gives back is bounded.
    """
    path, data = Path(settings.model), _labelled(settings)
    if path.suffix == CODE:
        model, bits = load_code(path), code_bits(path)
    elif path.suffix == SPARSE:
        model, bits = load_sparse(path), 8 * path.stat().st_size
    else:
        model_path(path)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / f"network{SPARSE}"
            save_sparse(load_trained(path), file)
            model, bits = load_sparse(file), 8 * file.stat().st_size
    paid = bits + math.log2(settings.compared)
    shape = tuple(data["train"][0].shape[1:])
    if tuple(model.input_shape[1:]) != shape:
        raise InvalidArgument(
            f"--data must hold images {tuple(model.input_shape[1:])} for this network. Found: {shape}"
        )
    row = _bounds(settings, path.name, model, paid, data, slice(None))
    _print([row], f"if its architecture was fixed before, but for a choice of {settings.compared}")
    _hint(settings, row)


def _labelled(settings):
    """Images and labels by split; records in a file named train have their test set beside it."""
    train = labelled_records(settings, settings.data, "train")[:2]
    source = settings.data
    if not is_source(source):
        source = str(Path(source).with_name(Path(source).name.replace("train", "test")))
        if source == settings.data or not Path(source).is_file():
            return {"train": train, "test": (train[0], None)}
    images, _, labels = labelled_records(settings, source, "test")
    return {"train": train, "test": (images, labels)}


def _train(command, settings, path, data, rows, build, epochs):
    images, labels = (array[rows] for array in data["train"])
    own = dataclasses.replace(settings, train_dir=str(path))
    steps = math.ceil(epochs * len(images) / settings.batch_size)
    trainer.train_run(
        command,
        own,
        load=lambda: (images, labels),
        build=lambda arrays: build(own, len(images), steps, arrays[0].shape[1:], _classes(data)),
        batches_from=lambda arrays, step: training_batches(
            arrays, settings.batch_size, settings.order_seed, step, prepare=scaled
        ),
        max_steps=steps,
        describe=_described,
        hint="",
    )


def _described(model):
    coded = coded_optimizer(model.optimizer)
    found = {"learning_rate": float(read(model.optimizer.learning_rate))}
    return found if coded is None else found | {"estimated_bits": coded.code_length()}


def _network(settings, shape, classes):
    keras.utils.set_random_seed(settings.seeds[0])
    sizes = {name: getattr(settings, name) for name in ("width", "repeats", "stages", "shared", "views")}
    return compact_network(shape, classes, **sizes), sizes


def _adam(settings, steps):
    warmup = min(WARMUP_STEPS, steps // 4)
    rate = settings.learning_rate
    return keras.optimizers.Adam(
        keras.optimizers.schedules.CosineDecay(
            rate / 10, max(1, steps - warmup), warmup_target=rate, warmup_steps=warmup
        )
    )


def _prior(settings, examples, steps, shape, classes):
    return compiled(_network(settings, shape, classes)[0], _adam(settings, steps), settings)


def _coded(begin):
    """Builder of a network that a coded optimizer trains, perhaps from another one."""

    def build(settings, examples, steps, shape, classes):
        model, _ = _network(settings, shape, classes)
        options: dict = {"bit_weight": settings.bit_weights[0], "levels": settings.levels}
        if settings.start:
            load_code(settings.start, model)
        if begin:
            model.set_weights(load_trained(begin).get_weights())
            options["begin"] = "model"
        inner = _adam(settings, steps)
        if settings.method == "subspace":
            optimizer: Any = Subspace(inner, examples, settings.dim, settings.seeds[0], **options)
        else:
            optimizer = Quantize(inner, examples, **options)
        return compiled(model, optimizer, settings)

    return build


def _row(settings, path, data, rows, begin, chosen_bits):
    """Write the file of a run's network, read it back, and bound what was read."""
    model, file = Run(path).load_model(), path / f"network{CODE}"
    _, sizes = _network(settings, data["train"][0].shape[1:], _classes(data))
    parts = save_code(model, file, sizes)
    shown = ", ".join(f"{name} {bits:.0f}" for name, bits in parts.items() if name != "total")
    print(f"{file}: {parts['total']:.0f} bits ({shown}, choices {chosen_bits:.1f} more)", flush=True)
    if begin and not any(numbers.any() for numbers in coded_optimizer(model.optimizer).symbols()[0]):
        print(f"{file} holds no change: a test on the held-out images, which says nothing about compression")
    model = load_code(file, load_trained(begin) if begin else None)
    return _bounds(settings, path.name, model, code_bits(file) + chosen_bits, data, rows)


def _bounds(settings, name, model, bits, data, rows):
    images, labels = (array[rows] for array in data["train"])
    error, examples = _error(model, images, labels), len(images)
    found = {kind: generalization_bound(error, bits, examples, settings.delta, kind) for kind in KINDS}
    chance = 1 - 1 / _classes(data)
    test = data["test"]
    return {
        "network": name,
        "bits": round(bits, 2),
        "examples": examples,
        "training_error": error,
        "test_error": "" if test[1] is None else _error(model, *test),
        "bound": found["occam"],
        "binomial": found["binomial"],
        "catoni": found["catoni"],
        "chance": chance,
        "verdict": "vacuous" if found["occam"] >= chance else "holds",
    }


def _hint(settings, row):
    """Say what would make a vacuous bound hold; the bits at which it would are those that any such network needs."""
    error, chance = row["training_error"], row["chance"]
    if row["verdict"] == "holds" or settings.proportion_random == 1:
        return
    needs = "at such a training error no code is short enough"
    if bits := least_bits(error, chance, row["examples"], settings.delta):
        nats = row["bits"] * math.log(2) - math.log(settings.delta)
        needs = (
            f"at this training error it holds below {bits:,.0f} bits, or with {nats / kl(error, chance):,.0f} examples"
        )
    print(f"vacuous: {needs}; what helps: longer training (--epochs), fewer bits (--bit-weights), more examples")


def _error(model, images, labels):
    logits = model.predict(evaluation_batches((images,), 500, prepare=lambda x: scaled(x)[0]), verbose=0)
    return float(np.mean(logits.argmax(axis=-1) != labels))


def _classes(data):
    return int(data["train"][1].max()) + 1


def _print(rows, prior):
    cells = [[f"{v:.4f}" if isinstance(v, float) and n != "bits" else v for n, v in _shown(row)] for row in rows]
    print(f"{table.text(COLUMNS, cells)}\n({prior})", flush=True)


def _shown(row):
    return [(name, row[name]) for name in COLUMNS]
