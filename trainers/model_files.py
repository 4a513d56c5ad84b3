"""Trained models on disk: ``model.safetensors`` beside ``config.json`` in a run directory.

Both may come from an untrusted source. No code in them is executed, and everything is checked: the
config is parsed within bounds, it determines the name and shape of every tensor, and no tensor of
a file with other names or shapes is loaded.
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
from ..models.encoder import Encoder, encoder_names
from ..models.generator import Generator, code_size
from ..models.pretrained import Pretrained, load_pretrained
from .config import TrainConfig, content_layers, encoder_taps, from_json
from .tensor_files import read_shapes, read_tensors, write_tensors

MAX_CONFIG_BYTES = 1_000_000
#: Directory of the model that is shipped with the package.
PRETRAINED = Path(__file__).parents[1] / "pretrained"
#: Its name in options and configs, which stays valid on other machines.
SHIPPED = Path("pretrained")


class Model(NamedTuple):
    """A trained generator and the config of its run."""

    generator: Generator
    config: TrainConfig


def build_generator(config: TrainConfig) -> Generator:
    """Build the untrained generator of a config."""
    style_size, channels = sizes(config)
    a = config.attention
    return Generator(
        style_size,
        config.generator.width,
        config.generator.blocks,
        config.generator.noise,
        config.generator.base,
        attention=needs_branch(a.objective),
        budget=a.budget,
        gates_decoder=a.gates_decoder or a.objective == "gate",
        gate_trains_attention=a.objective == "gate",
        modulates_strength=a.modulates_strength,
        channels=channels if a.channels else None,
    )


@lru_cache
def sizes(config: TrainConfig) -> tuple[int, dict[str, int]]:
    """Return the length of the style code, and the channels of each content layer."""
    with torch.device("meta"):
        channels = Encoder(config.encoder.name, encoder_taps(config)).channels()
    style = {layer: channels[layer] for layer in config.style.layers}
    return code_size(style), {layer: channels[layer] for layer in content_layers(config)}


def build_encoder(config: TrainConfig, taps: list[str]) -> tuple[Encoder, Pretrained]:
    """Build the config's encoder with pretrained weights; also return the weights' origin.

    Names, sources and hashes of the encoders that ``taps`` name are appended to those of the main
    one, joined by "+".
    """
    e = config.encoder
    found = [load_pretrained(name, e.weights_dir) for name in (e.name, *encoder_names(taps))]
    encoder = Encoder(
        e.name, taps, found[0].state, {other.name: other.state for other in found[1:]}
    )
    origins = zip(*((x.name, x.source, x.sha256) for x in found), strict=True)
    name, source, sha256 = ("+".join(parts) for parts in origins)
    return encoder, Pretrained(name, found[0].state, source, sha256)


def model_folder(run: Path) -> Path:
    """Return the directory of a model: ``run`` itself, or of the shipped model for ``pretrained``.

    Raises:
        ValueError: ``pretrained`` is named, and this installation has no such model.
    """
    if run == SHIPPED and not PRETRAINED.is_dir():
        raise ValueError(
            "no shipped model in this installation: name a run directory, or omit --init"
        )
    return PRETRAINED if run == SHIPPED else run


def save_model(state: Mapping[str, Tensor], run: Path) -> None:
    """Write the state of a generator to ``model.safetensors`` in the run directory."""
    write_tensors(run / "model.safetensors", state)


def load_config(run: Path) -> TrainConfig:
    """Load the config of a run directory.

    Raises:
        ValueError: the config is missing, invalid, or of an older version of this package.
    """
    path = run / "config.json"
    if not os.path.isfile(path):  # noqa: PTH113 (Path.is_file raises for a long name)
        raise ValueError(f"not a run directory: {run} (config.json missing)")
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise ValueError(f"{path} is larger than {MAX_CONFIG_BYTES // 10**6} MB: not a config")
    content = path.read_bytes()
    if b'"generator":' in content and b'"noise":' not in content:
        raise ValueError(
            f"{run} was made by an older version of underdrawing ({path.name} has no "
            "generator.noise): train it again"
        )
    try:
        config = from_json(content.decode())
        sizes(config)  # raises if the encoder has no such layers
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return config


def load_state(run: Path) -> dict[str, Tensor]:
    """Load the tensors of a finished model in float32: exactly those of its config, all finite.

    The file may hold them in half precision, as the shipped model's does.

    Raises:
        ValueError: there is no finished model, or its file is damaged or does not fit the config.
    """
    path, config = run / "model.safetensors", load_config(run)
    if not path.is_file():
        raise ValueError(f"no finished model in {run} ({path.name} missing)")
    with torch.device("meta"):  # shapes without memory
        expected = build_generator(config).state_dict()
    shapes, found = {name: tensor.shape for name, tensor in expected.items()}, read_shapes(path)
    if wrong := [n for n in shapes.keys() | found.keys() if shapes.get(n) != found.get(n)]:
        name = min(wrong)
        raise ValueError(
            f"{path} does not fit {run / 'config.json'}: {reprlib.repr(name)} should be "
            f"{_describe(shapes.get(name))}, but is {_describe(found.get(name))}"
        )
    state = read_tensors(path).tensors
    for name, tensor in state.items():
        if tensor.dtype not in (torch.float16, torch.float32) or not tensor.isfinite().all():
            raise ValueError(f"{path} is damaged: {name} is not finite float16 or float32")
    return {name: tensor.float() for name, tensor in state.items()}


def load_model(run: Path | str, device: torch.device | str = "cpu") -> Model:
    """Load the generator of a run directory, in eval mode.

    The directories named in its config are not written to; ``encoder.weights_dir`` is dropped if
    it does not exist on this machine.

    Raises:
        ValueError: there is no finished model, or a file is damaged or does not fit the config.
    """
    run = Path(run)
    config, state = load_config(run), load_state(run)
    generator = build_generator(config)
    generator.load_state_dict(state)
    folder = config.encoder.weights_dir
    if folder and not os.path.isdir(folder):  # noqa: PTH112 (Path.is_dir raises for a long name)
        config = replace(config, encoder=replace(config.encoder, weights_dir=None))
    return Model(generator.to(device).eval(), config)


def own_folder(run: Path, name: str) -> Path:
    """Return the path of a subdirectory of a run directory, to write to.

    Raises:
        ValueError: it is a link to a place outside the run directory.
    """
    folder = run / name
    if not Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(run)):
        raise ValueError(f"{folder} is a link to a place outside {run}: remove it")
    return folder


def _describe(shape: torch.Size | None) -> str:
    return "absent" if shape is None else reprlib.repr(tuple(shape))
