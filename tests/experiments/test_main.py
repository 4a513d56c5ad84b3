import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
from underdrawing.experiments import main as module
from underdrawing.experiments.main import COMMANDS
from underdrawing.trainers.runtime import Interrupted

Run = Callable[..., int]
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def run(offline: None, single_network: None, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command and return its exit code: ``run("train", "--steps", 2)``."""

    def call(*words: object) -> int:
        monkeypatch.setattr(sys, "argv", ["underdrawing", *map(str, words)])
        try:
            module.main()
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    return call


def run_body(monkeypatch: pytest.MonkeyPatch, body: Callable[[], object]) -> None:
    """Run a command with this body."""
    command = SimpleNamespace(command=lambda arguments: body())
    monkeypatch.setattr(module, "import_module", lambda *_: command)
    module.run_command("train", [])


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(run: Run, command: str, capsys: Capture) -> None:
    assert run(command, "--help") == 0
    assert f"usage: underdrawing {command}" in capsys.readouterr().out


def test_usage_lists_all_commands(run: Run, capsys: Capture) -> None:
    assert run("--help") == 0
    usage = capsys.readouterr().out
    assert all(f"  {command} " in usage for command in COMMANDS)
    assert run() == 2
    assert run("paint") == 2
    assert "no command 'paint': choose one of train, stylize" in capsys.readouterr().err


#: A bad value of each command, and the message.
BAD_VALUES = {
    "train": ("--generator.width 3", "generator.width is 3; it must be greater than or equal to 4"),
    "stylize": ("a.jpg --strength x", "--strength: could not convert string to float: 'x'"),
    "styles": ("--size x", "Unrecognized options: --size, x"),
    "video": ("a.mp4 --strength x --out b.mp4", "--strength: could not convert string to float"),
    "export": ("--onnx a.onnx", "Missing from underdrawing export: RUN"),
    "app": ("--port x", "--port: invalid literal for int() with base 10: 'x'"),
    "evaluate": ("runs/a --device tpu", "invalid choice 'tpu' for argument '--device'"),
    "benchmark": ("--sizes x", "Error parsing --sizes: Could not find valid parse"),
    "reproduce": ("--steps 0", "steps is 0; it must be greater than or equal to 1"),
    "ablate": ("layers --study.steps x", "Unrecognized options: --study.steps"),
    "robustness": ("runs/a --device", "Missing value for argument '--device'"),
    "check-data": ("a --json", "Missing value for argument '--json'"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_bad_value_or_option_is_one_line_and_exit_code_2(
    run: Run, command: str, capsys: Capture
) -> None:
    words, message = BAD_VALUES[command]
    for case, expected in ((words, message), ("--nonsense 1", "see underdrawing")):
        assert run(command, *case.split()) == 2
        out, error = capsys.readouterr()
        assert (out, error.count("\n")) == ("", 1)
        assert error.startswith(f"underdrawing {command}: ")
        assert expected in error
        assert not set("│─╭╰") & set(error)


@pytest.mark.parametrize(("bar", "rule"), [("│", "─"), (" ", "-")])
def test_sentence_of_a_box(bar: str, rule: str) -> None:
    """tyro draws it in ASCII if standard output is not in UTF-8."""
    lines = [
        "Unrecognized options: --stepz,  ", "4", rule * 30, "Perhaps you meant:", "  --steps INT"
    ]  # fmt: skip
    frame = [f"╭{rule * 9}╮"] if bar == "│" else ["Unrecognized", f" {rule * 30} "]
    box = "\n".join([*frame, *(f"{bar} {line} {bar}" for line in lines)])
    expected = "Unrecognized options: --stepz, 4; perhaps you meant --steps; see x --help"
    assert module.box_sentence(box, "x") == expected


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "--photos", "nowhere"], "nowhere"),
        (["train", "--recipe", "magic"], "choose one of pixel-style, single-layer"),
        (["train", "--style.layers", "relu9_9"], "vgg16 has no layer 'relu9_9'"),
        (["stylize", "a.jpg", "--style", "b.jpg", "--strength", "2"], "strength is 2.0"),
        (["stylize", "a.jpg", "--style", "b.jpg", "--model", "nowhere"], "not a run directory"),
        (["evaluate", "nowhere"], "not a run directory"),
        (["reproduce", "--preset", "slow"], "choose one of quick, cpu, standard, paper"),
    ],
)
def test_user_error_is_one_line_and_exit_code_2(
    run: Run, folders: tuple[Path, Path], tmp_path: Path, words: list[str], message: str,
    capsys: Capture,
) -> None:  # fmt: skip
    if words[0] == "train":
        paths = {"--photos": folders[0], "--paintings": folders[1], "--out": tmp_path / "run"}
        words += [str(word) for pair in paths.items() if pair[0] not in words for word in pair]
    assert run(*words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_control_characters_and_undecodable_names_are_escaped(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    with pytest.raises(SystemExit):
        module.fail("no photo \x1b[31m\u200f.png\nor another")
    assert capsys.readouterr().err == "underdrawing: no photo \\x1b[31m\\u200f.png\nor another\n"
    run_body(monkeypatch, lambda: print("caf\udce9.png"))
    assert capsys.readouterr().out == "caf\\udce9.png\n"


def test_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError, match="mat1"):
        run_body(monkeypatch, lambda: torch.ones(2, 3) @ torch.ones(2, 3))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (KeyboardInterrupt(), "interrupted; run the same command again to continue"),
        (Interrupted("saved at step 3"), "saved at step 3"),
    ],
)
def test_interruption_is_exit_code_130(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture, error: BaseException, message: str
) -> None:
    with pytest.raises(SystemExit, match="130"):
        run_body(monkeypatch, Mock(side_effect=error))
    assert f"underdrawing: {message}" in capsys.readouterr().err


@pytest.mark.parametrize(
    "code",
    [
        "sys.argv = ['underdrawing']; main.main()",  # exits after printing
        "sys.argv = ['underdrawing', '--help']; main.main()",
        "from underdrawing.experiments import styles\n"
        "styles.command = lambda _: [print('line') for _ in range(100_000)]\n"
        "main.run_command('styles', [])",
    ],
    ids=["no command", "help", "command"],
)
def test_closed_standard_output_is_silent(code: str) -> None:
    imports = "import sys\nfrom underdrawing.experiments import main\n"
    # The reader is gone before anything is written.
    with subprocess.Popen(
        [sys.executable, "-c", f"{imports}sys.stdin.read()\n{code}"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdin and process.stdout and process.stderr  # noqa: PT018
        process.stdout.close()
        process.stdin.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 128 + signal.SIGPIPE
