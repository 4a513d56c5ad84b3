from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import gradcheck
from torchvision.models import WeightsEnum
from torchvision.models.vgg import cfgs, make_layers
from underdrawing.models.encoder import ENCODERS, Encoder, smoothed
from underdrawing.models.pretrained import WEIGHTS

VGG_SHAPES = {
    "relu1_1": (64, 32, 32),
    "relu2_2": (128, 16, 16),
    "relu3_1": (256, 8, 8),
    "conv4_2": (512, 4, 4),
    "conv5_2": (512, 2, 2),
    "pool5": (512, 1, 1),
}
SHAPES = {
    "vgg16": VGG_SHAPES,
    "vgg16_imagenet": VGG_SHAPES,
    "vgg19": VGG_SHAPES | {"relu5_4": (512, 2, 2)},
    "resnet50": {
        "stem": (64, 16, 16),
        "layer1": (256, 8, 8),
        "layer2": (512, 4, 4),
        "layer3": (1024, 2, 2),
        "layer4": (2048, 1, 1),
    },
    "efficientnet_b0": {
        "stem": (32, 16, 16),
        "stage1": (16, 16, 16),
        "stage2": (24, 8, 8),
        "stage3": (40, 4, 4),
        "stage4": (80, 2, 2),
        "stage5": (112, 2, 2),
        "stage6": (192, 1, 1),
        "stage7": (320, 1, 1),
    },
}


@pytest.fixture(scope="module", params=SHAPES)
def whole(request: pytest.FixtureRequest) -> Encoder:
    """Each encoder once, with all its taps, weights random."""
    torch.manual_seed(0)
    return Encoder(request.param, list(SHAPES[request.param]))


@pytest.fixture(scope="module")
def shallow() -> Encoder:
    torch.manual_seed(0)
    return Encoder("vgg16", ["conv1_1", "relu1_1", "conv1_2", "relu2_1"])


def counting(layer: nn.Module) -> list[int]:
    """A list that grows with every run of the layer."""
    runs: list[int] = []
    layer.register_forward_hook(lambda *_: runs.append(1))
    return runs


def test_every_tap_has_its_shape(whole: Encoder) -> None:
    features = whole(torch.rand(2, 3, 32, 32))
    assert {tap: tuple(f.shape) for tap, f in features.items()} == {
        tap: (2, *shape) for tap, shape in SHAPES[whole.name].items()
    }
    assert all(f.isfinite().all() for f in features.values())


def test_channels_are_those_of_the_taps(whole: Encoder) -> None:
    assert whole.channels() == {tap: shape[0] for tap, shape in SHAPES[whole.name].items()}


def test_it_is_frozen_and_stays_so(whole: Encoder) -> None:
    whole.train()
    assert not any(p.requires_grad for p in whole.parameters())
    assert not any(module.training for module in whole.modules())


def test_its_buffers_do_not_move(whole: Encoder) -> None:
    before = {k: v.clone() for k, v in whole.state_dict().items()}
    whole.train()(torch.rand(2, 3, 32, 32))
    assert all(torch.equal(v, before[k]) for k, v in whole.state_dict().items())


def test_gradient_flows_to_the_picture(whole: Encoder) -> None:
    image = torch.rand(1, 3, 32, 32, requires_grad=True)
    next(iter(whole(image).values())).square().sum().backward()
    assert image.grad is not None
    assert image.grad.abs().sum() > 0


def test_it_returns_only_the_taps_asked_for(whole: Encoder) -> None:
    image, taps = torch.rand(1, 3, 32, 32), list(SHAPES[whole.name])[1:3]
    some, every = whole(image, taps), whole(image)
    assert list(some) == taps
    assert all(torch.equal(some[tap], every[tap]) for tap in taps)


@pytest.mark.parametrize("name", [name for name in ENCODERS if name != "efficientnet_lite0"])
def test_it_normalizes_as_its_weights_were_trained(name: str) -> None:
    weights = WEIGHTS[name]
    assert isinstance(weights, WeightsEnum)
    preset = weights.transforms()
    assert list(ENCODERS[name].mean) == pytest.approx(list(preset.mean))
    assert list(ENCODERS[name].std) == pytest.approx(list(preset.std))


