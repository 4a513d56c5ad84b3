"""Stylization from Python: ``underdrawing.load().stylize(photo, painting)``.

    import underdrawing

    stylizer = underdrawing.load("runs/mine")
    image = stylizer.stylize("photo.jpg", "painting.jpg", strength=0.8)
    image.save("stylized.png")

The command ``underdrawing stylize`` uses the same class.
"""

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data.convert import ImageLike, as_given, to_batch, to_map
from ..data.masks import region_weights
from ..models.attention import attention_to_strength
from ..models.color import keep_chroma, with_colors_of
from ..models.generator import reduce_photo
from ..models.tiles import stylize_in_tiles
from .model_files import SHIPPED, Model, load_model, model_folder
from .runtime import Device, pick_device
from .style_codes import StyleCodes

MAX_UNTILED = 2**22  # pixels; larger images are processed one at a time, in tiles
STROKE_SIDE = 768  # pixels of the shorter side, above which strokes grow with the photo by default

#: An image, the name of a named style, a style code; or a mapping of several to their weights.
Painting = ImageLike | Mapping[str, Any]


def load(run: str | Path | None = None, device: Device = "auto") -> "Stylizer":
    """Load the model of a run directory, or the shipped model.

    Raises:
        ValueError: there is no finished model, its files are damaged, or there is no such device.
    """
    folder, torch_device = model_folder(SHIPPED if run is None else Path(run)), pick_device(device)
    return Stylizer(load_model(folder, torch_device), folder, torch_device)


def default_stroke_size(width: int, height: int) -> float:
    """Return the stroke size of a photo: 1, or in proportion to its shorter side from 768 on."""
    return max(1.0, min(width, height) / STROKE_SIDE)


