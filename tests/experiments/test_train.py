"""The train command: defaults that depend on other options, and what it prints."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from underdrawing.experiments import train as module
from underdrawing.experiments.recipes import RECIPES
from underdrawing.experiments.train import find_defaults, next_commands, parse
from underdrawing.trainers import model_files
from underdrawing.trainers.checkpoint import saved_step
from underdrawing.trainers.config import GeneratorConfig, TrainConfig, to_json
from underdrawing.trainers.model_files import SHIPPED, load_config, load_state
from underdrawing.trainers.trainer import Trainer, check_run_dir, train

Tiny = Callable[..., TrainConfig]


def folder(path: Path, count: int) -> Path:
    """A folder of empty files with names of images, which suffice here."""
    path.mkdir(exist_ok=True)
    for i in range(count):
        (path / f"{i}.png").touch()
    return path


def words(paintings: Path, out: Path, *more: object) -> list[str]:
    return list(map(str, ["--paintings", paintings, "--out", out, *more]))


@pytest.fixture
def shipped(
    tiny: Tiny, write_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A model in place of the shipped one, narrower than the default."""
    run = write_model(tiny("attention", out=tmp_path / "shipped"), residual=0.1)
    for owner in (model_files, module):
        monkeypatch.setattr(owner, "PRETRAINED", run)
    return run


@pytest.fixture
def none_shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for owner in (model_files, module):
        monkeypatch.setattr(owner, "PRETRAINED", tmp_path / "nothing")


@pytest.mark.parametrize(
    ("count", "recipe"),
    [(1, "few-paintings"), (30, "few-paintings"), (31, "attention-adversarial")],
)
@pytest.mark.usefixtures("none_shipped")
def test_recipe_depends_on_the_number_of_paintings(count: int, recipe: str, tmp_path: Path) -> None:
    defaults = find_defaults(words(folder(tmp_path / "art", count), tmp_path / "run"))
    assert defaults.config == RECIPES[recipe]()
    assert f"{recipe} selected automatically" in defaults.reason
    assert "override with --recipe" in defaults.reason


@pytest.mark.usefixtures("shipped")
def test_named_recipe_is_used(tmp_path: Path) -> None:
    few = folder(tmp_path / "art", 5)
    defaults = find_defaults(words(few, tmp_path / "run", "--recipe=attention"))
    assert defaults == (RECIPES["attention"](), "")
    assert parse(words(few, tmp_path / "run", "--recipe", "few-paintings")).init is None


def test_defaults_without_usable_paintings(tmp_path: Path) -> None:
    for paintings in (tmp_path / "nowhere", folder(tmp_path / "empty", 0)):
        assert find_defaults(words(paintings, tmp_path / "run")) == (TrainConfig(), "")


@pytest.mark.usefixtures("none_shipped")
def test_resumed_run_keeps_its_recipe_when_paintings_are_added(tmp_path: Path) -> None:
    art, run = folder(tmp_path / "art", 5), tmp_path / "run"
    first = parse(words(art, run))
    run.mkdir()
    (run / "config.json").write_text(to_json(first))
    assert find_defaults(words(art, run)).reason == ""
    folder(art, 60)
    reason = find_defaults(words(art, run)).reason
    assert "few-paintings of the existing run; use another --out for attention-adv" in reason
    assert parse(words(art, run)) == first
    check_run_dir(parse(words(art, run)))


def test_initial_model_gives_the_architecture_also_when_it_is_gone(
    shipped: Path, tmp_path: Path
) -> None:
    art, run = folder(tmp_path / "art", 60), tmp_path / "run"
    config = parse(words(art, run, "--init", shipped))
    assert config.generator == GeneratorConfig(8, 1)
    wider = words(art, run, "--init", shipped, "--generator.width", 16)
    assert parse(wider).generator == GeneratorConfig(16, 1)
    run.mkdir()
    (run / "config.json").write_text(to_json(config))
    gone = shipped.rename(tmp_path / "gone")
    assert parse(words(art, run, "--init", shipped)) == config
    assert gone.is_dir()


def test_initial_model_with_another_encoder_gives_its_layers(tmp_path: Path) -> None:
    model = TrainConfig()
    model = replace(
        model, encoder=replace(model.encoder, name="resnet50", weights_dir=tmp_path),
        content=replace(model.content, layers=(("layer2", 1.0),)),
        style=replace(model.style, layers=("layer1",)),
    )  # fmt: skip
    config = module.use_architecture_of(model, RECIPES["attention"]())
    assert (config.encoder.name, config.encoder.weights_dir) == ("resnet50", None)
    assert (config.content.layers, config.style.layers) == ((("layer2", 1.0),), ("layer1",))


@pytest.mark.usefixtures("shipped")
def test_few_paintings_fine_tune_the_shipped_model(tmp_path: Path) -> None:
    few, many = (folder(tmp_path / f"{count}", count) for count in (5, 60))
    run = tmp_path / "run"
    defaults = find_defaults(words(few, run))
    assert (defaults.config.init, defaults.config.steps) == (SHIPPED, module.FINE_TUNING_STEPS)
    assert "train from scratch with --init None" in defaults.reason
    assert parse(words(few, run, "--init", "None")).init is None
    assert parse(words(many, run)).init is None
    for option in ("--generator.width", "--generator.blocks=3", "--encoder.name"):
        assert find_defaults(words(few, run, option, "9")).config.init is None


def test_shipped_model_is_referred_to_by_name(shipped: Path, tiny: Tiny, tmp_path: Path) -> None:
    """So that a run can be resumed on another machine."""
    config = tiny("few-paintings", init=SHIPPED, out=tmp_path / "run")
    initial = Trainer(config).networks.plain_generator.state_dict()
    assert all(torch.equal(initial[key], value) for key, value in load_state(shipped).items())
    train(config)
    assert load_config(config.out).init == SHIPPED
    assert config.paintings
    resumed = parse(words(config.paintings, config.out))
    assert (resumed.init, resumed.generator) == (SHIPPED, config.generator)


@pytest.mark.usefixtures("none_shipped")
def test_missing_shipped_model_is_refused() -> None:
    with pytest.raises(ValueError, match="no shipped model in this installation"):
        find_defaults(["--init", "pretrained"])


@pytest.mark.usefixtures("offline")
def test_command_prints_a_summary_and_the_next_commands(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    arguments = words(
        folders[1], run, "--photos", folders[0], "--init", "None", "--size", 32, "--steps", 1,
        "--batch-size", 2, "--workers", 0, "--device", "cpu", "--precision", "fp32",
        "--generator.width", 8, "--generator.blocks", 1,
    )  # fmt: skip
    module.command([*arguments, "--dry-run"])
    assert f"{run}: 1 steps of recipe few-paintings" in capsys.readouterr().out
    assert not run.exists()
    module.command(arguments)
    printed = capsys.readouterr().err
    assert saved_step(run) == 1
    assert "recipe few-paintings selected automatically (9 painting(s))" in printed
    assert "photos      6 training, 3 validation, 3 test" in printed
    assert f"--model {run} --out out" in printed
    assert f"underdrawing evaluate {run}" in printed


def test_evaluation_is_not_recommended_without_held_out_images(tiny: Tiny, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        Image.new("RGB", (40, 40), "red").save(tmp_path / name)
    commands = next_commands(Trainer(tiny(paintings=tmp_path)))
    assert "underdrawing stylize" in commands
    assert "underdrawing evaluate" not in commands
