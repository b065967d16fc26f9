"""Command lines: a frozen dataclass of settings becomes absl flags; errors become one line and exit code 2.

Nothing here imports Keras, so that ``--help`` answers at once.
"""

import contextlib
import dataclasses
import functools
import os
import signal
import sys
import typing
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import flags as absl_flags

import tf_robustcomp
from tf_robustcomp.cli import terminal
from tf_robustcomp.utils import registry, signals
from tf_robustcomp.utils.checks import printable
from tf_robustcomp.utils.errors import Error, Interrupted, InvalidArgument
from tf_robustcomp.utils.settings import DEFINE, as_word, field, kind_of, spelled

EXIT_USAGE = 2
HELP = {"-h", "--help", "-help", "--helpfull"}


@dataclasses.dataclass(frozen=True)
class Parsed:
    """A command line that was read.

    Attributes:
        settings: instance of the command's dataclass.
        given: names of the settings whose flags were given.
        words: the other words.
    """

    settings: Any
    given: frozenset[str]
    words: tuple[str, ...]

    def only(self, cls: type, **changes: Any) -> "Parsed":
        """Return the part that another settings class has, with the flags that variants add, and with ``changes``."""
        cls = with_variants(cls)
        own = {f.name: getattr(self.settings, f.name) for f in dataclasses.fields(cls)}
        settings = cls(**(own | changes))
        return dataclasses.replace(self, settings=settings, given=self.given & vars(settings).keys())


def parse(cls: type, argv: Sequence[str], refuse_idle: bool = True) -> Parsed:
    """Read command line words, in either spelling (``--train-dir``, ``--train_dir``), and flag files.

    Args:
        cls: dataclass whose fields are made by `field`.
        argv: words after the program's name.
        refuse_idle: whether to refuse settings that are given and have no effect.

    Raises:
        InvalidArgument: an unknown flag, a value that breaks its rule, or one without effect.
    """
    try:
        found = _with_found_files(argv)
        words = [_normalised(word) for word in absl_flags.FlagValues().read_flags_from_files(found, False)]
        cls = _extended(cls, words)
        values = _define(cls)
        positional = values(["", *words])[1:]
        settings = cls(**{f.name: _read(f, values[f.name].value) for f in dataclasses.fields(cls)})
    except (absl_flags.Error, OSError, UnicodeDecodeError) as error:
        text = str(error).replace("flags.FLAGS", "").removeprefix("ERROR:: ")
        raise InvalidArgument(" ".join(text.split())) from None
    given = {f.name for f in dataclasses.fields(cls) if values[f.name].present}
    _check(settings)
    without_effect = idle(settings) if refuse_idle else {}
    for name in sorted(given & without_effect.keys()):
        raise InvalidArgument(f"{spelled(name)} has no effect here: {without_effect[name]}. Leave it out")
    return Parsed(settings, frozenset(given), tuple(positional))


