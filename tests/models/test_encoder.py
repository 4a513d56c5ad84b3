from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import WeightsEnum
from torchvision.models.vgg import cfgs, make_layers
from underdrawing.models.encoder import ENCODERS, Encoder, _DINOv2
from underdrawing.models.pretrained import WEIGHTS

BF16 = torch.bfloat16
VGG_SHAPES = {
    "relu1_1": (64, 32), "relu2_2": (128, 16), "relu3_1": (256, 8), "conv4_2": (512, 4),
    "conv5_2": (512, 2), "pool5": (512, 1),
}  # fmt: skip
SHAPES = {  # channels and side of the features of a 32x32 image
    "vgg16": VGG_SHAPES,
    "vgg19": VGG_SHAPES | {"relu5_4": (512, 2)},
    "resnet50": {
        "stem": (64, 16), "layer1": (256, 8), "layer2": (512, 4), "layer3": (1024, 2),
        "layer4": (2048, 1),
    },
    "efficientnet_b0": {
        "stem": (32, 16), "stage1": (16, 16), "stage2": (24, 8), "stage3": (40, 4),
        "stage4": (80, 2), "stage5": (112, 2), "stage6": (192, 1), "stage7": (320, 1),
    },
    "dinov2_vits14": dict.fromkeys(("block1", "block2", "block3"), (384, 2)),
}  # fmt: skip


@pytest.fixture(scope="module", params=SHAPES)
def encoder(request: pytest.FixtureRequest) -> Encoder:
    """Each network with all its taps and random weights."""
    torch.manual_seed(0)
    return Encoder(request.param, list(SHAPES[request.param]))


def shallow() -> Encoder:
    torch.manual_seed(0)
    return Encoder("vgg16", ["relu1_1", "conv1_2", "relu2_1"])


def vgg_state(layers: nn.Module) -> dict[str, Tensor]:
    return {f"features.{key}": value for key, value in layers.state_dict().items()}


def test_every_tap_has_its_shape_and_channels(encoder: Encoder) -> None:
    features = encoder(torch.rand(2, 3, 32, 32))
    shapes = SHAPES[encoder.name]
    assert {tap: tuple(f.shape) for tap, f in features.items()} == {
        tap: (2, c, side, side) for tap, (c, side) in shapes.items()
    }
    assert all(f.isfinite().all() for f in features.values())
    assert encoder.channels() == {tap: c for tap, (c, _) in shapes.items()}


def test_it_is_frozen_in_train_mode_too(encoder: Encoder) -> None:
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    encoder.train()(torch.rand(2, 3, 32, 32))
    assert not any(p.requires_grad for p in encoder.parameters())
    assert not any(module.training for module in encoder.modules())
    assert all(torch.equal(v, before[k]) for k, v in encoder.state_dict().items())


def test_a_subset_of_taps_gives_the_same_features(encoder: Encoder) -> None:
    image, taps = torch.rand(1, 3, 32, 32), list(SHAPES[encoder.name])[1:3]
    some, every = encoder(image, taps), encoder(image)
    assert list(some) == taps
    assert all(torch.equal(some[tap], every[tap]) for tap in taps)


@pytest.mark.parametrize("name", [name for name in ENCODERS if name != "efficientnet_lite0"])
def test_normalization_is_that_of_the_weights(name: str) -> None:
    weights = WEIGHTS[name]
    assert isinstance(weights, WeightsEnum)
    preset = weights.transforms()
    assert list(ENCODERS[name].mean) == pytest.approx(list(preset.mean))
    assert list(ENCODERS[name].std) == pytest.approx(list(preset.std))


def test_features_are_those_of_torchvisions_layers_on_the_normalized_image() -> None:
    layers = make_layers(cfgs["D"])
    for layer in layers:
        layer.inplace = False  # the ReLU after a tapped convolution must not change it
    taps = {"conv1_1": 1, "relu1_1": 2, "relu4_3": 23, "pool5": 31}
    image = torch.rand(1, 3, 32, 32)
    found = Encoder("vgg16", list(taps), vgg_state(layers))(image)
    mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in ENCODERS["vgg16"][2:])
    for tap, depth in taps.items():
        assert torch.equal(found[tap], layers[:depth]((image - mean) / std))


