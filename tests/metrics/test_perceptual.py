import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity
from torch import Tensor, nn
from torchmetrics.functional.image import lpips as reference
from torchvision.models.vgg import cfgs, make_layers
from underdrawing.metrics.perceptual import (
    LPIPS_LAYERS,
    local_ssim,
    lpips,
    lpips_heads,
    lpips_vector,
    ssim_scores,
)
from underdrawing.models.encoder import Encoder


def make_images(count: int = 1, height: int = 40, width: int = 33) -> Tensor:
    """Smooth shapes with some noise, as in a photo."""
    generator = torch.Generator().manual_seed(0)
    shapes = torch.rand(count, 3, 5, 5, generator=generator)
    noise = 0.1 * torch.randn(count, 3, height, width, generator=generator)
    return (nn.functional.interpolate(shapes, (height, width), mode="bicubic") + noise).clamp(0, 1)


def distort(images: Tensor, amount: float) -> Tensor:
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    return (0.9 * images + 0.05 + amount * noise).clamp(0, 1)


def expected_ssim(a: Tensor, b: Tensor) -> np.ndarray:
    """scikit-image's SSIM of two images (3,H,W) at all positions without padding, sorted."""
    luminance = [np.tensordot([0.299, 0.587, 0.114], x.double().numpy(), 1) for x in (a, b)]
    _, local = structural_similarity(
        *luminance, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1,
        full=True,
    )  # fmt: skip
    return np.sort(np.asarray(local)[5:-5, 5:-5].ravel())


@pytest.mark.parametrize("amount", [0.0, 0.02, 0.5])
@pytest.mark.parametrize("size", [(40, 33), (11, 30)])
def test_ssim_equals_scikit_image(size: tuple[int, int], amount: float) -> None:
    content = make_images(2, *size)
    stylized = distort(content, amount)
    found = ssim_scores(local_ssim(stylized, content))
    for a, b, mean, worst in zip(stylized, content, *found, strict=True):
        local = expected_ssim(a, b)
        assert mean.item() == pytest.approx(local.mean(), abs=1e-5)
        assert worst.item() == pytest.approx(local[: local.size // 10].mean(), abs=1e-5)


@torch.no_grad()
def test_lpips_equals_torchmetrics(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    vgg = make_layers(cfgs["D"])  # random weights that preserve the signal's scale
    for layer in vgg:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            layer.bias = nn.Parameter(0.1 * torch.randn(layer.out_channels))
    monkeypatch.setattr(reference, "_get_tv_model_features", lambda *_: vgg)
    theirs = reference._LPIPS(pretrained=True, net="vgg", pnet_rand=True)
    state = {f"features.{key}": value for key, value in vgg.state_dict().items()}
    encoder = Encoder("vgg16_imagenet", LPIPS_LAYERS, state)
    content = make_images(2, 48, 64)
    stylized = distort(content, 0.2)
    distance = distance_of(encoder(stylized), encoder(content), lpips_heads())
    assert (distance > 0.01).all()
    expected = theirs(stylized, content, normalize=True).flatten()
    torch.testing.assert_close(distance, expected, rtol=1e-4, atol=1e-6)


def distance_of(a: dict[str, Tensor], b: dict[str, Tensor], heads: list[Tensor]) -> Tensor:
    return lpips(lpips_vector(a, heads), lpips_vector(b, heads))


def test_lpips_of_zero_features_is_finite() -> None:
    zeros = {layer: torch.zeros(2, 3, 4, 4) for layer in LPIPS_LAYERS}
    ones = {layer: torch.ones(2, 3, 4, 4) for layer in LPIPS_LAYERS}
    heads = [torch.ones(3)] * len(LPIPS_LAYERS)
    torch.testing.assert_close(distance_of(zeros, ones, heads), torch.full((2,), 5.0))
    assert torch.equal(distance_of(zeros, zeros, heads), torch.zeros(2))