@pytest.mark.parametrize("name", ["vgg16", "vgg16_imagenet"])
def test_a_picture_of_the_mean_color_leaves_only_the_bias(name: str) -> None:
    encoder = Encoder(name, ["conv1_1"])
    features = encoder(encoder.mean.expand(1, 3, 32, 32))["conv1_1"]
    bias = encoder.net.state_dict()["features.0.bias"]
    torch.testing.assert_close(features, bias[None, :, None, None].expand_as(features))


def test_the_first_convolution_sees_the_normalized_picture(shallow: Encoder) -> None:
    image = torch.rand(1, 3, 32, 32)
    weight, bias = (shallow.net.state_dict()[f"features.0.{k}"] for k in ("weight", "bias"))
    mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in ENCODERS["vgg16"][2:])
    expected = F.conv2d((image - mean) / std, weight, bias, padding=1)
    torch.testing.assert_close(shallow(image)["conv1_1"], expected, rtol=1e-4, atol=1e-3)


def test_relu_does_not_overwrite_the_convolution_before_it(shallow: Encoder) -> None:
    features = shallow(torch.rand(1, 3, 32, 32))
    assert features["conv1_1"].min() < 0
    assert features["conv1_2"].min() < 0
    assert torch.equal(features["relu1_1"], features["conv1_1"].relu())


def test_it_is_torchvisions_network_layer_for_layer() -> None:
    layers = make_layers(cfgs["D"])
    state = {f"features.{k}": v for k, v in layers.state_dict().items()}
    encoder = Encoder("vgg16", ["relu4_3", "pool5"], state)
    x = (torch.rand(1, 3, 32, 32) - encoder.mean) / encoder.std
    ours = encoder.net(x, encoder.taps)
    assert torch.equal(ours["relu4_3"], layers[:23](x))
    assert torch.equal(ours["pool5"], layers(x))


@pytest.mark.parametrize(("tap", "depth"), [("conv1_1", 1), ("relu1_1", 2), ("pool2", 10)])
def test_vgg_is_cut_after_the_deepest_tap(tap: str, depth: int) -> None:
    encoder = Encoder("vgg16", ["conv1_1", tap])
    assert len(list(encoder.net.get_submodule("features").children())) == depth


@pytest.mark.parametrize(
    ("name", "tap", "deeper"),
    [("resnet50", "layer1", "layer2"), ("efficientnet_b0", "stage2", "features.3")],
)
def test_the_others_are_cut_after_the_deepest_tap(name: str, tap: str, deeper: str) -> None:
    keys = Encoder(name, ["stem", tap]).net.state_dict()
    assert keys
    assert not any(deeper in key for key in keys)


def test_a_shallow_question_stops_early(shallow: Encoder) -> None:
    relu1_1, conv1_2 = (shallow.net.get_submodule(f"features.{i}") for i in (1, 2))
    asked, deeper = counting(relu1_1), counting(conv1_2)
    shallow(torch.rand(1, 3, 32, 32), ["relu1_1"])
    assert asked
    assert not deeper


def test_a_tap_named_twice_is_one_tap() -> None:
    assert Encoder("vgg16", ["relu1_1", "relu1_1"]).taps == ("relu1_1",)


def test_an_unknown_encoder_is_refused_with_the_valid_ones() -> None:
    with pytest.raises(ValueError, match="unknown encoder 'vgg17'") as refusal:
        Encoder("vgg17", ["relu1_1"])
    assert all(name in str(refusal.value) for name in ENCODERS)


@pytest.mark.parametrize(
    ("name", "tap"), [("vgg16", "relu3_4"), ("resnet50", "relu1_1"), ("efficientnet_b0", "stage8")]
)
def test_an_unknown_layer_is_refused_with_the_valid_ones(name: str, tap: str) -> None:
    with pytest.raises(ValueError, match=f"{name} has no layer '{tap}'") as refusal:
        Encoder(name, [tap])
    assert all(layer in str(refusal.value) for layer in ENCODERS[name].layers)


def vgg19_state() -> dict[str, Tensor]:
    return {f"features.{k}": v for k, v in make_layers(cfgs["E"]).state_dict().items()}