def run(
    name: str,
    doc: str | None,
    cls: type,
    command: Callable[[Parsed], int | None],
    argv: Sequence[str] | None = None,
    positional: Sequence[str | Sequence[str]] | None = (),
) -> int:
    """Parse, run, and turn errors into one line and an exit code.

    Args:
        name: program name for messages.
        doc: text for ``--help``, before the flags.
        cls: dataclass of settings.
        command: function of `Parsed`; its result is the exit code (None: 0).
        argv: words, default the process's.
        positional: the other words that the command takes: for each a name, or a tuple of the words allowed; None for
            any number of words.

    Returns:
        0; 2 after an `Error`; 128 + n after signal n.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    with terminal.forgiving() as output, signals.handled(_interrupt), _warnings_in_one_line(name):
        code = _run(name, doc, cls, command, words, positional)
        if output:
            output.flush()
        if output and output.reason and not code:
            print(f"{name}: error: standard output: {output.reason}", file=sys.stderr)
            code = EXIT_USAGE
        return code


def _run(name, doc, cls, command, words, positional):
    try:
        if words[:1] == ["--version"]:
            print(f"tf_robustcomp {tf_robustcomp.__version__}")
            return 0
        if HELP & set(words):
            print(_help(doc, _extended(cls, [_normalised(word) for word in words])))
            return 0
        parsed = parse(cls, words)
        if positional is not None:
            _check_positional(parsed.words, positional)
        return command(parsed) or 0
    except Interrupted as stop:
        print(f"\n{name}: stopped by {signal.Signals(stop.number).name}; {stop.hint} to go on", file=sys.stderr)
        return 128 + stop.number
    except (Error, OSError, UserWarning) as error:  # a warning where Python turns them into errors
        print(f"{name}: error: {_one_line(error)}", file=sys.stderr)
        return EXIT_USAGE
    except MemoryError:
        print(f"{name}: error: out of memory; use smaller batches, images or models", file=sys.stderr)
        return EXIT_USAGE


@contextlib.contextmanager
def _warnings_in_one_line(name):
    """Show warnings for users as the command's own, and turn no others into errors where Python was told to."""
    show = warnings.showwarning

    def shown(message, category, *where, **more):
        if issubclass(category, UserWarning) and category.__module__ == "builtins":
            print(f"{name}: warning: {_one_line(message)}", file=sys.stderr)
        else:
            show(message, category, *where, **more)

    with warnings.catch_warnings():
        warnings.showwarning = shown
        if "error" in sys.warnoptions:
            warnings.simplefilter("default")
            warnings.filterwarnings("error", module="tf_robustcomp")
        yield


def idle(settings: Any) -> dict[str, str]:
    """Return the settings that the chosen variants do not use, each with the reason.

    A class of settings may name further ones in a method ``idle``.  Where a sweep chooses the variants, all are used.
    """
    swept = {text.partition("=")[0].replace("-", "_") for text in getattr(settings, "sweep", ())}
    users: dict[str, list[str]] = {}
    used: set[str] = set()
    for chooser, kind in getattr(settings, "variants", {}).items():
        for name, variant in registry.variants(kind).items():
            for setting in variant.settings.values():
                users.setdefault(setting, []).append(f"{spelled(chooser)}={name}")
            if chooser in swept or getattr(settings, chooser) == name:
                used.update(variant.settings.values())
    own = {
        name: f"only {' and '.join(users[name])} use{'s' * (len(users[name]) == 1)} it" for name in users.keys() - used
    }
    further = settings.idle() if hasattr(settings, "idle") else {}
    return {name: why for name, why in (own | further).items() if name not in swept}


def with_variants(cls: type) -> type:
    """Return a settings class with the flags that registered variants add.

    Its attribute ``variants`` maps settings, such as "adversary", to the kinds of variants that they choose.
    """
    names = {f.name for f in dataclasses.fields(cls)}
    kinds = getattr(cls, "variants", {}).values()
    declared = [variant for kind in kinds for variant in registry.variants(kind).values()]
    added = {name: text for variant in declared for name, text in variant.flags.items() if name not in names}
    return _with_fields(cls, tuple((name, default, help) for name, (default, help) in added.items()))


@functools.cache
def _with_fields(cls: Any, added: tuple) -> type:
    if not added:
        return cls
    fields = [(name, type(default), field(default, help)) for name, default, help in added]
    return dataclasses.make_dataclass(cls.__name__, fields, bases=(cls,), frozen=True)


def _extended(cls, words):
    """Settings class after the user's files in ``--extension`` have been read."""
    if any(f.name == "extension" for f in dataclasses.fields(cls)):
        for number, word in enumerate(words):
            name, equals, value = word.partition("=")
            if name == "--extension":
                registry.extend(value if equals else " ".join(words[number + 1 : number + 2]))
    return with_variants(cls)


def _interrupt(number, frame):
    raise Interrupted(number)


