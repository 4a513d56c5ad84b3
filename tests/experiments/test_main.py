"""The commands as a user meets them: sentences and exit codes, never a traceback."""

import json
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from underdrawing.experiments import (
    ablate,
    app,
    benchmark,
    data,
    evaluate,
    export,
    reproduce,
    robustness,
    styles,
    stylize,
    train,
    video,
)
from underdrawing.experiments.main import COMMANDS, main
from underdrawing.experiments.presets import PRESETS
from underdrawing.experiments.recipes import RECIPES
from underdrawing.trainers.config import TrainConfig

README = Path(__file__).parents[2] / "README.md"
Run = Callable[..., int]


@pytest.fixture
def run(offline: None, single_network: None, monkeypatch: pytest.MonkeyPatch) -> Run:
    """``run("train", "--steps", 2)``: exit code of the command."""

    def call(*words: object) -> int:
        monkeypatch.setattr(sys, "argv", ["underdrawing", *map(str, words)])
        try:
            main()
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    return call


def tiny_options(folders: tuple[Path, Path], out: Path) -> list[object]:
    photos, paintings = folders
    return [
        "--photos", photos, "--paintings", paintings, "--out", out, "--size", 32, "--steps", 2,
        "--batch-size", 2, "--workers", 0, "--device", "cpu",
        "--generator.width", 8, "--generator.blocks", 1,
    ]  # fmt: skip


@pytest.fixture
def model(run: Run, folders: tuple[Path, Path], tmp_path: Path) -> Path:
    """A finished run folder."""
    assert run("train", *tiny_options(folders, tmp_path / "run")) == 0
    return tmp_path / "run"


@pytest.mark.parametrize("command", COMMANDS)
def test_help_explains_itself(run: Run, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command, "--help") == 0
    text = capsys.readouterr().out
    assert f"usage: underdrawing {command}" in text
    assert {"data": "--json", "export": "--onnx"}.get(command, "--device") in text