@pytest.mark.parametrize(
    ("name", "tap", "state"),
    [
        ("vgg16", "conv5_1", vgg19_state),
        ("resnet50", "stem", vgg19_state),
        ("efficientnet_b0", "stem", dict),
    ],
)
def test_another_networks_weights_are_refused(
    name: str, tap: str, state: Callable[[], dict[str, Tensor]]
) -> None:
    with pytest.raises(ValueError, match=f"another network than {name}"):
        Encoder(name, [tap], state())


def test_half_of_the_weights_are_not_enough() -> None:
    state = vgg19_state()
    del state["features.2.bias"]
    with pytest.raises(ValueError, match="another network"):
        Encoder("vgg19", ["conv1_2"], state)


def test_resnet_loads_torchvisions_own_names() -> None:
    named = {
        key.removeprefix("graph."): torch.full_like(value, 0.5)
        for key, value in Encoder("resnet50", ["stem"]).net.state_dict().items()
    }
    encoder = Encoder("resnet50", ["stem"], named)
    assert "conv1.weight" in named
    assert all((v == 0.5).all() for v in encoder.net.state_dict().values() if v.is_floating_point())


def peaky(batch: int = 2) -> Tensor:
    """Activations of which one in each picture towers over the others."""
    features = torch.randn(batch, 3, 4, 5).relu()
    features[:, 1, 2, 3] = 50
    return features


def entropy(features: Tensor) -> Tensor:
    """Of each picture's activations as shares of their sum, (B,)."""
    shares = features.flatten(1) / features.flatten(1).sum(1, keepdim=True)
    return torch.special.entr(shares).sum(1)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_smoothing_raises_the_entropy_of_peaky_activations(scale: float) -> None:
    features = scale * peaky()
    assert (entropy(smoothed(features)) > entropy(features) + 0.5).all()


def test_smoothing_brings_any_two_activations_closer_and_keeps_their_order() -> None:
    before = torch.rand(1, 2, 3, 3) + 0.01
    after = smoothed(before)
    rank = before.flatten().argsort()
    ratios = [x.flatten()[rank][1:] / x.flatten()[rank][:-1] for x in (before, after)]
    assert (ratios[1] >= 1).all()
    assert (ratios[1] < ratios[0]).all()


def test_smoothing_is_a_softmax_over_each_picture_whatever_the_scale() -> None:
    features = torch.randn(2, 3, 4, 5)
    for i in range(2):
        picture = features[i].flatten()
        expected = (picture / picture.abs().max()).softmax(0) * picture.numel()
        found = smoothed(7 * features)[i].flatten()
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("given", "returned"),
    [
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
        (torch.bfloat16, torch.float32),
    ],
)
def test_smoothing_keeps_shape_layout_and_precision(
    given: torch.dtype, returned: torch.dtype
) -> None:
    features = peaky().to(given).contiguous(memory_format=torch.channels_last)
    found = smoothed(features)
    assert found.shape == features.shape
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert found.dtype == returned


def test_smoothing_has_the_gradient_it_should() -> None:
    features = torch.randn(2, 2, 2, 3, dtype=torch.float64, requires_grad=True)
    assert gradcheck(smoothed, features)


@pytest.mark.parametrize("features", [torch.zeros(1, 2, 3, 3), 1e30 * peaky(1)])
def test_smoothing_has_finite_gradients(features: Tensor) -> None:
    features.requires_grad_()
    smoothed(features).square().sum().backward()
    assert features.grad is not None
    assert features.grad.isfinite().all()


def test_an_encoder_smooths_all_that_it_returns_and_only_if_asked_to() -> None:
    taps = ["stem", "stage1"]
    plain = Encoder("efficientnet_b0", taps)
    state = {k.removeprefix("graph."): v for k, v in plain.net.state_dict().items()}
    smooth, image = Encoder("efficientnet_b0", taps, state, smooth=True), torch.rand(2, 3, 32, 32)
    for asked in (None, ["stage1"]):
        expected = {tap: smoothed(x) for tap, x in plain(image, asked).items()}
        found = smooth(image, asked)
        assert list(found) == list(expected)
        assert all(torch.equal(found[tap], expected[tap]) for tap in expected)
    assert smooth.channels() == plain.channels()
