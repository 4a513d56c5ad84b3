"""``underdrawing train``: a recipe, changed by options, trained; or, with ``--dry-run``, planned.

Several GPUs: ``accelerate launch -m underdrawing.experiments.train …`` with the same options.
"""

import sys
from dataclasses import dataclass
from typing import Annotated

import tyro

from ..trainers.config import TrainConfig
from ..trainers.plan import describe, make_plan
from ..trainers.processes import join_processes
from ..trainers.trainer import train
from .main import choice, run_command
from .recipes import RECIPES


@dataclass(frozen=True)
class TrainCommand:
    """The options: those of the configuration, where booleans read ``--x True``, and one more."""

    config: Annotated[TrainConfig, tyro.conf.arg(name=""), tyro.conf.FlagConversionOff]
    dry_run: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print the plan: steps, memory, sizes, where the run would start. Nothing is trained."""


def parse(arguments: list[str]) -> TrainConfig:
    """A full configuration from ``--recipe NAME`` and options that change it.

    Raises:
        ValueError: unknown recipe.
    """
    return _parse(arguments).config


def _parse(arguments: list[str]) -> TrainCommand:
    recipe = choice(arguments, "--recipe", RECIPES, TrainConfig.recipe)
    description = (
        f"Train a generator. {recipe.__doc__}\n\nRecipes: {', '.join(RECIPES)}. "
        "The defaults shown are those of the recipe chosen."
    )
    return tyro.cli(
        TrainCommand, prog="underdrawing train", description=description,
        args=arguments, default=TrainCommand(recipe()),
    )  # fmt: skip


def command(arguments: list[str]) -> None:
    """Run the command."""
    options = _parse(arguments)
    main = join_processes(options.config.device).is_main_process
    if options.dry_run:
        plan = make_plan(options.config)
        if main:
            print(describe(plan))
        return
    run = train(options.config)
    if main:
        print(f"model: {run / 'model.safetensors'}")
        print(f"next:  underdrawing stylize PHOTO --style PAINTING --model {run} --out stylized")


if __name__ == "__main__":
    run_command("train", sys.argv[1:])