def _define(cls):
    values = absl_flags.FlagValues()
    for f in dataclasses.fields(cls):
        kind, text = kind_of(f), f.metadata["help"]
        default: typing.Any = f.default
        if f.metadata["choices"]:
            absl_flags.DEFINE_enum(f.name, default, _choices(f), text, flag_values=values)
        elif f.metadata["repeated"]:
            absl_flags.DEFINE_multi_string(f.name, list(default), text, flag_values=values)
        elif kind is tuple:
            absl_flags.DEFINE_list(f.name, list(map(str, default)), text, flag_values=values)
        else:
            getattr(absl_flags, DEFINE[kind])(f.name, default, text, flag_values=values)
    absl_flags.DEFINE_string("flagfile", "", "file of flags, one a line", flag_values=values)
    return values


def _choices(f):
    choices = f.metadata["choices"]
    return list(choices() if callable(choices) else choices)


def _read(f, value):
    if kind_of(f) is not tuple or value is None:
        return value
    item = typing.get_args(f.type)[0]
    try:
        return tuple(item(word) for word in value)
    except ValueError:
        raise InvalidArgument(
            f"{spelled(f.name)} must be numbers separated by commas. Received: {as_word(tuple(value))}"
        ) from None


def _check(settings):
    """Check every number against its field's range, then the settings against each other, by their ``check``."""
    for f in dataclasses.fields(settings):
        value = getattr(settings, f.name)
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int | float) and not isinstance(number, bool):
                _check_range(f, number)
    if hasattr(settings, "check"):
        settings.check()


def _check_range(f, number):
    low, high, above = (f.metadata[name] for name in ("minimum", "maximum", "above"))
    if above is not None and not above < number < float("inf"):
        raise InvalidArgument(f"{spelled(f.name)} must be > {above:g}. Received: {number}")
    if not ((low is None or number >= low) and (high is None or number <= high)):
        bounds = f">= {low}" if high is None else f"in [{low}, {high}]"
        raise InvalidArgument(f"{spelled(f.name)} must be {bounds}. Received: {number}")


def _check_positional(words, allowed):
    if len(words) != len(allowed):
        wanted = " ".join(choice if isinstance(choice, str) else "|".join(choice) for choice in allowed) or "no words"
        raise InvalidArgument(f"the command takes {wanted}. Received: {' '.join(words) or 'none'} (see --help)")
    for word, choice in zip(words, allowed, strict=True):
        if not isinstance(choice, str) and word not in choice:
            raise InvalidArgument(f"the first word must be one of {', '.join(choice)}. Received: {word} (see --help)")


def _with_found_files(words):
    """The words with the paths of the package's own flag files in the place of their names."""
    found, own = list(words), Path(__file__).parents[1] / "flags_configs"
    for number, word in enumerate(found):
        flag, equals, value = word.partition("=")
        if flag in ("--flagfile", "-flagfile"):
            at, name = (number, value) if equals else (number + 1, "".join(found[number + 1 : number + 2]))
            path = own / Path(name).with_suffix(".cfg").name if name else own
            if name and not Path(name).exists() and path.is_file():
                found[at] = f"--flagfile={path}" if equals else str(path)
    return found


def _normalised(word):
    if not word.startswith("--"):
        return word
    name, equals, value = word.partition("=")
    return "--" + name[2:].replace("-", "_") + equals + value


def _help(doc, cls):
    lines = [
        *([f"{doc.strip()}\n"] if doc else []),  # python -OO has none
        "Flags (either spelling, --like-this or --like_this; --flagfile=FILE reads them, a file or a name):",
    ]
    for f in dataclasses.fields(cls):
        choices = f" ({'|'.join(_choices(f))})" if f.metadata["choices"] else ""
        shown = "" if f.default is None else f" [default: {as_word(f.default)}]"
        lines.append(f"  {spelled(f.name)}{choices}\n      {f.metadata['help']}{shown}")
    return "\n".join(lines)


def _one_line(error):
    if isinstance(error, OSError) and error.strerror:
        named = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
        return printable(f"{named}{error.strerror}")
    return printable(" ".join(str(error).split()))
