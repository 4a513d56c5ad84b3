"""Stylizing from Python: ``underdrawing.load().stylize(photo, painting)``.

    import underdrawing

    painter = underdrawing.load("runs/mine")
    picture = painter.stylize("photo.jpg", "painting.jpg", strength=0.8)
    picture.save("stylized.png")

The ``stylize`` command does what it does through this.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ..data.convert import ImageLike, as_given, to_batch, to_map
from ..data.masks import region_weights
from ..models.attention import attention_to_strength
from ..models.color import keep_chroma, with_colors_of
from ..models.tiles import stylize_in_tiles
from .model_files import PRETRAINED, Model, load_model
from .runtime import pick_device
from .style_codes import StyleCodes

LARGE = 2**22  # pixels; larger pictures are painted in tiles, one at a time

#: A picture of one, a look's name, a code from `Painter.code`; or several by name, with weights.
Painting = ImageLike | Mapping[str, Any]
Given = TypeVar("Given", Image.Image, NDArray[Any], Tensor, list[Any])


def load(
    source: str | Path | None = None, device: Literal["auto", "cpu", "cuda"] = "auto"
) -> "Stylizer":
    """A painter with the model of a run folder; without one, with the model that is shipped.

    Raises:
        ValueError: no finished model there, or a damaged one; or there is no such device.
    """
    folder = Path(source) if source is not None else PRETRAINED
    if source is None and not PRETRAINED.is_dir():
        raise ValueError(
            "this installation ships no model yet: train one (underdrawing train --help) and name "
            "its run folder"
        )
    on = pick_device(device)
    return Stylizer(load_model(folder, on), folder, on)


class Stylizer:
    """A trained model, ready to stylize.

    Args:
        model: the generator, on the device, and its configuration.
        folder: the model's; holds its looks, and keeps the codes of paintings met.
        device: where to compute.

    Attributes:
        looks: names of the styles that are stored beside the model.
    """

    def __init__(self, model: Model, folder: Path, device: torch.device) -> None:
        self.generator, self.config = model
        self.device = device
        self.codes = StyleCodes(folder, self.config, device)
        self.styles = tuple(self.codes.styles)

    @overload
    def stylize(
        self, photo: str | Path, painting: Painting, strength: float | ImageLike = 1.0, *,
        protect: ImageLike | None = None, mask: ImageLike | None = None, keep_colors: bool = False,
    ) -> Image.Image: ...  # fmt: skip
    @overload
    def stylize(
        self, photo: Given, painting: Painting, strength: float | ImageLike = 1.0, *,
        protect: ImageLike | None = None, mask: ImageLike | None = None, keep_colors: bool = False,
    ) -> Given: ...  # fmt: skip
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
    ) -> Any:
        """Repaint photos; what comes back is of the kind that was given, a PIL image for a path.

        Args:
            photo: a path, a PIL image, an array (H,W,3) or (B,H,W,3) of uint8 or of floats in
                [0,1], a tensor (3,H,W) or (B,3,H,W) of floats in [0,1], or a list of any of them.
                Each side is at least 32 pixels. Results are in sRGB and upright.
            painting: any such picture, or the name of a look, or a code (1,D) from ``code``; or
                several by name with their weights, ``{"a.jpg": 0.7, "b.jpg": 0.3}``. For a batch
                of photos one of these, or a batch of as many.
            strength: from 0 (the photo) to 1 (the full style): a number, or a map of any size
                (a picture, whose gray counts, an array (H,W), a tensor (H,W) or (B,1,H,W)). The
                network is told the greatest strength in it, so that other places look as ever.
            protect: a map of what to keep: the strength is multiplied by 1 - protect. Or
                ``"attention"``: it is multiplied by 1 / max(A, 1), see ``attention``.
            mask: a picture whose colors say which painting goes where; ``painting`` then maps
                colors to paintings, ``{"black": "a.jpg", "#ff0000": "b.jpg"}``.
            keep_colors: only lightness is painted, the colors are the photo's.

        Raises:
            ValueError: something given is not of these kinds, or out of its range, or a file
                cannot be read.
        """
        if isinstance(photo, list):
            return [
                self.stylize(
                    one, painting, strength, protect=protect, mask=mask, keep_colors=keep_colors
                )
                for one in photo
            ]
        content = to_batch(photo).to(self.device)
        s = self._strength(content, strength, protect)
        if mask is None:
            stylized = self._paint(content, painting, s, keep_colors)
        else:
            stylized = self._paint_regions(content, painting, s, keep_colors, mask)
        return as_given(stylized, photo)

    @torch.no_grad()
    def attention(self, photo: ImageLike) -> Tensor:
        """Where photos are about to lose their content: A (B,1,ceil(H/8),ceil(W/8)), mean one.

        All ones if the model was trained without attention.

        Raises:
            ValueError: the photo cannot be read or is smaller than 32 pixels.
        """
        content = to_batch(photo).to(self.device)
        return self.generator.predict_attention(self.generator.encode_photo(content), True)[0]

    def code(self, painting: Painting) -> Tensor:
        """Style code (1,D) of a painting, a look or a mixture, (B,D) of a batch of paintings.

        Codes may be averaged and interpolated. Those of files are kept beside the model.

        Raises:
            ValueError: there is no such look or picture; or weights are negative or all zero.
        """
        if isinstance(painting, Mapping):
            if min(painting.values(), default=0) < 0 or not sum(painting.values()) > 0:
                raise ValueError(f"the weights of a mixture are positive, unlike {dict(painting)}")
            total = sum(painting.values())
            shares = [weight / total * self.code(one) for one, weight in painting.items()]
            return torch.stack(shares).sum(dim=0)
        if isinstance(painting, Tensor) and painting.dim() == 2:
            return painting.to(self.device)
        return self.codes.of(painting)

    def _strength(
        self, content: Tensor, strength: float | ImageLike, protect: ImageLike | None
    ) -> Tensor:
        """As a tensor that broadcasts to (B,1,H,W)."""
        b, _, height, width = content.shape
        size = height, width
        if isinstance(strength, int | float | np.number):
            if not 0 <= strength <= 1:
                raise ValueError(f"the strength is {strength}; it goes from 0 to 1")
            s = torch.full((b, 1, 1, 1), float(strength), device=self.device)
        else:
            s = to_map(strength, size).to(self.device)
        if isinstance(protect, str) and protect == "attention":
            return s * attention_to_strength(self.attention(content), size)
        return s if protect is None else s * (1 - to_map(protect, size).to(self.device))

    def _paint(self, content: Tensor, painting: Painting, s: Tensor, keep_colors: bool) -> Tensor:
        code = self.code(painting)
        b, _, height, width = content.shape
        if len(code) not in (1, b):
            raise ValueError(f"there are {len(code)} paintings for {b} photos")
        code, s = code.expand(b, -1), s.expand(b, -1, -1, -1)
        if keep_colors:
            code = with_colors_of(code, content)
        cond_strength = s.amax(dim=(1, 2, 3))
        if height * width <= LARGE:
            stylized = self.generator(content, code, s, False, cond_strength).image
        else:
            each = zip(
                content.split(1), code.split(1), s.split(1), cond_strength.split(1), strict=True
            )
            tiled = [stylize_in_tiles(self.generator, x, c, s, False, t) for x, c, s, t in each]
            stylized = torch.cat([one.image for one in tiled])
        return keep_chroma(stylized, content) if keep_colors else stylized

    def _paint_regions(
        self, content: Tensor, paintings: Painting, s: Tensor, keep_colors: bool, mask: ImageLike
    ) -> Tensor:
        """Each painting's result over the whole photo, blended by its region's weights."""
        if not isinstance(paintings, Mapping):
            raise ValueError("with a mask, the painting is a mapping of its colors to paintings")
        height, width = content.shape[-2:]
        weights = region_weights(mask, list(paintings), (height, width)).to(self.device)
        stylized = torch.zeros_like(content)
        for weight, painting in zip(weights, paintings.values(), strict=True):
            stylized += weight * self._paint(content, painting, s, keep_colors)
        return stylized.clamp_(0, 1)
