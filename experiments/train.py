"""``underdrawing train``: a recipe, changed by options, trained.

Several GPUs: ``accelerate launch -m underdrawing.experiments.train …`` with the same options.
"""

import sys

import tyro

from ..trainers.config import TrainConfig
from ..trainers.trainer import train
from .main import run_command
from .recipes import RECIPES

FLAGS = (tyro.conf.FlagConversionOff,)  # booleans read `--x True`, as in the config


def parse(arguments: list[str]) -> TrainConfig:
    """A full configuration from ``--recipe NAME`` and options that change it.

    Raises:
        ValueError: unknown recipe.
    """
    name = _recipe_name(arguments)
    if name not in RECIPES:
        raise ValueError(f"there is no recipe {name!r}; choose one of {', '.join(RECIPES)}")
    description = (
        f"Train a generator. Recipe {name}: {RECIPES[name].__doc__}\n\n"
        f"Recipes: {', '.join(RECIPES)}. The defaults shown are those of the recipe chosen."
    )
    return tyro.cli(
        TrainConfig, prog="underdrawing train", description=description,
        args=arguments, default=RECIPES[name](), config=FLAGS,
    )  # fmt: skip


def _recipe_name(arguments: list[str]) -> str:
    for i, argument in enumerate(arguments):
        if argument == "--recipe" and i + 1 < len(arguments):
            return arguments[i + 1]
        if argument.startswith("--recipe="):
            return argument.removeprefix("--recipe=")
    return TrainConfig.recipe


def command(arguments: list[str]) -> None:
    """Run the command."""
    run = train(parse(arguments))
    print(f"model: {run / 'model.safetensors'}")
    print(f"next:  underdrawing stylize PHOTO --style PAINTING --model {run} --out stylized")


if __name__ == "__main__":
    run_command(command, sys.argv[1:])
