"""The ``underdrawing`` command line. User errors are one line and exit code 2."""

import os
import re
import signal
import sys
import warnings
from argparse import ArgumentParser
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from importlib import import_module
from io import StringIO
from typing import Any, NoReturn, TypeVar

from pydantic import ValidationError

from ..data.files import one_line

T = TypeVar("T")

#: Command -> module and description.
COMMANDS = {
    "train": (".train", "train a model on photos and paintings"),
    "stylize": (".stylize", "stylize photos"),
    "styles": (".styles", "list, add, remove and preview the named styles of a model"),
    "video": (".demo.video", "stylize a video clip, with temporal smoothing"),
    "export": (".export", "export a model to ONNX or a web page"),
    "app": (".demo.app", "launch the Gradio demo"),
    "evaluate": (
        ".evaluate",
        "evaluate trained models, or images from other methods, on held-out pairs",
    ),
    "benchmark": (
        ".benchmark",
        "benchmark training, inference and data loading against lower bounds and a "
        "reference implementation",
    ),
    "reproduce": (".reproduce", "train and evaluate every row of the paper's table"),
    "ablate": (".ablate", "run ablations"),
    "robustness": (".robustness", "measure content losses under changes of light, noise and JPEG"),
    "check-data": (".check_data", "validate image folders before training"),
}
USAGE = "\n".join([
    "usage: underdrawing COMMAND [options]\n",
    *(f"  {name:<10}  {description}" for name, (_, description) in COMMANDS.items()),
    "\n`underdrawing COMMAND --help` lists the options of a command.",
])  # fmt: skip


def main() -> None:
    """Console entry point."""
    with quiet_broken_pipe():
        match sys.argv[1:]:
            case [name, *arguments] if name in COMMANDS:
                run_command(name, arguments)
            case ["-h" | "--help", *_]:
                print(USAGE)
            case ["--version", *_]:
                from .. import __version__

                print(__version__)
            case [name, *_]:
                fail(f"no command {name!r}: choose one of {', '.join(COMMANDS)}")
            case _:
                print(USAGE)
                sys.exit(2)


def run_command(name: str, arguments: list[str]) -> None:
    """Run a command; expected errors and interruptions exit with a one-line message.

    Any other exception is a bug and keeps its traceback.
    """
    from ..trainers.runtime import Interrupted, keep_freed_memory
    from .errors import explain_error

    keep_freed_memory()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # same exit as for Ctrl-C
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # file names
    warnings.showwarning = lambda message, *_, **__: print(
        printable(f"underdrawing: note: {message}"), file=sys.stderr
    )
    try:
        with quiet_broken_pipe():
            import_module(COMMANDS[name][0], __package__).command(arguments)
    except (ValueError, OSError, MemoryError, RuntimeError) as error:
        message = explain_error(error, name)
        if message is None:
            raise
        fail(message, name)
    except (Interrupted, KeyboardInterrupt) as interruption:
        message = str(interruption) or "interrupted; run the same command again to continue"
        print(f"\nunderdrawing: {message}", file=sys.stderr)
        sys.exit(130)


@contextmanager
def quiet_broken_pipe() -> Iterator[None]:
    """Exit without a message if the reader of standard output closes it, as in ``| head``."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes at exit
        sys.exit(128 + signal.SIGPIPE)


def parse_options(options: type[T], **settings: Any) -> T:
    """Parse the options of a command with tyro; its box for an error becomes one sentence.

    Raises:
        ValueError: an unknown option, or a missing or invalid value.
    """
    import tyro

    box = StringIO()
    try:
        with redirect_stderr(box):
            return tyro.cli(options, **settings)
    except SystemExit as end:
        if not end.code:  # --help
            raise
        cause: BaseException | None = end
        while cause:
            if isinstance(cause, ValidationError):
                raise cause from None
            cause = cause.__cause__ or cause.__context__
        raise ValueError(box_sentence(box.getvalue(), settings["prog"])) from None


def box_sentence(box: str, prog: str) -> str:
    """Return the message in a box of tyro, in Unicode or ASCII: from the title to a rule."""
    lines = [line.strip("│ ") for line in box.splitlines()[1:]]
    blocks = "\n".join(line.strip("─-") and line for line in lines).strip().split("\n\n")
    message = " ".join(blocks[0].split()).rstrip(".")
    similar = re.search(r"Perhaps you meant:\W*(--[\w.-]+)", box)
    hint = f"perhaps you meant {similar[1]}; " if similar else ""
    return f"{message}; {hint}see {prog} --help"


def option_value(arguments: list[str], flag: str) -> str | None:
    """Return the value of an option on which the defaults of others depend; None if absent."""
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument(flag, dest="value", nargs="?")  # a missing value is reported by tyro
    return parser.parse_known_args(arguments)[0].value


def choice(arguments: list[str], flag: str, table: Mapping[str, T], default: str) -> T:
    """Return the entry of ``table`` that ``--flag NAME`` names.

    Raises:
        ValueError: there is no such entry.
    """
    name = option_value(arguments, flag) or default
    if name not in table:
        raise ValueError(f"unknown {flag} {name}: choose one of {', '.join(table)}")
    return table[name]


def printable(message: str) -> str:
    """Escape what a terminal cannot show, such as control characters in the name of a file."""
    return "\n".join(map(one_line, message.split("\n")))


def fail(message: str, command: str = "") -> NoReturn:
    """Print a one-line message and exit with code 2."""
    print(printable(f"{f'underdrawing {command}'.rstrip()}: {message}"), file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
