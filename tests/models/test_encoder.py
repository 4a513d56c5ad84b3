from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
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
    "dinov2_vits14": {"block1": (384, 2), "block2": (384, 2), "block3": (384, 2)},
}  # fmt: skip


@pytest.fixture(scope="module", params=SHAPES)
def encoder(request: pytest.FixtureRequest) -> Encoder:
    """Each network with all its taps and random weights."""
    torch.manual_seed(0)
    return Encoder(request.param, list(SHAPES[request.param]))


def shallow() -> Encoder:
    torch.manual_seed(0)
    return Encoder("vgg16", ["conv1_1", "relu1_1", "conv1_2", "relu2_1"])


def vgg_state(cfg: str) -> dict[str, Tensor]:
    return {f"features.{k}": v for k, v in make_layers(cfgs[cfg]).state_dict().items()}


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
    state = {f"features.{k}": v for k, v in layers.state_dict().items()}
    found = Encoder("vgg16", ["relu4_3", "pool5"], state)(image := torch.rand(1, 3, 32, 32))
    mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in ENCODERS["vgg16"][2:])
    x = (image - mean) / std
    assert torch.equal(found["relu4_3"], layers[:23](x))
    assert torch.equal(found["pool5"], layers(x))


def test_fused_convolutions_give_the_same_features_and_gradients(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on a GPU, with a stand-in for its kernel."""
    encoder = Encoder("vgg16", ["relu1_1", "conv1_2", "relu2_1"])
    image = torch.rand(2, 3, 32, 32, requires_grad=True)

    def run() -> list[Tensor]:
        features = list(encoder(image).values())
        return [*features, *torch.autograd.grad(sum(f.square().sum() for f in features), image)]

    def kernel(x: Tensor, weight: Tensor, bias: Tensor, *options: Any) -> Tensor:
        calls.append(weight.shape)
        return torch.conv2d(x, weight, bias, *options).relu()

    expected, calls = run(), list[torch.Size]()
    monkeypatch.setattr("underdrawing.models.encoder._fuses", lambda x, conv: True)
    monkeypatch.setattr(torch, "cudnn_convolution_relu", kernel)
    for found, separate in zip(run(), expected, strict=True):
        torch.testing.assert_close(found, separate)
    assert len(calls) == 2  # all but conv1_2, which is tapped


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_fused_convolutions_equal_separate_ones_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where their output lies in memory that held NaN."""
    encoder = Encoder("vgg16", ["relu1_1", "conv1_2", "relu2_1"]).cuda().in_bfloat16()
    encoder.to(memory_format=torch.channels_last)
    image = torch.rand(2, 3, 32, 32, device="cuda", requires_grad=True)

    def run() -> list[Tensor]:
        for channels, side in ((64, 32), (128, 16)):
            torch.full((2, channels, side, side), float("nan"), device="cuda", dtype=BF16)
        features = list(encoder(image).values())
        loss = torch.stack([f.float().square().mean() for f in features]).sum()
        return [*features, *torch.autograd.grad(loss, image)]

    fused = run()
    monkeypatch.setattr("underdrawing.models.encoder._fuses", lambda x, conv: False)
    for found, separate in zip(fused, run(), strict=True):
        assert (found - separate).norm() <= 1e-2 * separate.norm()


def test_relu_does_not_overwrite_the_convolution_before_it() -> None:
    features = shallow()(torch.rand(1, 3, 32, 32))
    assert features["conv1_1"].min() < 0
    assert features["conv1_2"].min() < 0
    assert torch.equal(features["relu1_1"], features["conv1_1"].relu())


@pytest.mark.parametrize(
    ("name", "taps", "last", "next_"),
    [
        ("vgg16", ["conv1_1", "relu2_1"], "features.5", "features.7"),
        ("resnet50", ["stem", "layer1"], "layer1", "layer2"),
        ("efficientnet_b0", ["stem", "stage2"], "features.2", "features.3"),
    ],
)
def test_networks_are_cut_after_the_deepest_tap(
    name: str, taps: list[str], last: str, next_: str
) -> None:
    keys = list(Encoder(name, taps).net.state_dict())
    assert any(key.startswith(last) for key in keys)
    assert not any(key.startswith(next_) for key in keys)


def test_layers_of_another_encoder_are_those_of_that_encoder_alone() -> None:
    torch.manual_seed(0)
    other = Encoder("dinov2_vits14", ["block1", "block3"])
    vgg = shallow()
    names = ["dinov2_vits14:block1", "dinov2_vits14:block3"]
    states = {"dinov2_vits14": other.net.state_dict()}
    both = Encoder("vgg16", [*vgg.taps, *names], vgg.net.state_dict(), states)
    image = torch.rand(2, 3, 30, 44)
    expected = vgg(image) | {f"dinov2_vits14:{k}": x for k, x in other(image).items()}
    found = both(image)
    assert found.keys() == expected.keys() == both.channels().keys()
    assert all(torch.equal(found[tap], expected[tap]) for tap in expected)
    assert list(both(image, names[1:])) == names[1:]
    alone = Encoder("vgg16", names, None, states)(image)
    assert all(torch.equal(alone[tap], expected[tap]) for tap in names)
    assert not any(p.requires_grad for p in both.parameters())
    assert not any(module.training for module in both.train().modules())


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
        ("vgg16", "conv5_1", lambda: vgg_state("E")),
        ("resnet50", "stem", lambda: vgg_state("E")),
        ("efficientnet_b0", "stem", dict),
        ("vgg19", "conv1_2", lambda: {"features.0.bias": torch.zeros(64)}),  # incomplete
    ],
)
def test_weights_of_another_network_are_refused(
    name: str, tap: str, make_state: Callable[[], dict[str, Tensor]]
) -> None:
    with pytest.raises(ValueError, match=f"another network than {name}"):
        Encoder(name, [tap], make_state())


def test_resnet_loads_torchvisions_parameter_names() -> None:
    state = {
        key: torch.full_like(value, 0.5)
        for key, value in Encoder("resnet50", ["stem"]).net.state_dict().items()
    }
    encoder = Encoder("resnet50", ["stem"], state)
    assert "conv1.weight" in state
    assert all((v == 0.5).all() for v in encoder.net.state_dict().values() if v.is_floating_point())


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