def test_no_command_and_unknown_command(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 2
    assert run("--help") == 0
    assert run("paint") == 2
    assert "choose one of train, stylize" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["train", "--photos", "nowhere"], "there is no folder nowhere"),
        (["train", "--recipe", "magic"], "choose pixel-style, single-layer"),
        (["train", "--device", "cuda"], "torch sees no CUDA device"),
        (["train", "--size", "8"], "crops must be at least 32"),
        (["train", "--style.layers", "relu9_9"], "vgg16 has no layer 'relu9_9'; its layers are"),
        (["train", "--encoder.weights-dir", "nowhere"], "weights folder nowhere does not exist"),
        (
            ["stylize", "a.jpg", "--style", "b.jpg", "--model", "nowhere"],
            "nowhere is no run folder",
        ),
        (["export", "nowhere", "--onnx", "a.onnx"], "nowhere is no run folder"),
        (["evaluate", "nowhere"], "nowhere is no run folder"),
        (["robustness", "nowhere"], "nowhere is no run folder"),
        (["robustness"], "name at least one run folder"),
        (["reproduce", "--preset", "slow"], "choose quick, cpu, standard, paper"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(
    run: Run, folders: tuple[Path, Path], tmp_path: Path, words: list[str], sentence: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    if words[0] == "train" and "--photos" not in words:
        words = [words[0], "--photos", str(folders[0]), *words[1:]]
    if words[0] == "train":
        words += ["--paintings", str(folders[1]), "--out", str(tmp_path / "run")]
    assert run(*words) == 2
    captured = capsys.readouterr()
    assert sentence in captured.err
    assert "Traceback" not in captured.err


def test_a_dry_run_prints_the_plan_and_leaves_no_trace(
    run: Run, folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("train", *tiny_options(folders, tmp_path / "run"), "--dry-run") == 0
    printed = capsys.readouterr().out
    assert {"run", "batch", "steps", "memory", "disk"} <= {
        line.split()[0] for line in printed.splitlines()
    }
    assert not (tmp_path / "run").exists()


def test_missing_weights_name_the_three_ways(
    run: Run, folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("train", *tiny_options(folders, tmp_path / "run"), "--encoder.name", "vgg19") == 2
    error = capsys.readouterr().err
    assert "vgg19-dcbb9e9d.pth" in error
    assert "--encoder.weights-dir" in error


def test_train_stylize_evaluate(
    run: Run, model: Path, folders: tuple[Path, Path], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    photos, paintings = folders
    out, style = tmp_path / "stylized", paintings / "00.png"
    words = ["stylize", photos, photos / "01.png", "--style", style, "--model", model, "--out", out]
    assert run(*words, "--attention") == 0
    assert len(list(out.glob("*-00.png"))) == 12
    assert len(list(out.glob("*-attention.png"))) == 12
    figures = tmp_path / "figures.json"
    assert run("evaluate", model, "--pairs", 4, "--device", "cpu", "--json", figures) == 0
    assert "identity" in capsys.readouterr().out
    lines = {line["title"]: line for line in json.loads(figures.read_text())["full"]["lines"]}
    written = {path.name for path in (model / "evaluation").iterdir()}
    assert written == {"table.md", "table.tex", "table.csv", "table.json"}
    assert lines["identity"]["figures"]["ssim"]["measured"] == pytest.approx(1)
    assert lines["style image as output"]["figures"]["style_gap"]["measured"] == pytest.approx(1)
    assert lines[str(model)]["note"] == "did not stylize"  # after two steps, honestly


def test_one_bad_photo_does_not_stop_the_rest(
    run: Run, model: Path, folders: tuple[Path, Path], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    bad = tmp_path / "bad.jpg"
    bad.write_text("no picture")
    good = folders[0] / "00.png"
    words = ["--style", folders[1] / "00.png", "--model", model, "--out", tmp_path / "out"]
    assert run("stylize", bad, good, *words) == 2
    assert (tmp_path / "out" / "00-00.png").is_file()
    assert "bad.jpg is not a picture" in capsys.readouterr().err


def test_stylize_strength_zero_is_the_photo(
    run: Run, model: Path, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    from PIL import Image, ImageChops

    photo = folders[0] / "00.png"
    words = ["--style", folders[1] / "00.png", "--model", model, "--out", tmp_path / "out"]
    assert run("stylize", photo, *words, "--strength", 0) == 0
    with Image.open(photo) as a, Image.open(tmp_path / "out" / "00-00.png") as b:
        assert ImageChops.difference(a.convert("RGB"), b).getbbox() is None
    assert run("stylize", photo, *words, "--strength", 2) == 2


def test_a_damaged_model_is_refused_in_words(
    run: Run, model: Path, folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = model / "model.safetensors"
    words = ["stylize", folders[0], "--style", folders[1] / "00.png", "--model", model]
    whole = path.read_bytes()
    path.write_bytes(whole[:1000])
    assert run(*words) == 2
    assert "model.safetensors is damaged" in capsys.readouterr().err
    path.write_bytes(whole)
    config = json.loads((model / "config.json").read_text())
    config["generator"]["width"] = 16
    (model / "config.json").write_text(json.dumps(config))
    assert run(*words) == 2
    assert "does not fit" in capsys.readouterr().err


def test_what_is_on_the_command_line_is_in_the_config(folders: tuple[Path, Path]) -> None:
    words = "--recipe single-layer --steps 7 --seed 3 --content.layers conv4_2 0.5 relu3_1 2"
    config = train.parse(shlex.split(words))
    assert (config.recipe, config.steps, config.seed) == ("single-layer", 7, 3)
    assert config.content.layers == (("conv4_2", 0.5), ("relu3_1", 2.0))
    assert config.attention == RECIPES["single-layer"]().attention


def test_no_options_are_the_defaults() -> None:
    assert reproduce.parse([]) == PRESETS["quick"]()
    assert train.parse([]) == TrainConfig()


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_parses_to_itself(preset: str) -> None:
    assert reproduce.parse(["--preset", preset]) == PRESETS[preset]()


def readme_commands() -> list[str]:
    text = README.read_text().replace("\\\n", " ")
    return re.findall(r"^(?:\$ )?underdrawing .+$", text, re.MULTILINE)


@pytest.mark.parametrize("line", readme_commands())
def test_every_command_of_the_readme_parses(line: str) -> None:
    import tyro

    command, *words = shlex.split(line, comments=True)[1:]
    own = {
        "ablate": ablate.parse, "benchmark": benchmark.parse, "data": data.parse,
        "reproduce": reproduce.parse, "train": train.parse,
    }  # fmt: skip
    if command in own:
        own[command](words)
    else:
        kind = {
            "app": app.AppConfig,
            "stylize": stylize.StylizeConfig,
            "looks": styles.LooksConfig,
            "evaluate": evaluate.EvaluateConfig,
            "export": export.ExportConfig,
            "robustness": robustness.RobustnessConfig,
            "video": video.VideoConfig,
        }[command]
        tyro.cli(kind, args=words)
