"""The finished generator on disk: ``model.safetensors`` beside ``config.json``."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from ..data.files import write_atomic
from ..losses.attention import needs_branch
from ..models.encoder import Encoder
from ..models.generator import Generator
from ..models.pretrained import Pretrained, load_pretrained
from .config import TrainConfig, from_json


class Model(NamedTuple):
    """A trained generator with the run's configuration."""

    generator: Generator
    config: TrainConfig


def build_generator(config: TrainConfig, style_size: int, channels: Mapping[str, int]) -> Generator:
    """The generator a config describes; ``channels`` are those of the content layers, if used."""
    objective = config.attention.objective
    return Generator(
        style_size,
        config.generator.width,
        config.generator.blocks,
        attention=needs_branch(objective),
        gate=objective == "gate",
        channels=channels if config.attention.channels else None,
    )


def build_encoder(config: TrainConfig, taps: list[str]) -> tuple[Encoder, Pretrained]:
    """The config's encoder with pretrained weights, and where these came from."""
    pretrained = load_pretrained(config.encoder.name, config.encoder.weights_dir)
    return Encoder(config.encoder.name, taps, pretrained.state), pretrained


def save_model(state: Mapping[str, Tensor], run: Path) -> None:
    """Write a generator's state as ``model.safetensors`` into the run folder."""
    tensors = {key: value.contiguous().cpu() for key, value in state.items()}
    write_atomic(run / "model.safetensors", save(tensors))


def load_state(run: Path) -> dict[str, Tensor]:
    """The tensors of a run's finished model.

    Raises:
        ValueError: the run has no finished model, or the file is damaged.
    """
    path = run / "model.safetensors"
    if not path.is_file():
        raise ValueError(f"{run} holds no finished model (there is no {path.name})")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged: {error}") from None


def load_config(run: Path) -> TrainConfig:
    """The configuration of a run folder.

    Raises:
        ValueError: there is none, or it is not one.
    """
    path = run / "config.json"
    if not path.is_file():
        raise ValueError(f"{run} is no run folder (there is no {path.name})")
    try:
        return from_json(path.read_text())
    except (json.JSONDecodeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None


def load_model(run: Path | str, device: torch.device | str = "cpu") -> Model:
    """The finished generator of a run folder, in eval mode.

    Raises:
        ValueError: no finished model there, or a file that does not fit its configuration.
    """
    run = Path(run)
    config, state = load_config(run), load_state(run)
    heads = "channel_attention.heads."
    channels = {
        key.removeprefix(heads).removesuffix(".weight"): value.shape[0]
        for key, value in state.items()
        if key.startswith(heads) and key.endswith(".weight")
    }
    try:
        generator = build_generator(config, state["code_mean"].numel(), channels)
        generator.load_state_dict(state)
    except (RuntimeError, KeyError):
        raise ValueError(
            f"{run / 'model.safetensors'} does not fit {run / 'config.json'}"
        ) from None
    return Model(generator.to(device).eval(), config)
