"""``underdrawing train``: train a recipe, with settings changed by options.

Several GPUs: ``accelerate launch -m underdrawing.experiments.train …`` with the same options.
"""

import shlex
import sys
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, NamedTuple

import tyro

from ..data.files import one_line
from ..data.folders import find_images
from ..trainers.config import TrainConfig
from ..trainers.dry_run import describe, make_plan, summarize
from ..trainers.model_files import PRETRAINED, SHIPPED, load_config, model_folder
from ..trainers.runtime import join_processes
from ..trainers.trainer import Trainer, begin
from .main import choice, option_value, parse_options, run_command
from .recipes import RECIPES

FEW = 30  # paintings, at most, for which ``few-paintings`` is the default recipe
FEW_RECIPE = "few-paintings"
FINE_TUNING_STEPS = 300  # of that recipe, when it starts from a trained model


@dataclass(frozen=True)
class TrainCommand:
    """Options: those of the configuration, with booleans as ``--x True``, and ``--dry-run``."""

    config: Annotated[TrainConfig, tyro.conf.arg(name=""), tyro.conf.FlagConversionOff]
    dry_run: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print device, sizes, time per step and where the run starts; train nothing."""


def command(arguments: list[str]) -> None:
    """Run the command."""
    defaults = find_defaults(arguments)
    options = _parse(arguments, defaults.config)
    config, is_main = options.config, join_processes(options.config.device).is_main_process
    if is_main and defaults.reason:
        print(defaults.reason, file=sys.stderr)
    if options.dry_run:
        plan = make_plan(config)
        if is_main:
            print(describe(plan))
    elif trainer := begin(config):
        if is_main:
            print(describe(summarize(trainer)), file=sys.stderr)
        trainer.run()
        if is_main:
            print(next_commands(trainer), file=sys.stderr)


def parse(arguments: list[str]) -> TrainConfig:
    """Return the configuration for command line arguments.

    Raises:
        ValueError: an unknown recipe, an invalid setting, or no model to start from.
    """
    return _parse(arguments, find_defaults(arguments).config).config


def _parse(arguments: list[str], defaults: TrainConfig) -> TrainCommand:
    summary = (RECIPES[defaults.recipe].__doc__ or "").partition("\n")[0]
    return parse_options(
        TrainCommand, prog="underdrawing train", args=arguments, default=TrainCommand(defaults),
        description=f"Train a generator. Defaults are those of recipe {defaults.recipe}: "
        f"{summary}\n\nRecipes: {', '.join(RECIPES)}.",
    )  # fmt: skip


def next_commands(trainer: Trainer) -> str:
    """Return commands that use the trained model, with example images."""
    config, collections = trainer.config, (trainer.photos, trainer.paintings)
    photo, painting = (str([*c.test, *c.validation, *c.train][0]) for c in collections)
    stylize = ["stylize", photo, "--style", painting, "--model", str(config.out), "--out", "out"]
    commands = [stylize]
    if all(c.test for c in collections):
        commands.append(["evaluate", str(config.out)])
    lines = (one_line(shlex.join(["underdrawing", *words])) for words in commands)
    return "\n  ".join(["next:", *lines])


# --- defaults that depend on other options ----------------------------------------------------


class Defaults(NamedTuple):
    """Defaults of the options, and why the recipe or the initial model was chosen."""

    config: TrainConfig
    reason: str = ""


def find_defaults(arguments: list[str]) -> Defaults:
    """Choose recipe and initial model, where the command line names none.

    A run that is resumed keeps both. Otherwise the recipe depends on the number of paintings,
    and few paintings fine-tune the shipped model.

    Raises:
        ValueError: an unknown recipe, or no such model to start from.
    """
    recipe, init = option_value(arguments, "--recipe"), option_value(arguments, "--init")
    previous = _previous_config(Path(option_value(arguments, "--out") or TrainConfig.out))
    folder, count, reason = option_value(arguments, "--paintings"), 0, ""
    with suppress(ValueError):  # which training reports
        count = len(find_images(Path(folder))) if folder else 0
    fitting = FEW_RECIPE if 0 < count <= FEW else TrainConfig.recipe
    architecture = ("--generator.", "--encoder.", "--style.layers")
    fits = PRETRAINED.is_dir() and not any(word.startswith(architecture) for word in arguments)
    if recipe is None and previous and previous.recipe in RECIPES:
        recipe = previous.recipe
        if {recipe, fitting} == {FEW_RECIPE, TrainConfig.recipe}:
            reason = f"recipe {recipe} of the existing run; use another --out for {fitting}"
    elif recipe is None and count:
        reason = f"recipe {fitting} selected automatically ({count} painting(s)); "
        reason += "override with --recipe"
    config = choice([], "--recipe", RECIPES, recipe or fitting)()

    if init is not None:
        source = None if init == "None" else Path(init)
    elif previous:
        source = previous.init
    elif recipe is None and fitting == FEW_RECIPE and fits:
        source = SHIPPED
        reason += "\nfine-tuning the shipped model; train from scratch with --init None"
    else:
        source = None
    if source is not None:
        steps = FINE_TUNING_STEPS if config.recipe == FEW_RECIPE else config.steps
        config = replace(config, init=source, steps=steps)
        config = use_architecture_of(previous or load_config(model_folder(source)), config)
    return Defaults(config, reason)


def use_architecture_of(model: TrainConfig, config: TrainConfig) -> TrainConfig:
    """Return the config with the generator, encoder and style layers of a model to start from."""
    content = config.content
    if model.encoder.name != config.encoder.name:  # its layers have other names
        content = replace(content, layers=model.content.layers)
    return replace(
        config, generator=model.generator, content=content,
        encoder=replace(model.encoder, weights_dir=config.encoder.weights_dir),
        style=replace(config.style, layers=model.style.layers),
    )  # fmt: skip


def _previous_config(out: Path) -> TrainConfig | None:
    with suppress(ValueError):  # no run there, or a damaged one, which training reports
        return load_config(out)
    return None


if __name__ == "__main__":
    run_command("train", sys.argv[1:])
