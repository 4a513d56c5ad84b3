"""``underdrawing train``: a recipe, changed by options, trained.

Several GPUs: ``accelerate launch -m underdrawing.experiments.train …`` with the same options.
"""

import sys

import tyro

from ..trainers.config import TrainConfig
from ..trainers.trainer import train
from .main import choice, run_command
from .recipes import RECIPES

FLAGS = (tyro.conf.FlagConversionOff,)  # booleans read `--x True`, as in the config


def parse(arguments: list[str]) -> TrainConfig:
    """A full configuration from ``--recipe NAME`` and options that change it.

    Raises:
        ValueError: unknown recipe.
    """
    recipe = choice(arguments, "--recipe", RECIPES, TrainConfig.recipe)
    description = (
        f"Train a generator. {recipe.__doc__}\n\nRecipes: {', '.join(RECIPES)}. "
        "The defaults shown are those of the recipe chosen."
    )
    return tyro.cli(
        TrainConfig, prog="underdrawing train", description=description,
        args=arguments, default=recipe(), config=FLAGS,
    )  # fmt: skip


def command(arguments: list[str]) -> None:
    """Run the command."""
    run = train(parse(arguments))
    print(f"model: {run / 'model.safetensors'}")
    print(f"next:  underdrawing stylize PHOTO --style PAINTING --model {run} --out stylized")


if __name__ == "__main__":
    run_command(command, sys.argv[1:])
