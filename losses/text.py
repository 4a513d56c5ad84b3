"""Text-guided style: the directional losses of CLIPstyler (Kwon & Ye, CVPR 2022)."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SOURCE = "a photo"
#: Prompts whose mean is a text's embedding.
TEMPLATES = (
    "{}", "a painting in the style of {}", "a rendering of {}", "a picture of {}",
    "the artwork of {}", "a close-up of {}",
)  # fmt: skip
PATCH = 1 / 4  # side of a patch as a share of the image's: 128 of 512 px in the paper
DISTORTION = 0.5  # corners move inwards by up to this share of half a side
THRESHOLD = 0.7  # patches nearer than this to the text's direction do not count
ROOT = 1.068297188921  # of x¹¹ = x + 1; its inverse powers spread points evenly in 10 dimensions


class TextLoss(nn.Module):
    """1 − cos of the angle between the change of an image and that of a text, in CLIP's space.

    Args:
        clip: frozen, with ``encode_image``.
        embed_texts: N texts -> (N,D).
        text: describes the style.
        size: side of the model's images in pixels.
        mean, std: of the model's images.
        patches: number of patches per image; 0: the whole image alone.
        patch_weight: weight of the patches' mean distance; that of the whole image is 1.
    """

    direction: Tensor
    mean: Tensor
    std: Tensor

    def __init__(
        self, clip: nn.Module, embed_texts: Callable[[Sequence[str]], Tensor], text: str,
        size: int, mean: Sequence[float], std: Sequence[float], patches: int, patch_weight: float,
    ) -> None:  # fmt: skip
        super().__init__()
        self.clip: Any = clip
        self.size, self.patches, self.patch_weight = size, patches, patch_weight
        goal, source = (
            F.normalize(embed_texts([t.format(x) for t in TEMPLATES]).float().mean(0), dim=0)
            for x in (text, SOURCE)
        )
        self.register_buffer("direction", goal - source)
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))

    def forward(self, image: Tensor, photo: Tensor, position: Tensor) -> Tensor:
        """Return the loss (B,) of outputs for photos, (B,3,H,W) each.

        Patches depend on ``position`` (B,) of the data order alone: neither resuming nor the number
        of processes changes them.
        """
        with torch.no_grad():
            source = self._embed(photo)
        loss = self._distance(self._embed(image) - source)
        if self.patches:
            patches = self._embed(cut_patches(image, position, self.patches))
            far = self._distance(patches - source.repeat_interleave(self.patches, 0))
            far = torch.where(far < THRESHOLD, 0, far).view(-1, self.patches)
            loss = loss + self.patch_weight * far.mean(1)
        return loss

    def _embed(self, images: Tensor) -> Tensor:
        x = F.interpolate(images.float(), (self.size, self.size), mode="bicubic", antialias=True)
        return F.normalize(self.clip.encode_image((x - self.mean) / self.std).float(), dim=1)

    def _distance(self, change: Tensor) -> Tensor:
        return 1 - F.cosine_similarity(change, self.direction[None], dim=1)


def cut_patches(images: Tensor, position: Tensor, count: int) -> Tensor:
    """Cut patches (B·count,3,h,w) out of images (B,3,H,W), distorted as by a change of view.

    Corners are blended bilinearly. Place and corners are an additive recurrence (Roberts 2018),
    made on the device, so that a step can be recorded.
    """
    h, w = (max(2, round(PATCH * side)) for side in images.shape[-2:])
    n = position[:, None] * count + torch.arange(count, device=position.device)
    steps = ROOT ** -torch.arange(1, 11, device=n.device, dtype=torch.float64)
    numbers = ((n.flatten()[:, None] * steps) % 1).float()  # (B·count,10)
    center = (2 * numbers[:, None, :2] - 1) * (1 - PATCH)
    i = torch.arange(4, device=n.device)
    outward = 2 * torch.stack([i % 2, i // 2], dim=1) - 1  # (4,xy): left or right, top or bottom
    corners = center + PATCH * outward * (1 - DISTORTION * numbers[:, 2:].view(-1, 4, 2))
    grid = corners.mT.reshape(-1, 2, 2, 2)  # (B·count,xy,top/bottom,left/right)
    grid = F.interpolate(grid, (h, w), mode="bilinear", align_corners=True).permute(0, 2, 3, 1)
    return F.grid_sample(images.float().repeat_interleave(count, 0), grid, align_corners=False)
