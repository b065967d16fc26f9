"""The list of commands, and what README says of them."""

import re
from pathlib import Path

from tf_robustcomp.cli import commands

README = Path(__file__).parents[2] / "README.md"


def test_the_list_has_every_command_that_readme_names_and_each_is_one(capsys):
    listed = commands.COMMANDS
    assert set(re.findall(r"-m tf_robustcomp\.([a-z]\w+)", README.read_text())) <= set(listed)
    for name, line in listed.items():
        assert commands.main([name, "--help"]) == 0
        assert line and capsys.readouterr().out.startswith(line.split()[0])


def test_robustcomp_lists_runs_and_refuses(capsys):
    assert commands.main([]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in commands.COMMANDS)
    assert commands.main(["--version"]) == 0 and capsys.readouterr().out.startswith("tf_robustcomp 0.")
    assert commands.main(["codec", "info", "none.rcbs"]) == 2 and "none.rcbs: no such file" in capsys.readouterr().err
    assert commands.main(["cook"]) == 2 and "no command cook" in capsys.readouterr().err


def test_every_command_is_at_most_sixty_lines_and_no_other_module_stands_beside_them():
    folder = Path(commands.__file__).parents[1]
    modules = {path.stem: len(path.read_text().splitlines()) for path in folder.glob("[!_]*.py")}
    assert set(modules) == set(commands.COMMANDS)
    assert max(modules.values()) <= 60, modules
