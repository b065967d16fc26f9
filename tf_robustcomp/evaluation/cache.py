"""Results that are measured once: an evaluation asked for again computes only what changed."""

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tf_robustcomp.compression.fingerprint import fingerprint
from tf_robustcomp.evaluation.results import Results
from tf_robustcomp.utils import documents, files
from tf_robustcomp.utils.errors import DataError, Error


def cached(
    path: Path,
    models: Mapping[str, Any],
    images: np.ndarray,
    given: Mapping[str, Any],
    kind: type[Results],
    measure: Callable[[dict[str, Any], np.ndarray], Results],
) -> Results:
    """Return the results of all models; those of a model come from ``path`` where nothing that they depend on changed.

    Args:
        path: JSON file, written after each model, so that an interrupted evaluation continues.
        models: label -> model.
        images: (n, h, w, c).
        given: plain values, whatever else the results depend on.
        kind: class of the results.
        measure: function of a dict with one model, and the images.
    """
    known = _read(path)
    digest = hashlib.sha256(images.tobytes()).hexdigest()
    given = json.loads(json.dumps(given))  # as the file gives them back: tuples are lists
    entries, joined = {}, kind(())
    for label, model in models.items():
        key = {"model": fingerprint(model).hex(), "images": digest, **given}
        results = _known(known.get(label), key, kind)
        if results is None:
            began = time.monotonic()
            results = measure({label: model}, images)
            print(f"{path}: {label} measured in {time.monotonic() - began:.0f} s", flush=True)
        else:
            print(f"{path}: {label} has not changed; its results are kept", flush=True)
        joined += results
        entries[label] = {"key": key, "rows": results.to_records(), "attachments": results.attachments()}
        files.write_json(path, {**{name: known[name] for name in known if name not in entries}, **entries})
    files.write_json(path, entries)
    return joined


def _read(path):
    try:
        return documents.read(path, dict[str, Any])
    except (FileNotFoundError, DataError):
        return {}


def _known(entry, key, kind):
    """Results in an entry of the file, if they are those of this key and whole."""
    if not isinstance(entry, dict) or entry.get("key") != key:
        return None
    try:
        return kind.from_records(entry["rows"], entry.get("attachments"))
    except (Error, KeyError, TypeError, ValueError, AttributeError):
        return None
