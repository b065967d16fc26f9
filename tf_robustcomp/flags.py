"""Command lines: a frozen dataclass of settings becomes absl flags; errors become one line and exit code 2.

Nothing here imports TensorFlow, so that ``--help`` answers at once.
"""

import contextlib
import dataclasses
import os
import signal
import sys
import typing

from absl import flags as absl_flags

from tf_robustcomp.errors import Error, InvalidArgument

EXIT_USAGE = 2
DEFINE = {str: "DEFINE_string", int: "DEFINE_integer", float: "DEFINE_float", bool: "DEFINE_bool"}
# Imported by Keras for its wrappers and galleries, by TensorFlow Lite for models of JAX; never asked for by a command.
UNUSED = ("sklearn", "matplotlib", "jax")


class Interrupted(BaseException):
    """SIGINT or SIGTERM arrived; whoever can save does so and lets it pass."""

    def __init__(self, number):
        super().__init__(number)
        self.number = number
        self.hint = "run the same command again"


def field(default, help, operational=False, choices=None, minimum=None, maximum=None, repeated=False):
    """A setting with its flag's help.

    Args:
        default: its value, of type str, int, float, bool or tuple (a comma-separated flag), or None.
        help: one line for ``--help``.
        operational: it does not change what a run computes, so a run may be resumed with another value.
        choices: the strings allowed.
        minimum, maximum: the closed range allowed, of a number or of each number of a tuple.
        repeated: a tuple's flag may be given several times and each is one item, whatever commas it holds.
    """
    rule = {"choices": choices, "minimum": minimum, "maximum": maximum, "repeated": repeated}
    return dataclasses.field(default=default, metadata={"help": help, "operational": operational, **rule})


FUSED: typing.Any = field(
    True, "batch norm, also under attack, and Adam in fewer operations than Keras' own; equal up to rounding"
)


@dataclasses.dataclass(frozen=True)
class DeviceSettings:
    """Flags of every entry point that trains: where and in what precision it computes."""

    strategy: str = field(
        "none", "`mirrored`: all GPUs of this machine", operational=True, choices=("none", "mirrored")
    )
    mixed_precision: bool = field(False, "compute in bfloat16, keep weights in float32")
    fused: bool = FUSED
    jit_compile: bool = field(False, "compile the step with XLA")
    deterministic: bool = field(False, "ask TensorFlow for the same bits in every run; slower")


def operational_names(settings):
    """Names of the settings that do not change what a run computes."""
    return {f.name for f in dataclasses.fields(settings) if f.metadata.get("operational")}


def narrowed(cls, settings, **changes):
    """The part of ``settings`` that ``cls`` has, with changes, as one of ``cls``."""
    return cls(**({f.name: getattr(settings, f.name) for f in dataclasses.fields(cls)} | changes))


def is_list(f):
    """Whether a dataclass field made by `field` holds several values."""
    return _kind(f) is tuple


def parse(cls, argv):
    """Settings from command line words, in either spelling (``--train-dir``, ``--train_dir``), and flag files.

    Args:
        cls: dataclass whose fields are made by `field`.
        argv: words after the program's name.

    Returns:
        ``(settings, given, positional)``: an instance; the names of the flags that were given; the other words.

    Raises:
        InvalidArgument: an unknown flag or a value that breaks its rule.
    """
    values = _define(cls)
    try:
        words = values.read_flags_from_files(list(argv), force_gnu=False)
        positional = values(["", *map(_normalised, words)])[1:]
        settings = cls(**{f.name: _read(f, values[f.name].value) for f in dataclasses.fields(cls)})
    except (absl_flags.Error, OSError, UnicodeDecodeError) as error:
        raise InvalidArgument(
            " ".join(str(error).replace("flags.FLAGS", "").removeprefix("ERROR:: ").split())
        ) from None
    given = {f.name for f in dataclasses.fields(cls) if values[f.name].present}
    _check(settings)
    return settings, given, positional


