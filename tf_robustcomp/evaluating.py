"""What the evaluating entry points share: trained runs in; JSON, CSV, PNG and PDF out; nothing computed twice."""

import dataclasses
import hashlib
import json
import time
from pathlib import Path

from tf_robustcomp import files, flags, runs
from tf_robustcomp.errors import Error, InvalidArgument

LONG_TABLE = 80  # rows


@dataclasses.dataclass(frozen=True)
class EvaluationSettings:
    """Flags of every entry point that evaluates trained compressors together."""

    models: tuple[str, ...] = flags.field((), "run directories of train_compressor, separated by commas")
    labels: tuple[str, ...] = flags.field((), "what the figure calls them; default: the directories' names")
    data: str = flags.field(
        "", "images: mnist, digits, or FILE.npz; its test set is used; default: what the models were trained on"
    )
    images: int = flags.field(0, "the first so many test images only; 0: all", minimum=0)


@dataclasses.dataclass(frozen=True)
class Subjects:
    """What is evaluated: models by label, and the images."""

    models: dict
    images: object


def load(settings):
    """The runs' models and the test images in the models' size.

    Raises:
        InvalidArgument: no models, labels that do not fit them, or models of several image shapes or data sets.
        RunError: a directory without a model.
        DataError: images that cannot be read.
    """
    if not settings.models:
        raise InvalidArgument("--models must name at least one run directory. Received: none")
    labels = settings.labels or tuple(Path(path).resolve().name for path in settings.models)
    if len(labels) != len(settings.models):
        raise InvalidArgument(f"--labels must be as many as --models. Received: {len(labels)}, {len(settings.models)}")
    if len(set(labels)) < len(labels):
        raise InvalidArgument(f"--labels must differ. Received: {','.join(labels)}")
    data = images_of(settings)  # before the slow import
    flags.import_backend_quietly()
    from tf_robustcomp.datasets.images import load_images, resized

    models = {label: runs.Run(path).load_model() for label, path in zip(labels, settings.models, strict=True)}
    shapes = {label: getattr(model, "image_shape", None) for label, model in models.items()}
    for label, shape in shapes.items():
        if shape is None:
            raise InvalidArgument(f"--models: {label} is not a compressor")
    if len(set(shapes.values())) > 1:
        raise InvalidArgument(f"--models must take images of one shape. Received: {shapes}")
    height, width, _ = next(iter(models.values())).image_shape
    if height != width:
        raise InvalidArgument(f"--models must take square images. Received: {height} x {width}")
    images = resized(load_images(data).x_test[: settings.images or None], height)
    return Subjects(models, images)


def images_of(settings):
    """``--data``, else what the runs in ``--models`` were trained on.

    Raises:
        InvalidArgument: they were trained on different images.
        RunError: a directory that holds no run.
    """
    trained = {str(runs.Run(path).config["settings"].get("data", "mnist")) for path in settings.models}
    if settings.data or len(trained) == 1:
        return settings.data or trained.pop()
    raise InvalidArgument(f"--data must be given where --models were trained on several: {', '.join(sorted(trained))}")


def cached(path, subjects, given, kind, measure):
    """Results of all models, those of a model taken from ``path`` where neither it, the images nor ``given`` changed.

    Args:
        path: JSON file, written after each model, so that an interrupted evaluation goes on.
        subjects: `Subjects`.
        given: dict of plain values, whatever else the results depend on.
        kind: class of `evaluation.results.Results`.
        measure: function of (dict of one label -> model, images) that gives one of ``kind``.

    Returns:
        Results of ``kind``
    """
    from tf_robustcomp.compressors.bitstream import fingerprint

    known = _read(path)
    images = hashlib.sha256(subjects.images.tobytes()).hexdigest()
    entries, joined = {}, kind(())
    for label, model in subjects.models.items():
        key = {"model": fingerprint(model).hex(), "images": images, **given}
        results = _known(known.get(label), key, kind)
        if results is None:
            began = time.monotonic()
            results = measure({label: model}, subjects.images)
            print(f"{path}: {label} measured in {time.monotonic() - began:.0f} s", flush=True)
        else:
            print(f"{path}: {label} is there already, unchanged", flush=True)
        joined += results
        entries[label] = {"key": key, "rows": results.to_records()}
        files.write_json(path, entries | {name: known[name] for name in known if name not in entries})
    files.write_json(path, entries)
    return joined


def save(results, prefix, title=None):
    """Write ``prefix.csv``, ``prefix.png`` and ``prefix.pdf``; their paths."""
    import matplotlib

    matplotlib.use("Agg")
    from tf_robustcomp.evaluation import figures

    results.to_csv(f"{prefix}.csv")
    axes = results.plot()
    axes.set_title(title)
    return [Path(f"{prefix}.csv"), *figures.save(axes.figure, prefix)]


def write(results, prefix, title=None):
    """`save`; print the table, unless it is long, and the paths."""
    paths = save(results, prefix, title)
    if len(results) <= LONG_TABLE:
        print(results.table())
    print("\n".join(map(str, paths)), flush=True)


def _read(path):
    try:
        known = json.loads(Path(path).read_text())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _known(entry, key, kind):
    """Results in an entry of the file, if they are those of this key and whole."""
    if not isinstance(entry, dict) or entry.get("key") != key:
        return None
    try:
        return kind.from_records(entry["rows"])
    except (Error, KeyError, TypeError):
        return None
