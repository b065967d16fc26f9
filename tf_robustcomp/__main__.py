"""List the package's commands, or run one: python -m tf_robustcomp [NAME ...]"""

import sys

from tf_robustcomp.cli.commands import main

if __name__ == "__main__":
    sys.exit(main())
