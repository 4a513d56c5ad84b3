"""The finished generator on disk: ``model.safetensors`` beside ``config.json``.

Both may be somebody else's: nothing in them is executed, and nothing is believed unchecked. The
configuration is read first, within bounds; it tells the name and shape of every tensor; and not
one is read from a file that claims others.
"""

import os
import reprlib
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..losses.attention import needs_branch
from ..models.encoder import Encoder
from ..models.generator import Generator, code_size
from ..models.pretrained import Pretrained, load_pretrained
from .config import TrainConfig, content_layers, encoder_taps, from_json
from .tensor_files import read_shapes, read_tensors, write_tensors

MAX_CONFIG = 1_000_000  # bytes
#: Folder of the model that is shipped with the package.
PRETRAINED = Path(__file__).parents[1] / "pretrained"
#: What a configuration calls it, so that a run may move to a machine with another installation.
SHIPPED = Path("pretrained")


class Model(NamedTuple):
    """A trained generator with the run's configuration."""

    generator: Generator
    config: TrainConfig


def build_generator(config: TrainConfig) -> Generator:
    """The generator a config describes."""
    style_size, channels = sizes(config)
    a = config.attention
    return Generator(
        style_size,
        config.generator.width,
        config.generator.blocks,
        attention=needs_branch(a.objective),
        gates_decoder=a.gates_decoder or a.objective == "gate",
        gate_trains_attention=a.objective == "gate",
        modulates_strength=a.modulates_strength,
        channels=channels if a.channels else None,
    )


@lru_cache
def sizes(config: TrainConfig) -> tuple[int, dict[str, int]]:
    """Length of the style code, and channels of the content layers."""
    with torch.device("meta"):
        channels = Encoder(config.encoder.name, encoder_taps(config)).channels()
    style = {layer: channels[layer] for layer in config.style.layers}
    return code_size(style), {layer: channels[layer] for layer in content_layers(config)}


def build_encoder(config: TrainConfig, taps: list[str]) -> tuple[Encoder, Pretrained]:
    """The config's encoder with pretrained weights, and where these came from."""
    e = config.encoder
    pretrained = load_pretrained(e.name, e.weights_dir)
    return Encoder(e.name, taps, pretrained.state), pretrained


def model_folder(init: Path) -> Path:
    """The folder of a model to start from: the run folder named, or that of the shipped model.

    Raises:
        ValueError: ``pretrained`` is asked for, and none is shipped.
    """
    if init != SHIPPED:
        return init
    if not PRETRAINED.is_dir():
        raise ValueError(
            "this installation ships no model to start from: name a run folder in --init, or do "
            "without it"
        )
    return PRETRAINED


def save_model(state: Mapping[str, Tensor], run: Path) -> None:
    """Write a generator's state as ``model.safetensors`` into the run folder."""
    write_tensors(run / "model.safetensors", state)


def load_config(run: Path) -> TrainConfig:
    """The configuration of a run folder.

    Raises:
        ValueError: there is none, or it is not one.
    """
    path = run / "config.json"
    if not path.is_file():
        raise ValueError(f"{run} is no run folder (there is no {path.name})")
    if path.stat().st_size > MAX_CONFIG:
        raise ValueError(f"{path} is larger than any configuration")
    try:
        config = from_json(path.read_text("utf-8"))
        sizes(config)  # its encoder has those layers
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return config


def load_state(run: Path) -> dict[str, Tensor]:
    """The tensors of a run's finished model: those its configuration asks for, all finite.

    Raises:
        ValueError: the run has no finished model, or the file is damaged or belongs to another
            configuration.
    """
    path, config = run / "model.safetensors", load_config(run)
    if not path.is_file():
        raise ValueError(f"{run} holds no finished model (there is no {path.name})")
    with torch.device("meta"):  # shapes without memory
        wanted = build_generator(config).state_dict()
    shapes, found = {name: tensor.shape for name, tensor in wanted.items()}, read_shapes(path)
    if wrong := [n for n in shapes.keys() | found.keys() if shapes.get(n) != found.get(n)]:
        name = min(wrong)
        raise ValueError(
            f"{path} does not fit {run / 'config.json'}: {reprlib.repr(name)} should be "
            f"{_words(shapes.get(name))} and is {_words(found.get(name))}"
        )
    state = read_tensors(path).tensors
    for name, tensor in state.items():
        if tensor.dtype != wanted[name].dtype or not tensor.isfinite().all():
            raise ValueError(f"{path} is damaged: {name} holds other than finite float32 numbers")
    return state


def load_model(run: Path | str, device: torch.device | str = "cpu") -> Model:
    """The finished generator of a run folder, in eval mode; the run may be somebody else's.

    Of the folders that its configuration names none is written to, and ``encoder.weights_dir`` is
    looked into only where there is such a folder on this machine.

    Raises:
        ValueError: no finished model there, or a file that is damaged or does not fit its
            configuration.
    """
    run = Path(run)
    config, state = load_config(run), load_state(run)
    generator = build_generator(config)
    generator.load_state_dict(state)
    folder = config.encoder.weights_dir
    if folder and not os.path.isdir(folder):  # noqa: PTH112 (never raises)
        config = replace(config, encoder=replace(config.encoder, weights_dir=None))
    return Model(generator.to(device).eval(), config)


def own_folder(run: Path, name: str) -> Path:
    """A folder within a run folder, to write to; the run may be somebody else's.

    Raises:
        ValueError: it is a link that leads out of the run folder.
    """
    folder = run / name
    if not Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(run)):
        raise ValueError(f"{folder} is a link that leads out of {run}: remove it")
    return folder


def _words(shape: torch.Size | None) -> str:
    return "absent" if shape is None else reprlib.repr(tuple(shape))
