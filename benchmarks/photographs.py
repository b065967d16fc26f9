"""Speed of the codec for photographs, and what entropy coding takes of it."""

import time

from benchmarks.rows import row


def measure(height=512, width=768, repeats=5):
    import numpy as np

    import tf_robustcomp as rc
    from tf_robustcomp.coding import integer_symbols

    rng = np.random.default_rng(0)
    model = rc.load_pretrained("photo")
    coarse = rng.random((1, height // 16, width // 16, 3)).repeat(16, axis=1).repeat(16, axis=2)
    image = np.clip(coarse + 0.03 * rng.normal(size=coarse.shape), 0, 1).astype(np.float32)
    data = model.compress(image)
    model.decompress(data)  # warm up
    code = model.encode(image)

    def seconds(action):
        found = []
        for _ in range(repeats):
            began = time.perf_counter()
            action()
            found.append(time.perf_counter() - began)
        return float(np.median(found))

    groups = []

    class Recorded(integer_symbols.Stack):
        def add(self, values, index, rows):
            groups.append((values, index, rows))
            super().add(values, index, rows)

    model.push(Recorded(), code)

    def packed():
        stack = integer_symbols.Stack()
        for group in groups:
            stack.add(*group)
        stack.to_bytes(0.0)

    pixels = height * width / 1e6
    encode, decode, coding = (
        seconds(f) for f in (lambda: model.compress(image), lambda: model.decompress(data), packed)
    )
    return [
        row(f"photographs: encode, {height} x {width}", pixels / encode, "megapixels/s"),
        row(f"photographs: decode, {height} x {width}", pixels / decode, "megapixels/s"),
        row("photographs: entropy coding / encoding", coding / encode, goal="<= 0.15"),
    ]
