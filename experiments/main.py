"""The ``underdrawing`` command. A user's mistake is one sentence and exit code 2."""

import os
import signal
import sys
import warnings
from collections.abc import Mapping
from importlib import import_module
from itertools import pairwise
from typing import TypeVar

T = TypeVar("T")

COMMANDS = {
    "train": "train a generator on photos and paintings",
    "stylize": "repaint photos in the manner of a painting",
    "video": "repaint a clip, without flicker and with its sound",
    "export": "write a model as an ONNX file, which needs no torch",
    "styles": "name and draw the styles that are stored beside a model",
    "app": "open a page in the browser to play with a model",
    "evaluate": "score runs, and anybody's pictures, on held-out pairs",
    "benchmark": "time training, stylizing and loading beside the floor and plain code",
    "reproduce": "train and score every row of the paper's table; write the report",
    "ablate": "vary one thing at a time, or several in a grid; write tables and a report",
    "robustness": "measure losses and outputs under changes of light, noise and compression",
    "check-data": "check folders of pictures: what is in them, and what training would leave out",
}
#: Commands whose module has another name.
MODULES = {"app": ".demo.app", "video": ".demo.video", "check-data": ".check_data"}
USAGE = (
    "usage: underdrawing COMMAND [options]\n\n"
    + "\n".join(f"  {name:<10} {text}" for name, text in COMMANDS.items())
    + "\n\n`underdrawing COMMAND --help` explains the options of each."
)


def main() -> None:
    """Entry point of the console command."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        sys.exit(0 if arguments else 2)
    if arguments[0] == "--version":
        from .. import __version__

        print(__version__)
        sys.exit(0)
    if arguments[0] not in COMMANDS:
        fail(f"there is no command {arguments[0]!r}; choose one of {', '.join(COMMANDS)}")
    run_command(arguments[0], arguments[1:])


def run_command(name: str, arguments: list[str]) -> None:
    """Run a command. Mistakes, interruptions and what the machine refuses become one sentence and
    an exit code; anything else is a bug and shows its traceback.
    """
    from ..trainers.runtime import Interrupted, keep_freed_memory
    from .errors import explain_error

    keep_freed_memory()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does, in words
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # names of files
    warnings.showwarning = lambda message, *_, **__: print(
        f"underdrawing: note: {message}", file=sys.stderr
    )
    try:
        import_module(MODULES.get(name, f".{name}"), __package__).command(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # `| head`: nobody reads on, so nothing more is said, at exit neither
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except (ValueError, OSError, MemoryError, RuntimeError) as error:
        sentence = explain_error(error, name)
        if sentence is None:
            raise
        fail(sentence)
    except Interrupted as interruption:
        print(f"\nunderdrawing: {interruption}", file=sys.stderr)
        sys.exit(130)
    except KeyboardInterrupt:
        print(
            "\nunderdrawing: interrupted; run the same command again to continue", file=sys.stderr
        )
        sys.exit(130)


def given(arguments: list[str], flag: str) -> str | None:
    """NAME of ``--flag NAME`` or ``--flag=NAME``, for what gives the other options' defaults."""
    name = None
    for argument, following in pairwise([*arguments, ""]):
        if argument == flag:
            name = following
        elif argument.startswith(f"{flag}="):
            name = argument.removeprefix(f"{flag}=")
    return name


def choice(arguments: list[str], flag: str, table: Mapping[str, T], default: str) -> T:
    """The entry of ``table`` that ``--flag NAME`` or ``--flag=NAME`` asks for.

    Raises:
        ValueError: no such entry; lists those there are.
    """
    name = given(arguments, flag) or default
    if name not in table:
        raise ValueError(f"{flag} {name}: there is none of that name; choose {', '.join(table)}")
    return table[name]


def fail(sentence: str) -> None:
    """Print one sentence and leave with exit code 2."""
    print(f"underdrawing: {sentence}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
