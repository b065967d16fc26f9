#!/usr/bin/env python3
"""Write CIFAR-10 as TFRecords; the same as `robustcomp convert_cifar10`.

python tools/download_and_convert_cifar10.py [--source tfds|FILE] [--out-dir data]
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from a checkout, installed or not

from tf_robustcomp.convert_cifar10 import main

if __name__ == "__main__":
    sys.exit(main())
