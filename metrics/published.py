"""Distances between output and photo that papers of 2024 to 2026 print: CFSD and DISTS."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from .perceptual import torchmetrics_weights

CFSD_LAYER = "relu3_1"  # of VGG19
ROWS = 1024  # of the similarity matrix at a time: at 512 px it has 16,384² entries


def cfsd(output: Tensor, photo: Tensor) -> Tensor:
    """Content feature structural distance of features (B,C,h,w) at ``CFSD_LAYER`` -> (B,).

    Σ_i KL(S_photo,i ‖ S_output,i), where S_i is the softmax over positions j of f_i·f_j / C².
    Chung et al. (StyleID, CVPR 2024), as in the authors' code: a sum over positions i, so that
    values compare only at equal size.
    """

    def one(a: Tensor, b: Tensor) -> Tensor:  # (hw,C) each
        pairs = zip(a.split(ROWS), b.split(ROWS), strict=True)
        # In float64: the divergence of a row is of the order of float32's rounding.
        rows = (((x @ a.T).double(), (y @ b.T).double()) for x, y in pairs)
        parts = [
            F.kl_div(q.log_softmax(1), p.log_softmax(1), reduction="sum", log_target=True)
            for q, p in rows
        ]
        return torch.stack(parts).sum()

    maps = (rearrange(x.float() / x.shape[1], "b c h w -> b (h w) c") for x in (output, photo))
    return torch.stack([one(a, b) for a, b in zip(*maps, strict=True)])


def dists_weights() -> tuple[Tensor, Tensor]:
    """Load the weights α, β (1475,) of DISTS from torchmetrics: those of ``DISTS-pytorch``."""
    state = torchmetrics_weights("dists_models/weights.pt")
    return state["alpha"].flatten(), state["beta"].flatten()


def dists(output: Sequence[Tensor], photo: Sequence[Tensor], alpha: Tensor, beta: Tensor) -> Tensor:
    """Compute DISTS (Ding et al. 2020) -> (B,).

    1 − Σ (α · similarity of means + β · similarity of structure) over the channels of the image
    and of VGG16's features, (B,C_l,h_l,w_l) each; α and β (ΣC_l,) are divided by their total.
    """
    similarity = []
    for a, b in zip(output, photo, strict=True):
        mean_a, mean_b = (x.mean((2, 3), keepdim=True) for x in (a, b))
        var_a, var_b = (x.var((2, 3), correction=0) for x in (a, b))
        covariance = ((a - mean_a) * (b - mean_b)).mean((2, 3))
        mean_a, mean_b = mean_a.flatten(1), mean_b.flatten(1)
        texture = (2 * mean_a * mean_b + 1e-6) / (mean_a**2 + mean_b**2 + 1e-6)
        similarity.append((texture, (2 * covariance + 1e-6) / (var_a + var_b + 1e-6)))
    texture, structure = (torch.cat(parts, dim=1) for parts in zip(*similarity, strict=True))
    return 1 - (texture @ alpha + structure @ beta) / (alpha.sum() + beta.sum())
