"""Style codes of paintings for one model: encoded, cached on disk, or stored under a name.

A *named style* is a style code in ``styles.safetensors`` of a run directory: name -> code (D,).
"""

import os
from collections.abc import Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from ..data.convert import ImageLike, to_batch
from ..data.files import content_hash
from ..data.images import read_image, to_image, to_tensor
from ..models.encoder import Encoder
from ..models.pretrained import cache_dir
from ..models.style_code import style_code
from .config import TrainConfig
from .model_files import PRETRAINED, build_encoder, own_folder, sizes
from .tensor_files import read_tensors, write_tensors

STYLES_FILE = "styles.safetensors"
MIN_SIDE, MAX_ASPECT = 16, 20  # of a painting


class StyleCodes:
    """Style codes for one model, whose run directory holds named styles and cached codes.

    Attributes:
        styles: the named styles, name -> code (1,D).

    Raises:
        ValueError: the file of named styles is damaged or belongs to another model.
    """

    def __init__(self, run: Path, config: TrainConfig, device: torch.device) -> None:
        self.run, self.config, self.device = run, config, device
        self.styles = read_styles(run, config)

    def code(self, painting: ImageLike) -> Tensor:
        """Return the code (1,D) of a named style or a painting, or (B,D) of a batch of paintings;
        a code itself is only checked.

        Codes of files are cached by content: a known painting needs no encoder and no weights.

        Raises:
            ValueError: there is no such named style or file, the painting is too small or too
                narrow, the encoder's weights are missing, or a code is of another model.
        """
        if isinstance(painting, str) and painting in self.styles:
            return self.styles[painting].to(self.device)
        if isinstance(painting, str | Path):
            return self._code_of_file(Path(painting))
        if isinstance(painting, Image.Image):
            return self._encode(painting, "the painting")
        if isinstance(painting, Tensor) and painting.dim() == 2:
            return _checked(painting, self.config, "the style code").to(self.device)
        images = [to_image(image) for image in to_batch(painting)]
        return torch.cat([self._encode(image, "the painting") for image in images])

    def _code_of_file(self, path: Path) -> Tensor:
        # A pipe might block for ever.
        if not os.path.isfile(path):  # noqa: PTH113 (Path.is_file raises for a long name)
            known = f", and no named style ({', '.join(self.styles)})" if self.styles else ""
            raise ValueError(f"{path} is no image file{known}")
        try:
            name = f"{content_hash(path)[:16]}.safetensors"
        except OSError as error:
            raise ValueError(f"{path} cannot be read: {error.strerror}") from None
        with suppress(OSError, ValueError, KeyError):  # cache miss, damaged file or another model
            code = read_tensors(self._cache() / name).tensors["code"]
            return _checked(code, self.config, path).to(self.device)
        code = self._encode(read_image(path), path)
        with suppress(OSError, ValueError):  # not writable: not cached
            write_tensors(self._cache() / name, {"code": code})
        return code

    def _cache(self) -> Path:
        if self.run == PRETRAINED:  # the installed package is not written to
            return cache_dir() / "codes" / content_hash(self.run / "config.json")[:16]
        return own_folder(self.run, "codes")

    def _encode(self, image: Image.Image, name: Path | str) -> Tensor:
        """Encode an image (1,D), resized to the scale of the training paintings."""
        width, height = image.size
        if min(image.size) < MIN_SIDE or max(image.size) > MAX_ASPECT * min(image.size):
            raise ValueError(
                f"{name} is {width}x{height} pixels: a painting needs sides of at least "
                f"{MIN_SIDE} pixels and an aspect ratio of at most {MAX_ASPECT}"
            )
        scale = self.config.size / min(image.size)
        size = (round(width * scale), round(height * scale))
        painting = to_tensor(image.resize(size, Image.Resampling.LANCZOS))[None].to(self.device)
        with torch.no_grad():
            return style_code(painting, self._encoder(painting, self.config.style.layers))

    @cached_property
    def _encoder(self) -> Encoder:
        return build_encoder(self.config, list(self.config.style.layers))[0].to(self.device)


def read_styles(run: Path, config: TrainConfig) -> dict[str, Tensor]:
    """Read the named styles of a run directory, name -> code (1,D), sorted; empty if it has none.

    Raises:
        ValueError: the file is damaged or belongs to another model.
    """
    path = run / STYLES_FILE
    codes = read_tensors(path).tensors if path.is_file() else {}
    return {name: _checked(codes[name][None], config, path) for name in sorted(codes)}


def write_styles(run: Path, styles: Mapping[str, Tensor]) -> None:
    """Write named styles, codes (1,D) or (D,), in place of those that are stored."""
    write_tensors(run / STYLES_FILE, {name: code.flatten() for name, code in styles.items()})


def _checked(codes: Tensor, config: TrainConfig, name: Path | str) -> Tensor:
    codes, length = codes.float(), sizes(config)[0]
    if codes.shape[1:] != (length,) or not codes.isfinite().all():
        raise ValueError(f"{name} does not fit this model: its codes have {length} finite numbers")
    return codes
