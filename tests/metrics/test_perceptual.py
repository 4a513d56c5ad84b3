from itertools import pairwise

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity
from torch import Tensor, nn
from torchmetrics.functional.image import lpips as reference
from torchvision.models.vgg import cfgs, make_layers
from underdrawing.metrics.perceptual import (
    LPIPS_LAYERS,
    lpips,
    lpips_heads,
    lpips_vector,
    ssim_scores,
)
from underdrawing.models.encoder import Encoder

WIDTHS = (64, 128, 256, 512, 512)


def pictures(count: int = 1, height: int = 40, width: int = 33, seed: int = 0) -> Tensor:
    """Smooth forms with some grain, as in a photo."""
    generator = torch.Generator().manual_seed(seed)
    forms = torch.rand(count, 3, 5, 5, generator=generator)
    grain = 0.1 * torch.randn(count, 3, height, width, generator=generator)
    return (nn.functional.interpolate(forms, (height, width), mode="bicubic") + grain).clamp(0, 1)


def changed(images: Tensor, amount: float) -> Tensor:
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    return (0.9 * images + 0.05 + amount * noise).clamp(0, 1)


def local_ssim(a: Tensor, b: Tensor) -> np.ndarray:
    """scikit-image's map of one pair, without the border that its window does not fill."""
    luminance = [np.tensordot([0.299, 0.587, 0.114], x[0].double().numpy(), 1) for x in (a, b)]
    _, local = structural_similarity(
        *luminance,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=1,
        full=True,
    )
    return np.asarray(local)[5:-5, 5:-5]


@pytest.mark.parametrize("amount", [0.0, 0.02, 0.1, 0.5])
@pytest.mark.parametrize("size", [(40, 33), (64, 64), (11, 30)])
def test_ssim_is_that_of_scikit_image(size: tuple[int, int], amount: float) -> None:
    content = pictures(1, *size)
    stylized = changed(content, amount)
    local = np.sort(local_ssim(stylized, content).ravel())
    mean, worst = ssim_scores(stylized, content)
    assert mean.item() == pytest.approx(local.mean(), abs=1e-5)
    assert worst.item() == pytest.approx(local[: local.size // 10].mean(), abs=1e-5)


def test_ssim_of_a_picture_with_itself_is_one() -> None:
    flat_and_rich = torch.cat([pictures(2), torch.ones(1, 3, 40, 33), torch.zeros(1, 3, 40, 33)])
    for score in ssim_scores(flat_and_rich, flat_and_rich):
        # kornia adds 1e-12 to the denominator, 9e-8 where all is black
        torch.testing.assert_close(score, torch.ones(4), rtol=0, atol=2e-5)


def test_ssim_of_flat_pictures_is_the_luminance_term() -> None:
    a, b, c = 0.2, 0.6, 0.01**2
    mean, worst = ssim_scores(torch.full((1, 3, 16, 16), a), torch.full((1, 3, 16, 16), b))
    expected = (2 * a * b + c) / (a**2 + b**2 + c)
    assert mean.item() == pytest.approx(expected, abs=1e-4)
    assert worst.item() == pytest.approx(expected, abs=1e-4)


def test_ssim_is_symmetric_and_falls_with_noise() -> None:
    content = pictures(3)
    scores = [ssim_scores(changed(content, amount), content) for amount in (0.02, 0.1, 0.5)]
    for mild, strong in pairwise(scores):
        assert (strong[0] < mild[0]).all()
    for mean, worst in scores:
        assert (worst <= mean).all()
    for here, there in zip(ssim_scores(content, changed(content, 0.1)), scores[1], strict=True):
        torch.testing.assert_close(here, there)


def test_local_damage_shows_in_the_worst_tenth() -> None:
    content = pictures(1, 64, 64)
    stylized = content.clone()
    stylized[..., :16, :16] = stylized[..., :16, :16].flip(-1)
    mean, worst = ssim_scores(stylized, content)
    assert mean > 0.9
    assert worst < mean - 0.4


def test_each_picture_is_scored_by_itself() -> None:
    content = pictures(3)
    stylized = changed(content, 0.1)
    together = ssim_scores(stylized, content)
    alone = [ssim_scores(stylized[i : i + 1], content[i : i + 1]) for i in range(3)]
    for k in (0, 1):
        torch.testing.assert_close(together[k], torch.cat([scores[k] for scores in alone]))


@pytest.fixture(scope="module")
def vgg() -> nn.Sequential:
    """VGG16's convolutions with random weights that keep the signal's size."""
    torch.manual_seed(0)
    layers = make_layers(cfgs["D"])
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            layer.bias = nn.Parameter(0.1 * torch.randn(layer.out_channels))
    return layers


@pytest.fixture
def torchmetrics_lpips(vgg: nn.Sequential, monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """torchmetrics' LPIPS: its own linear heads, on our random network."""
    monkeypatch.setattr(reference, "_get_tv_model_features", lambda *_: vgg)
    return reference._LPIPS(pretrained=True, net="vgg", pnet_rand=True)


@torch.no_grad()
def test_lpips_is_that_of_torchmetrics(vgg: nn.Sequential, torchmetrics_lpips: nn.Module) -> None:
    state = {f"features.{key}": value for key, value in vgg.state_dict().items()}
    encoder = Encoder("vgg16_imagenet", LPIPS_LAYERS, state)
    content = pictures(2, 48, 64)
    stylized = changed(content, 0.2)
    ours = distance(encoder(stylized), encoder(content), lpips_heads())
    theirs = torchmetrics_lpips(stylized, content, normalize=True).flatten()
    assert ours.shape == (2,)
    assert (ours > 0.01).all()
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def distance(a: dict[str, Tensor], b: dict[str, Tensor], heads: list[Tensor]) -> Tensor:
    return lpips(lpips_vector(a, heads), lpips_vector(b, heads))


def toy_features(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    sides = (16, 8, 4, 2, 1)
    return {
        layer: torch.rand(2, width, side, side, generator=generator)
        for layer, width, side in zip(LPIPS_LAYERS, WIDTHS, sides, strict=True)
    }


def test_the_heads_fit_vgg16_and_weigh_positively() -> None:
    heads = lpips_heads()
    assert [tuple(head.shape) for head in heads] == [(width,) for width in WIDTHS]
    assert all((head >= 0).all() and head.sum() > 0 for head in heads)


def test_lpips_is_zero_for_equal_features_and_symmetric() -> None:
    a, b, heads = toy_features(0), toy_features(1), lpips_heads()
    assert torch.equal(distance(a, a, heads), torch.zeros(2))
    torch.testing.assert_close(distance(a, b, heads), distance(b, a, heads))
    assert (distance(a, b, heads) > 0).all()


def test_lpips_compares_directions_not_lengths() -> None:
    a, b, heads = toy_features(0), toy_features(1), lpips_heads()
    longer = {layer: 7 * features for layer, features in a.items()}
    torch.testing.assert_close(distance(longer, b, heads), distance(a, b, heads))


def test_lpips_of_dead_features_is_finite() -> None:
    a = toy_features(0)
    dead = {layer: torch.zeros_like(features) for layer, features in a.items()}
    heads = [torch.ones(width) for width in WIDTHS]
    torch.testing.assert_close(distance(dead, a, heads), torch.full((2,), 5.0))
    assert torch.equal(distance(dead, dead, heads), torch.zeros(2))
