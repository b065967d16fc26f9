"""The size of ResNet-56 at several sparsities: .keras, the same deflated, tfmot's route (strip, .h5, gzip), ours."""

import tempfile
import zlib
from pathlib import Path

from benchmarks.children import answer
from benchmarks.rows import row

SPARSITIES = (0.5, 0.9)


def measure():
    import keras

    import tf_robustcomp as rc

    tfmot = answer("benchmarks.legacy", ["sizes", *map(str, SPARSITIES)])
    rows = []
    keras.utils.set_random_seed(0)
    for sparsity in SPARSITIES:
        model = rc.resnet_v2(56)
        optimizer = rc.MagnitudePruning("sgd", rc.ConstantSparsity(sparsity, 0))
        optimizer.build(model.trainable_variables)
        optimizer.apply([keras.ops.zeros(v.shape) for v in model.trainable_variables], model.trainable_variables)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.keras"
            model.save(path)
            sizes = {".keras": path.stat().st_size, ".keras, gzip": len(zlib.compress(path.read_bytes(), 9))}
            sizes["tfmot: strip, .h5, gzip"] = tfmot[str(sparsity)]
            for coding, bits in (("float32", 5), ("float16", 5), ("codebook", 5)):
                rc.save_sparse(model, path, coding, bits)
                sizes[f"sparse file, {coding}"] = path.stat().st_size
        rows += [row(f"ResNet-56 at {sparsity:.0%}: {name}", size / 1e3, "kB") for name, size in sizes.items()]
    return rows
