"""``underdrawing train``: a recipe, changed by options, trained; or, with ``--dry-run``, planned.

Several GPUs: ``accelerate launch -m underdrawing.experiments.train …`` with the same options.
"""

import sys
from dataclasses import dataclass
from typing import Annotated

import tyro

from ..trainers.config import TrainConfig
from ..trainers.dry_run import describe, make_plan
from ..trainers.runtime import Interrupted, join_processes
from ..trainers.trainer import begin
from .main import run_command
from .recipes import RECIPES
from .start import find_start


@dataclass(frozen=True)
class TrainCommand:
    """The options: those of the configuration, where booleans read ``--x True``, and one more."""

    config: Annotated[TrainConfig, tyro.conf.arg(name=""), tyro.conf.FlagConversionOff]
    dry_run: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print the plan: steps, memory, sizes, where the run would start. Nothing is trained."""


def parse(arguments: list[str]) -> TrainConfig:
    """A full configuration from ``--recipe NAME`` and options that change it.

    Raises:
        ValueError: unknown recipe, or no model to start from.
    """
    return _parse(arguments)[0].config


def _parse(arguments: list[str]) -> tuple[TrainCommand, str]:
    """The options, and why the defaults of some are what they are."""
    start = find_start(arguments)
    doc = RECIPES[start.config.recipe].__doc__
    description = (
        f"Train a generator. {doc}\n\nRecipes: {', '.join(RECIPES)}. "
        "The defaults shown are those of the recipe chosen."
    )
    options = tyro.cli(
        TrainCommand, prog="underdrawing train", description=description,
        args=arguments, default=TrainCommand(start.config),
    )  # fmt: skip
    return options, start.reason


def command(arguments: list[str]) -> None:
    """Run the command."""
    options, reason = _parse(arguments)
    config, processes = options.config, join_processes(options.config.device)
    main = processes.is_main_process
    if main and reason:
        print(reason, file=sys.stderr)
    if options.dry_run:
        plan = make_plan(config)
        if main:
            print(describe(plan))
        return
    if trainer := begin(config, guided=True):
        try:
            trainer.run()
        except Interrupted:
            if processes.num_processes > 1:  # started by another command
                raise
            raise


if __name__ == "__main__":
    run_command("train", sys.argv[1:])