class Stylizer:
    """A trained model, and the style codes beside it in its run directory.

    Attributes:
        styles: names of the named styles.
    """

    def __init__(self, model: Model, folder: Path, device: torch.device) -> None:
        self.generator, self.config = model
        self.device = device
        self.codes = StyleCodes(folder, self.config, device)
        self.styles = tuple(self.codes.styles)

    @torch.no_grad()
    def stylize(
        self,
        photo: ImageLike | list[Any],
        painting: Painting,
        strength: float | ImageLike = 1.0,
        *,
        protect: ImageLike | None = None,
        mask: ImageLike | None = None,
        keep_colors: bool = False,
        stroke_size: float | None = None,
    ) -> Any:
        """Stylize photos; returns the type that was given, and a PIL image for a path.

        Args:
            photo: a path, a PIL image, an array (H,W,3) or (B,H,W,3), a tensor (3,H,W) or
                (B,3,H,W), both of uint8 or of floats in [0,1], or a list of these. Each side is
                at least 32 pixels. Results are upright (EXIF) and in sRGB.
            painting: any such image, the name of a named style, or a code (1,D) of ``code``; or a
                mapping of names or paths to weights, ``{"a.jpg": 0.7, "b.jpg": 0.3}``. For a batch
                of B photos, one of these or a batch of B.
            strength: 0 returns the photo, 1 is the full style: a number, or a map of any size (the
                gray values of an image, an array (H,W), a tensor (H,W) or (B,1,H,W)), for a batch
                of B photos one or B. The network is conditioned on the map's maximum, which leaves
                regions of that strength unchanged.
            protect: such a map, which multiplies the strength by 1 - protect; or ``"attention"``,
                which multiplies it by 1 / max(A, 1), see ``attention``.
            mask: one image whose colors assign paintings to regions; ``painting`` then maps colors
                to paintings, ``{"black": "a.jpg", "#ff0000": "b.jpg"}``.
            keep_colors: stylize luma only; the chroma (YCbCr) stays the photo's.
            stroke_size: 1 or more. Strokes are painted on a photo reduced by this factor, enlarged,
                and added to the recolored photo, whose detail stays. By default strokes keep their
                size up to a shorter side of 768 pixels, and grow with the photo from there on.

        Raises:
            ValueError: an argument has the wrong type, shape or range, or a file cannot be read.
        """
        if isinstance(photo, list):
            stylize = partial(
                self.stylize, protect=protect, mask=mask, keep_colors=keep_colors,
                stroke_size=stroke_size,
            )  # fmt: skip
            return [stylize(one, painting, strength) for one in photo]
        content = to_batch(photo).to(self.device)
        s = self._strength(content, strength, protect)
        if stroke_size is not None and not _is_number(stroke_size, 1):
            raise ValueError(f"stroke size is {stroke_size!r}; it must be a number, 1 or more")
        if stroke_size is None:
            stroke_size = default_stroke_size(*content.shape[-2:])
        reduced = reduce_photo(content, stroke_size) if stroke_size > 1 else None
        if mask is None:
            stylized = self._stylize(content, reduced, painting, s, keep_colors)
        else:
            stylized = self._stylize_regions(content, reduced, painting, s, keep_colors, mask)
        return as_given(stylized, photo)

    @torch.no_grad()
    def attention(self, photo: ImageLike) -> Tensor:
        """Return the attention map A (B,1,ceil(H/8),ceil(W/8)), >= 0, with spatial mean 1.

        Raises:
            ValueError: the photo cannot be read or is smaller than 32 pixels, or the model has no
                attention branch.
        """
        self.check_attention()
        content = to_batch(photo).to(self.device)
        x4, x8 = self.generator.encode_photo(content)
        return self.generator.predict_attention(content, x4, x8)[0]

    def check_attention(self) -> None:
        """Raise a ValueError if the model has no attention branch."""
        if self.generator.attention is None:
            raise ValueError(
                "this model has no attention map (it was trained with attention.objective "
                f"{self.config.attention.objective}): use a model with an attention branch"
            )

    def code(self, painting: Painting) -> Tensor:
        """Return the style code (1,D) of a painting, named style or mixture, or (B,D) of a batch.

        Codes can be averaged and interpolated. Codes of files are cached beside the model.

        Raises:
            ValueError: there is no such image or named style, a code is of another model, or the
                weights of a mixture are no numbers >= 0 or all zero.
        """
        if isinstance(painting, Mapping):
            weights = dict(painting)
            valid = all(_is_number(weight, 0) for weight in weights.values())
            total = sum(weights.values()) if valid else 0
            if not 0 < total < math.inf:
                raise ValueError(
                    "weights of a mixture must be numbers >= 0 with a finite sum > 0, not "
                    f"{weights}"
                )
            shares = [weight / total * self.code(one) for one, weight in weights.items()]
            return torch.stack(shares).sum(dim=0)
        return self.codes.code(painting)

    def _strength(
        self, content: Tensor, strength: float | ImageLike, protect: ImageLike | None
    ) -> Tensor:
        """Return the strength, with protection, as a tensor that broadcasts to (B,1,H,W)."""
        if isinstance(strength, int | float | np.number):
            if not 0 <= strength <= 1:
                raise ValueError(f"strength is {strength}; it must be in [0, 1]")
            s = content.new_full((1, 1, 1, 1), float(strength))
        else:
            s = _to_map(strength, content, "strength")
        if isinstance(protect, str) and protect == "attention":
            return s * attention_to_strength(self.attention(content), content.shape[-2:])
        return s if protect is None else s * (1 - _to_map(protect, content, "protect"))

    def _stylize(
        self, content: Tensor, reduced: Tensor | None, painting: Painting, s: Tensor,
        keep_colors: bool,
    ) -> Tensor:  # fmt: skip
        code, b = self.code(painting), len(content)
        _check_count(code, content, "paintings")
        code, s = code.expand(b, -1), s.expand(b, -1, -1, -1)
        if keep_colors:
            code = with_colors_of(code, content)
        if content[0, 0].numel() <= MAX_UNTILED:
            stylized = self.generator(content, code, s, attend=False, reduced=reduced).image
        else:
            each = zip(*(x.split(1) for x in (content, code, s)), strict=True)
            small = [None] * b if reduced is None else reduced.split(1)
            tiled = [
                stylize_in_tiles(self.generator, x, c, s, attend=False, reduced=r)
                for (x, c, s), r in zip(each, small, strict=True)
            ]
            stylized = torch.cat([one.image for one in tiled])
        return keep_chroma(stylized, content) if keep_colors else stylized

    def _stylize_regions(
        self, content: Tensor, reduced: Tensor | None, paintings: Painting, s: Tensor,
        keep_colors: bool, mask: ImageLike,
    ) -> Tensor:  # fmt: skip
        """Stylize the whole photo once per painting; blend the results by the region weights."""
        if not isinstance(paintings, Mapping) or not paintings:
            raise ValueError("with a mask, painting must be a mapping of the mask's colors")
        height, width = content.shape[-2:]
        weights = region_weights(mask, list(paintings), (height, width)).to(self.device)
        stylized = torch.zeros_like(content)
        for weight, painting in zip(weights, paintings.values(), strict=True):
            stylized += weight * self._stylize(content, reduced, painting, s, keep_colors)
        return stylized.clamp_(0, 1)


def _to_map(values: ImageLike, photos: Tensor, name: str) -> Tensor:
    """Convert to a map (B or 1,1,H,W) for photos (B,3,H,W), on their device."""
    try:
        maps = to_map(values, (photos.shape[-2], photos.shape[-1])).to(photos.device)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    _check_count(maps, photos, f"{name} maps")
    return maps


def _check_count(batch: Tensor, photos: Tensor, name: str) -> None:
    """Raise a ValueError unless a batch has one entry or one per photo."""
    n, b = len(batch), len(photos)
    if n not in (1, b):
        raise ValueError(f"{n} {name} for {b} photos: give one, or one per photo")


def _is_number(x: object, least: float) -> bool:
    """Return whether x is a finite number of at least ``least``."""
    return isinstance(x, int | float | np.number) and bool(least <= x < math.inf)
