"""Cost of entropy coding and container beside the networks, and how many symbols the coder handles."""

import time

from benchmarks.rows import row


def measure(count=10_000):
    import numpy as np

    import tf_robustcomp as rc
    from tf_robustcomp.coding import container
    from tf_robustcomp.coding.entropy_model import EntropyModel
    from tf_robustcomp.compression import bitstream
    from tf_robustcomp.compression.fingerprint import fingerprint
    from tf_robustcomp.compression.symbols import decode_all, encode_all

    rng = np.random.default_rng(0)
    model = rc.Compressor(10, width=64)
    images = rng.random((count, 32, 32, 1), dtype=np.float32)
    symbols = np.minimum(rng.geometric(0.2, (count, model.latent_dim)) - 1, 11).astype(np.int32)
    model.entropy_model = EntropyModel.fit(symbols, model.levels)
    kinds = np.full(count, 1, np.uint8)

    def seconds(action):
        began = time.perf_counter()
        result = action()
        return time.perf_counter() - began, result

    decode_all(model, encode_all(model, images[:500]))  # warm up
    encoder, _ = seconds(lambda: encode_all(model, images))
    decoder, _ = seconds(lambda: decode_all(model, symbols))
    marking, mark = seconds(lambda: fingerprint(model))

    def packed():
        parts, _ = bitstream._stage_parts(model, symbols, kinds, "entropy")
        return container.write(mark, model.image_shape, count, parts)

    pack, data = seconds(packed)
    unpack, back = seconds(
        lambda: bitstream._read_symbols(model, data, container.read_header(data), kinds, model.stages)
    )
    assert np.array_equal(back, symbols)
    many = np.tile(symbols, (20, 1))
    tables = EntropyModel.fit(symbols, model.levels, max_parents=0)
    encoding, stream = seconds(lambda: tables.encode(many))
    decoding, _ = seconds(lambda: tables.decode(stream, many[:, :0], model.latent_dim))
    return [
        row(f"coding and container / networks, encoding {count} images", (pack + marking) / encoder, goal="<= 0.1"),
        row(f"coding and container / networks, decoding {count} images", (unpack + marking) / decoder, goal="<= 0.1"),
        row("encoding, tables by latent", many.size / encoding, "symbols/s", ">= 2e7"),
        row("decoding, tables by latent", many.size / decoding, "symbols/s", ">= 2e7"),
    ]
