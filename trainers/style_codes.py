"""Style codes of paintings: made once and kept, or stored under a name beside the model.

A *look* is such a name. ``looks.safetensors`` in a run folder holds them: name -> code (D,).
"""

from collections.abc import Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from ..data.convert import ImageLike, to_batch
from ..data.files import file_stamp
from ..data.images import read_image, to_image, to_tensor
from ..models.encoder import Encoder
from ..models.pretrained import cache_dir, sha256_of
from ..models.style_code import style_code
from .config import TrainConfig
from .model_files import PRETRAINED, build_encoder, own_folder, sizes
from .tensor_files import read_tensors, write_tensors

STYLES_FILE = "styles.safetensors"


class StyleCodes:
    """The codes of paintings for one model. ``looks`` are those stored beside it, by name.

    Args:
        run: the model's folder.
        trained: its configuration.
        device: where paintings are encoded.

    Raises:
        ValueError: the looks are damaged or another model's.
    """

    def __init__(self, run: Path, trained: TrainConfig, device: torch.device) -> None:
        self.run, self.trained, self.device = run, trained, device
        self.styles = read_styles(run, trained)
        self.met: dict[object, Tensor] = {}

    def of(self, painting: ImageLike) -> Tensor:
        """Code (1,D) of a look's name or a painting; (B,D) of a batch of paintings.

        The code of a file is kept, and so found again without the encoder or its weights.

        Raises:
            ValueError: there is no such look and no such picture, the picture is a sliver, or
                there are no weights to encode it.
        """
        if isinstance(painting, str) and painting in self.styles:
            return self.styles[painting].to(self.device)
        if isinstance(painting, str | Path):
            return self._of_file(Path(painting))
        if isinstance(painting, Image.Image):
            return self._encode(painting, "the painting")
        images = [to_image(one) for one in to_batch(painting)]
        return torch.cat([self._encode(image, "the painting") for image in images])

    def _of_file(self, path: Path) -> Tensor:
        if not path.is_file():  # nor read from a pipe, which might never end
            styles = f", nor a look of that name ({', '.join(self.styles)})" if self.styles else ""
            raise ValueError(f"there is no picture {path}{styles}")
        key = path.absolute(), *(file_stamp(path) or ())
        if key not in self.met:
            self.met[key] = self._kept(path)
        return self.met[key]

    def _kept(self, path: Path) -> Tensor:
        name = f"{sha256_of(path)[:16]}.safetensors"
        with suppress(OSError, ValueError, KeyError):  # not met before, or damaged, or another's
            code = read_tensors(self._folder / name).tensors["code"]
            return _checked(code, self.trained).to(self.device)
        code = self._encode(read_image(path), path)
        with suppress(OSError, ValueError):  # not to be written to: made anew each time
            write_tensors(self._folder / name, {"code": code})
        return code

    @property
    def _folder(self) -> Path:
        """Where codes are kept: in the run; an installed package is left as it is."""
        if self.run == PRETRAINED:
            return cache_dir() / "codes" / sha256_of(self.run / "config.json")[:16]
        return own_folder(self.run, "codes")

    def _encode(self, image: Image.Image, name: Path | str) -> Tensor:
        """At the scale at which the model met paintings."""
        if min(image.size) < 16 or max(image.size) > 20 * min(image.size):
            raise ValueError(
                f"{name} is {image.width}x{image.height} pixels: no picture of a style"
            )
        scale = self.trained.size / min(image.size)
        size = (round(image.width * scale), round(image.height * scale))
        painting = to_tensor(image.resize(size, Image.Resampling.LANCZOS))[None].to(self.device)
        with torch.no_grad():
            return style_code(painting, self._encoder(painting, self.trained.style.layers))

    @cached_property
    def _encoder(self) -> Encoder:
        return build_encoder(self.trained, list(self.trained.style.layers))[0].to(self.device)


def read_styles(run: Path, trained: TrainConfig) -> dict[str, Tensor]:
    """The looks stored in a run folder, name -> (1,D), sorted; none if there is no file of them.

    Raises:
        ValueError: the file is damaged, or holds the codes of another model.
    """
    path = run / STYLES_FILE
    if not path.is_file():
        return {}
    try:
        found = read_tensors(path).tensors
        return {name: _checked(found[name][None], trained) for name in sorted(found)}
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def write_styles(run: Path, styles: Mapping[str, Tensor]) -> None:
    """Store codes (1,D) or (D,) under their names, in the place of what is stored."""
    write_tensors(run / STYLES_FILE, {name: code.flatten() for name, code in styles.items()})


def _checked(code: Tensor, trained: TrainConfig) -> Tensor:
    if code.shape != (1, sizes(trained)[0]) or not code.isfinite().all():
        raise ValueError("it holds other than the style codes of this model")
    return code.float()