def run(name, doc, cls, command, argv=None, positional=()):
    """Parse, run, and turn what goes wrong into one line and an exit code.

    Args:
        name: program name for messages.
        doc: text for ``--help``, before the flags.
        cls: dataclass of settings.
        command: ``command(settings, *words)``, or with a parameter ``given`` also the names of the flags given; its
            result is the exit code (None: 0).
        argv: words, default the process's.
        positional: the other words that the command takes: for each a name, or a tuple of the words allowed; None for
            any number of words.

    Returns:
        0; 2 after an `Error`; 128 + n after signal n.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    if {"-h", "--help", "-help", "--helpfull"} & set(words):
        print(f"{doc.strip()}\n\nFlags (either spelling, --like-this or --like_this; --flagfile=FILE reads them):")
        print(_help(cls))
        return 0
    previous = {number: signal.signal(number, _interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        settings, given, rest = parse(cls, words)
        if positional is not None:
            _check_positional(rest, positional)
        takes_given = "given" in command.__code__.co_varnames[: command.__code__.co_argcount]
        return command(settings, *rest, **({"given": given} if takes_given else {})) or 0
    except Interrupted as stop:
        print(f"\n{name}: stopped by {signal.Signals(stop.number).name}; {stop.hint} to go on", file=sys.stderr)
        return 128 + stop.number
    except (Error, OSError) as error:
        print(f"{name}: error: {_one_line(error)}", file=sys.stderr)
        return EXIT_USAGE
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def import_backend_quietly():
    """Import Keras on TensorFlow, where that is the backend, without start-up notices on the terminal.

    In a command of this package it leaves out what Keras imports for wrappers that no command uses, a third of the
    time; what is imported later finds it as ever.
    """
    if os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow":
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    terminal, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)  # the notices come from C++, before any setting of the log is read
    try:
        with _left_out(UNUSED if _is_program() else ()):
            import keras  # noqa: F401
        import tensorflow

        tensorflow.get_logger().setLevel("ERROR")
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)
        os.close(nowhere)


def _is_program():
    """Whether the process is a command of this package, not a notebook that calls one."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec is not None and spec.name.split(".")[0] == __package__


@contextlib.contextmanager
def _left_out(names):
    """Modules that are not there yet are not found while this is entered."""
    absent: dict = {name: None for name in names if name not in sys.modules}
    sys.modules.update(absent)  # so Python is told that a module is not there
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]


def spelled(name):
    """A setting's flag as users see it."""
    return "--" + name.replace("_", "-")


def _interrupt(number, frame):
    raise Interrupted(number)


def _define(cls):
    values = absl_flags.FlagValues()
    for f in dataclasses.fields(cls):
        kind, text = _kind(f), f.metadata["help"]
        default: typing.Any = f.default
        if f.metadata["choices"]:
            absl_flags.DEFINE_enum(f.name, default, f.metadata["choices"], text, flag_values=values)
        elif f.metadata["repeated"]:
            absl_flags.DEFINE_multi_string(f.name, list(default), text, flag_values=values)
        elif kind is tuple:
            absl_flags.DEFINE_list(f.name, list(map(str, default)), text, flag_values=values)
        else:
            getattr(absl_flags, DEFINE[kind])(f.name, default, text, flag_values=values)
    absl_flags.DEFINE_string("flagfile", "", "file of flags, one a line", flag_values=values)
    return values


def _kind(f):
    kind = typing.get_origin(f.type) or f.type
    if kind in DEFINE or kind is tuple:
        return kind
    return next(k for k in typing.get_args(f.type) if k is not type(None))  # `str | None`


def _read(f, value):
    if _kind(f) is not tuple or value is None:
        return value
    item = typing.get_args(f.type)[0]
    try:
        return tuple(item(word) for word in value)
    except ValueError:
        raise InvalidArgument(
            f"{spelled(f.name)} must be numbers separated by commas. Received: {','.join(map(str, value))}"
        ) from None


def _check(settings):
    for f in dataclasses.fields(settings):
        value = getattr(settings, f.name)
        low, high = f.metadata["minimum"], f.metadata["maximum"]
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int | float) and not (
                (low is None or number >= low) and (high is None or number <= high)
            ):
                bounds = f">= {low}" if high is None else f"in [{low}, {high}]"
                raise InvalidArgument(f"{spelled(f.name)} must be {bounds}. Received: {number}")


def _check_positional(words, allowed):
    if len(words) != len(allowed):
        wanted = " ".join("|".join(choice) if isinstance(choice, tuple) else choice for choice in allowed) or "no words"
        raise InvalidArgument(f"the command takes {wanted}. Received: {' '.join(words) or 'none'} (see --help)")
    for word, choice in zip(words, allowed, strict=True):
        if isinstance(choice, tuple) and word not in choice:
            raise InvalidArgument(f"the first word must be one of {', '.join(choice)}. Received: {word} (see --help)")


def _normalised(word):
    if not word.startswith("--"):
        return word
    name, equals, value = word.partition("=")
    return "--" + name[2:].replace("-", "_") + equals + value


def _help(cls):
    lines = []
    for f in dataclasses.fields(cls):
        default = ",".join(map(str, f.default)) if isinstance(f.default, tuple) else f.default
        choices = f" ({'|'.join(f.metadata['choices'])})" if f.metadata["choices"] else ""
        shown = "" if default is None else f" [default: {default}]"
        lines.append(f"  {spelled(f.name)}{choices}\n      {f.metadata['help']}{shown}")
    return "\n".join(lines)


def _one_line(error):
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return " ".join(str(error).split())
