"""Which recipe and which model a run starts from, if the user does not say."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from underdrawing.experiments import start as module
from underdrawing.experiments import train as command
from underdrawing.experiments.recipes import RECIPES
from underdrawing.experiments.start import find_start, recipe_for
from underdrawing.trainers import model_files
from underdrawing.trainers.config import GeneratorConfig, TrainConfig, from_json, to_json
from underdrawing.trainers.model_files import load_state
from underdrawing.trainers.trainer import Trainer, check_run_folder, train

Tiny = Callable[..., TrainConfig]


def folder(path: Path, count: int) -> Path:
    """Of so many files that are called pictures, as nobody looks into them here."""
    path.mkdir(exist_ok=True)
    for i in range(count):
        (path / f"{i}.png").touch()
    return path


@pytest.fixture
def shipped(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model in the place of the shipped one, narrower than the default."""
    run = train(tiny("attention", out=tmp_path / "shipped"))
    for owner in (model_files, module):
        monkeypatch.setattr(owner, "PRETRAINED", run)
    return run


@pytest.fixture
def none_shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for owner in (model_files, module):
        monkeypatch.setattr(owner, "PRETRAINED", tmp_path / "nothing")


def words(paintings: Path, out: Path, *more: object) -> list[str]:
    return list(map(str, ["--paintings", paintings, "--out", out, *more]))


@pytest.mark.parametrize(
    ("count", "recipe"), [(1, "few-paintings"), (2, "few-paintings"), (5, "few-paintings"),
                          (20, "few-paintings"), (60, "attention-adversarial")],
)  # fmt: skip
@pytest.mark.usefixtures("none_shipped")
def test_the_paintings_choose_the_recipe(count: int, recipe: str, tmp_path: Path) -> None:
    start = find_start(words(folder(tmp_path / "art", count), tmp_path / "run"))
    assert start.config == RECIPES[recipe]()
    assert f"{recipe}, chosen for" in start.reason
    assert "--recipe NAME takes another" in start.reason


@pytest.mark.usefixtures("none_shipped")
def test_the_user_has_the_last_word(tmp_path: Path) -> None:
    art = folder(tmp_path / "art", 1)
    start = find_start(words(art, tmp_path / "run", "--recipe=attention"))
    assert (start.config, start.reason) == (RECIPES["attention"](), "")
    assert command.parse(words(art, tmp_path / "run", "--crop-scale", 0.9)).crop_scale == 0.9


@pytest.mark.usefixtures("shipped")
def test_a_network_of_ones_own_does_not_start_from_the_shipped_model(tmp_path: Path) -> None:
    art = folder(tmp_path / "art", 1)
    for option in ("--generator.width", "--generator.blocks=3", "--encoder.name"):
        assert find_start(words(art, tmp_path / "run", option, "9")).config.init is None
    assert find_start(words(art, tmp_path / "run", "--size", 96)).config.init is not None


def test_nothing_is_chosen_for_what_is_not_there(tmp_path: Path) -> None:
    for paintings in (tmp_path / "nowhere", folder(tmp_path / "empty", 0)):
        assert find_start(words(paintings, tmp_path / "run")) == (TrainConfig(), "")
    assert find_start([]) == (TrainConfig(), "")


@pytest.mark.usefixtures("none_shipped")
def test_a_run_keeps_its_recipe_when_paintings_are_added(tmp_path: Path) -> None:
    art, run = folder(tmp_path / "art", 5), tmp_path / "run"
    first = command.parse(words(art, run))
    run.mkdir()
    (run / "config.json").write_text(to_json(first))
    assert find_start(words(art, run)).reason == ""
    folder(art, 60)
    start = find_start(words(art, run))
    assert "few-paintings, as the run was begun" in start.reason
    assert "it would be attention-adversarial, in another --out" in start.reason
    assert command.parse(words(art, run)) == first
    check_run_folder(command.parse(words(art, run)))


def test_a_model_to_start_from_says_how_wide_it_is(
    shipped: Path, tiny: Tiny, tmp_path: Path, folders: tuple[Path, Path]
) -> None:
    config = command.parse(words(folders[1], tmp_path / "run", "--init", shipped))
    assert config.generator == GeneratorConfig(width=8, blocks=1)
    wider = words(folders[1], tmp_path / "run", "--init", shipped, "--generator.width", 16)
    assert command.parse(wider).generator == GeneratorConfig(width=16, blocks=1)


def test_another_encoder_brings_its_layers(tmp_path: Path) -> None:
    model = TrainConfig()
    layers, style = (("layer2", 1.0),), ("layer1",)
    model = replace(
        model, encoder=replace(model.encoder, name="resnet50", weights_dir=tmp_path),
        content=replace(model.content, layers=layers), style=replace(model.style, layers=style),
    )  # fmt: skip
    fitted = module.fitted(RECIPES["attention"](), model)
    assert (fitted.encoder.name, fitted.encoder.weights_dir) == ("resnet50", None)
    assert (fitted.content.layers, fitted.style.layers) == (layers, style)


@pytest.mark.usefixtures("shipped")
def test_few_paintings_start_from_the_shipped_model(tmp_path: Path) -> None:
    few, many = (folder(tmp_path / f"{count}", count) for count in (5, 60))
    start = find_start(words(few, tmp_path / "run"))
    assert (start.config.init, start.config.steps) == (Path("pretrained"), module.FURTHER)
    assert "--init None starts from nothing" in start.reason
    assert command.parse(words(few, tmp_path / "run", "--init", "None")).init is None
    assert find_start(words(many, tmp_path / "run")).config.init is None
    assert find_start(words(few, tmp_path / "run", "--recipe", "few-paintings")).config.init is None


def test_the_shipped_model_has_a_name_that_is_no_place(
    shipped: Path, tiny: Tiny, tmp_path: Path
) -> None:
    config = tiny("few-paintings", init=Path("pretrained"), out=tmp_path / "run", steps=3)
    fresh = Trainer(config).networks.plain_generator.state_dict()
    assert all(torch.equal(fresh[key], value) for key, value in load_state(shipped).items())
    train(replace(config, steps=2))
    assert from_json((config.out / "config.json").read_text()).init == Path("pretrained")
    again = command.parse(words(config.paintings or Path(), config.out))  # takes it up again
    assert (again.init, again.generator) == (config.init, config.generator)


@pytest.mark.usefixtures("none_shipped")
def test_no_model_is_shipped(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="ships no model to start from"):
        find_start(["--init", "pretrained"])


def test_the_limit_is_where_it_says() -> None:
    assert recipe_for(module.FEW) != recipe_for(module.FEW + 1) == TrainConfig().recipe
