"""The training runs of a study, one per table row and seed, stored under a hash of their settings.

A run is in ``OUT/runs/KEY``, its scores are in ``OUT/scores/SPLIT/KEY.json``. Finished runs are
reused, and a run that several tables need is trained once.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ...losses.attention import learns_error
from ...trainers.config import (
    AdversarialConfig,
    AttentionConfig,
    GeneratorConfig,
    TrainConfig,
    identity_settings,
)
from ...trainers.runtime import pick_device, pick_precision
from ...trainers.schedule import learns_alone
from ...trainers.tracking import initial_model
from ..presets import StudyConfig
from ..recipes import attention

CACHE_VERSION = 1  # increase when a code change alters the result of a training run


@dataclass(frozen=True)
class StudyRun:
    """One row of a table at one seed."""

    title: str
    seed: int
    config: TrainConfig
    start: TrainConfig  # the warm-up it continues from, shared by the rows of a seed

    @property
    def dir(self) -> Path:
        """The run directory."""
        return self.config.out

    @property
    def key(self) -> str:
        """Hash of the settings: runs with equal keys are the same run."""
        return self.dir.name


def make_run(
    study: StudyConfig, title: str, recipe: TrainConfig, seed: int, data: Sequence[str]
) -> StudyRun:
    """Return the run of a recipe with the data, sizes, steps and seeds of the study.

    ``data`` are the content hashes of the study's photos and paintings.
    """
    start = replace(_warmup_recipe(recipe), init=study.init)
    start = _with_study(start, study, study.warmup, 0, seed)
    key = settings_key(start, data, initial_model(start))
    start = replace(start, out=study.out / "runs" / key)
    final = study.attention_steps if learns_alone(recipe.attention) else 0
    recipe = drop_inactive_settings(recipe)
    config = _with_study(recipe, study, study.steps, final, 1000 + seed)
    config = replace(
        config, init=start.out,
        optimizer=replace(config.optimizer, warmup=5),  # the generator is already trained
    )  # fmt: skip
    config = replace(config, out=study.out / "runs" / settings_key(config, data, key))
    return StudyRun(title, seed, config, start)


def _warmup_recipe(recipe: TrainConfig) -> TrainConfig:
    """Return the warm-up of a recipe: multi-layer content loss, the attention branch trained but
    not used, no discriminator.

    It takes over only what cannot change later: generator, encoder and layers, and gradient shares,
    without which the losses of different encoders are not comparable.
    """
    start = replace(
        attention(), attention=AttentionConfig(objective="observed"), encoder=recipe.encoder,
        style=replace(attention().style, layers=recipe.style.layers), generator=recipe.generator,
    )  # fmt: skip
    other_encoder = recipe.encoder != attention().encoder
    if other_encoder:
        start = replace(start, content=recipe.content)
    if other_encoder or recipe.balance.kind == "gradient":
        start = replace(start, balance=replace(recipe.balance, adversarial=0.0))
    return start


def _with_study(
    recipe: TrainConfig, study: StudyConfig, steps: int, final_steps: int, seed: int
) -> TrainConfig:
    """Return a recipe with the settings of the study, and so many steps of all networks and then of
    the attention branch alone.
    """
    steps += final_steps
    return replace(
        recipe, photos=study.photos, paintings=study.paintings, device=study.device,
        precision=pick_precision(study.precision, pick_device(study.device)),
        batch_size=study.batch_size, size=study.size, workers=study.workers, steps=steps, seed=seed,
        encoder=replace(recipe.encoder, weights_dir=study.weights_dir),
        generator=_generator(recipe, study), optimizer=replace(recipe.optimizer, lr=study.lr),
        attention=replace(recipe.attention, final_steps=final_steps),
        validate_every=steps,  # the last model is used, not the best
    )  # fmt: skip


def _generator(recipe: TrainConfig, study: StudyConfig) -> GeneratorConfig:
    """Return the generator of the study, with the settings that the recipe varies."""
    default, settings = asdict(GeneratorConfig()), asdict(recipe.generator)
    varied = {name: value for name, value in settings.items() if value != default[name]}
    return replace(study.generator, **varied)


def drop_inactive_settings(config: TrainConfig) -> TrainConfig:
    """Reset settings without effect to their defaults, so that a grid trains no run twice."""
    attention, default = config.attention, AttentionConfig()
    if attention.objective == "uniform":
        attention = replace(attention, budget=default.budget)
    if not learns_error(attention.objective):
        attention = replace(attention, paintings=default.paintings)
    adversarial = config.adversarial if config.balance.adversarial else AdversarialConfig()
    return replace(config, attention=attention, adversarial=adversarial)


def settings_key(config: TrainConfig, data: Sequence[str], init: str | None) -> str:
    """Return a hash of every setting that affects the result, of the images' content, and of what
    identifies the initial model.
    """
    settings = identity_settings(config) | {
        "version": CACHE_VERSION, "data": list(data), "init": init,
    }  # fmt: skip
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
