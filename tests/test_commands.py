"""The list of commands, and what README says of them."""

import re
import subprocess
import sys
from pathlib import Path

from tf_robustcomp import __main__

README = Path(__file__).parents[1] / "README.md"


def test_the_list_has_every_command_that_readme_names_and_each_is_one():
    listed = __main__.commands()
    assert set(re.findall(r"-m tf_robustcomp\.(\w+)", README.read_text())) <= set(listed)
    for name, line in listed.items():
        answer = subprocess.run(
            [sys.executable, "-m", f"tf_robustcomp.{name}", "--help"], capture_output=True, text=True
        )
        assert answer.returncode == 0
        assert line and answer.stdout.startswith(line)
