"""Where the options of ``underdrawing train`` start from: a recipe that fits the paintings, the
settings of a model to go on from, and what a run folder was begun with.
"""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from ..data.folders import list_folder, split
from ..trainers.config import TrainConfig
from ..trainers.model_files import PRETRAINED, SHIPPED, load_config, model_folder
from .main import choice, given
from .recipes import RECIPES

FEW = 24  # paintings to train on; a folder of 30 has as many
FOR_FEW = "few-paintings"
FURTHER = 300  # steps of that recipe from a trained model, which knows how to paint already


class Start(NamedTuple):
    """The defaults of the options, and why they are these."""

    config: TrainConfig
    reason: str = ""  # for the screen; empty if the recipe was named


def find_start(arguments: list[str]) -> Start:
    """From the options that the others' defaults depend on.

    Raises:
        ValueError: an unknown recipe, or no model to start from where one is named.
    """
    out, named, init = (given(arguments, flag) for flag in ("--out", "--recipe", "--init"))
    begun = _begun(Path(out or TrainConfig.out))
    fitting, reason = _fitting(given(arguments, "--paintings"))
    if named is not None:
        fitting, reason = named, ""
    elif begun and begun.recipe in RECIPES:
        fitting, reason = begun.recipe, _kept(begun, fitting)
    config = choice([], "--recipe", RECIPES, fitting)()

    if init is not None:
        source = None if init == "None" else Path(init)
    elif begun:
        source = begun.init
    elif reason and fitting == FOR_FEW and PRETRAINED.is_dir() and not _has_own_shape(arguments):
        source = SHIPPED
        reason += "\nstart       the model that is shipped; --init None starts from nothing"
    else:
        source = None
    if source is not None:
        steps = FURTHER if config.recipe == FOR_FEW else config.steps
        config = replace(config, init=source, steps=steps)
        config = fitted(config, load_config(model_folder(source)))
    return Start(config, reason)


def _has_own_shape(arguments: list[str]) -> bool:
    """Whether the options ask for networks that a trained model might not fit."""
    shape = ("--generator.", "--encoder.", "--style.layers")
    return any(word.startswith(shape) for word in arguments)


def recipe_for(paintings: int) -> str:
    """The recipe for so many paintings to train on."""
    return FOR_FEW if paintings <= FEW else TrainConfig.recipe


def fitted(config: TrainConfig, model: TrainConfig) -> TrainConfig:
    """A configuration that can start from a model: with its generator and its style codes."""
    encoder = replace(model.encoder, weights_dir=config.encoder.weights_dir)
    content = config.content
    if encoder.name != config.encoder.name:  # whose layers have other names
        content = replace(content, layers=model.content.layers)
    return replace(
        config, generator=model.generator, encoder=encoder, content=content,
        style=replace(config.style, layers=model.style.layers),
    )  # fmt: skip


def _fitting(folder: str | None) -> tuple[str, str]:
    """The recipe for a folder of paintings, and why; the default one if it is not known yet."""
    with suppress(ValueError):  # of which training speaks
        if folder and (count := len(split(list_folder(Path(folder)).pictures).train)):
            paintings = "1 painting" if count == 1 else f"{count} paintings"
            recipe = recipe_for(count)
            return recipe, (
                f"recipe      {recipe}, chosen for {paintings} to train on; --recipe NAME takes "
                "another"
            )
    return TrainConfig.recipe, ""


def _kept(begun: TrainConfig, fitting: str) -> str:
    """What to say of a run that goes on with its recipe, while the paintings ask for another."""
    if begun.recipe == fitting or begun.recipe not in (FOR_FEW, TrainConfig.recipe):
        return ""
    return (
        f"recipe      {begun.recipe}, as the run was begun; for the paintings that are there now "
        f"it would be {fitting}, in another --out"
    )


def _begun(out: Path) -> TrainConfig | None:
    with suppress(ValueError):  # none, or a damaged one, of which training speaks
        return load_config(out)
    return None