def features_and_gradient(encoder: Encoder, image: Tensor) -> list[Tensor]:
    features = list(encoder(image).values())
    loss = torch.stack([f.float().square().mean() for f in features]).sum()
    return [*features, *torch.autograd.grad(loss, image)]


def test_fused_convolutions_give_the_same_features_and_gradients(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on a GPU, with a stand-in for its kernel."""
    encoder, image = shallow(), torch.rand(2, 3, 32, 32, requires_grad=True)
    expected, calls = features_and_gradient(encoder, image), list[torch.Size]()

    def kernel(x: Tensor, weight: Tensor, bias: Tensor, *options: Any) -> Tensor:
        calls.append(weight.shape)
        return torch.conv2d(x, weight, bias, *options).relu()

    monkeypatch.setattr("underdrawing.models.encoder._fuses", lambda x, conv: True)
    monkeypatch.setattr(torch, "cudnn_convolution_relu", kernel)
    for found, separate in zip(features_and_gradient(encoder, image), expected, strict=True):
        torch.testing.assert_close(found, separate)
    assert len(calls) == 2  # all but conv1_2, which is tapped


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_fused_convolutions_equal_separate_ones_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where their output lies in memory that held NaN."""
    encoder = shallow().cuda().in_bfloat16().to(memory_format=torch.channels_last)
    image = torch.rand(2, 3, 32, 32, device="cuda", requires_grad=True)
    for channels, side in ((64, 32), (128, 16)):
        torch.full((2, channels, side, side), float("nan"), device="cuda", dtype=BF16)
    fused = features_and_gradient(encoder, image)
    monkeypatch.setattr("underdrawing.models.encoder._fuses", lambda x, conv: False)
    for found, separate in zip(fused, features_and_gradient(encoder, image), strict=True):
        assert (found - separate).norm() <= 1e-2 * separate.norm()


def test_layers_of_another_encoder_are_those_of_that_encoder_alone() -> None:
    vgg, other = shallow(), Encoder("dinov2_vits14", ["block1", "block3"])
    names = ["dinov2_vits14:block1", "dinov2_vits14:block3"]
    states = {"dinov2_vits14": other.net.state_dict()}
    image = torch.rand(2, 3, 30, 44)
    expected = vgg(image) | {f"dinov2_vits14:{k}": x for k, x in other(image).items()}
    for taps in ([*vgg.taps, *names], names):
        encoder = Encoder("vgg16", taps, vgg.net.state_dict() if taps != names else None, states)
        found = encoder(image)
        assert list(found) == list(encoder.channels()) == taps
        assert all(torch.equal(found[tap], expected[tap]) for tap in taps)
        assert list(encoder(image, names[1:])) == names[1:]
        assert not any(p.requires_grad for p in encoder.parameters())
        assert not any(module.training for module in encoder.train().modules())


def test_vision_transformer_sees_images_of_any_size_and_where_patches_are() -> None:
    torch.manual_seed(0)
    encoder = Encoder("dinov2_vits14", ["block2"])
    for size, grid in (((56, 84), (4, 6)), ((60, 80), (4, 6)), ((5, 20), (1, 1))):
        assert encoder(torch.rand(1, 3, *size))["block2"].shape[-2:] == grid
    assert isinstance(encoder.net, _DINOv2)
    torch.testing.assert_close(encoder.net._positions(37, 37), encoder.net.pos_embed)
    flat = encoder(torch.full((1, 3, 56, 56), 0.5))["block2"]
    assert flat.flatten(2).std(-1).min() > 1e-3  # every patch is the same but for its position


@torch.no_grad()
def test_vision_transformer_is_timms() -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    network = timm.create_model("vit_small_patch14_dinov2").eval()
    encoder = Encoder("dinov2_vits14", ["block1", "block2"], network.state_dict())
    image = torch.rand(1, 3, 518, 518)  # positions of timm need no interpolation
    expected = network.forward_intermediates(
        (image - encoder.mean) / encoder.std, indices=[0, 1], norm=True, stop_early=True,
        intermediates_only=True,
    )  # fmt: skip
    for found, features in zip(encoder(image).values(), expected, strict=True):
        torch.testing.assert_close(found, features, atol=1e-4, rtol=1e-4)


def test_unknown_encoders_and_layers_are_refused_with_the_valid_names() -> None:
    with pytest.raises(ValueError, match=r"unknown encoder 'vgg17'; .*vgg16, .*resnet50"):
        Encoder("vgg17", ["relu1_1"])
    with pytest.raises(ValueError, match=r"resnet50 has no layer 'relu1_1'; .*stem, layer1"):
        Encoder("resnet50", ["relu1_1"])


@pytest.mark.parametrize(
    ("name", "tap", "make_state"),
    [
        ("vgg16", "conv5_1", lambda: vgg_state(make_layers(cfgs["E"]))),
        ("resnet50", "stem", lambda: vgg_state(make_layers(cfgs["A"][:3]))),
        ("vgg19", "conv1_2", lambda: {"features.0.bias": torch.zeros(64)}),  # incomplete
    ],
)
def test_weights_of_another_network_are_refused(
    name: str, tap: str, make_state: Callable[[], dict[str, Tensor]]
) -> None:
    with pytest.raises(ValueError, match=f"another network than {name}"):
        Encoder(name, [tap], make_state())


def test_resnet_takes_torchvisions_weights() -> None:
    state = torchvision.models.resnet50().state_dict()
    found = Encoder("resnet50", ["stem"], state).net.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in found.items())


# --- bfloat16 -------------------------------------------------------------------------------

BF16_TAPS = {
    "vgg16": ["relu1_1", "relu2_1", "relu3_1", "conv4_2"],
    "resnet50": ["stem", "layer1", "layer2"],
    "efficientnet_b0": ["stem", "stage3"],
}


def make(name: str) -> Encoder:
    """Return the same random weights each time."""
    torch.manual_seed(0)
    return Encoder(name, BF16_TAPS[name])


@pytest.fixture(scope="module", params=BF16_TAPS)
def pair(request: pytest.FixtureRequest) -> tuple[Encoder, Encoder]:
    """One network in float32 and in bfloat16."""
    return make(request.param), make(request.param).in_bfloat16()


def test_bfloat16_features_are_close_to_float32(pair: tuple[Encoder, Encoder]) -> None:
    """Measured: 0.3 % after one convolution, at most 0.9 %."""
    image = torch.rand(2, 3, 64, 64)
    exact, rounded = (e(image) for e in pair)
    for tap, f in exact.items():
        assert rounded[tap].dtype == BF16
        assert (rounded[tap].float() - f).norm() < 0.02 * f.norm()


def test_autocast_does_not_change_a_bfloat16_encoder(pair: tuple[Encoder, Encoder]) -> None:
    image = torch.rand(1, 3, 64, 64, requires_grad=True)
    with torch.autocast("cpu", dtype=BF16):
        inside = pair[1](image)
    assert all(torch.equal(inside[tap], f) for tap, f in pair[1](image).items())
    torch.stack([f.float().square().sum() for f in inside.values()]).sum().backward()
    assert image.grad is not None
    assert image.grad.dtype == torch.float32
    assert image.grad.abs().sum() > 0


def test_the_image_is_normalized_in_float32_before_rounding() -> None:
    """0.482 and 0.4825 are equal in bfloat16, but differ after normalization near the mean."""
    dark, light = (torch.full((1, 3, 32, 32), value) for value in (0.482, 0.4825))
    assert torch.equal(dark.to(BF16), light.to(BF16))
    encoder = make("vgg16").in_bfloat16()
    assert not torch.equal(encoder(dark)["relu1_1"], encoder(light)["relu1_1"])
