import pytest
import torch
from torch import Tensor, nn
from underdrawing.models.encoder import Encoder

BF16, F32 = torch.bfloat16, torch.float32
TAPS = {
    "vgg16": ["relu1_1", "relu2_1", "relu3_1", "conv4_2"],
    "resnet50": ["stem", "layer1", "layer2"],
    "efficientnet_b0": ["stem", "stage3"],
}


def encoder(name: str) -> Encoder:
    """The same random weights each time."""
    torch.manual_seed(0)
    return Encoder(name, TAPS[name])


@pytest.fixture(scope="module", params=TAPS)
def both(request: pytest.FixtureRequest) -> tuple[Encoder, Encoder]:
    """One network in float32 and in bfloat16."""
    return encoder(request.param), encoder(request.param).in_bfloat16()


def test_features_are_close_to_the_float32_ones(both: tuple[Encoder, Encoder]) -> None:
    """Measured: 0.3 % after one convolution, 0.9 % at worst."""
    image = torch.rand(2, 3, 64, 64)
    exact, rounded = (e(image) for e in both)
    for tap, f in exact.items():
        assert rounded[tap].dtype == BF16
        assert (rounded[tap].float() - f).norm() < 0.02 * f.norm()


def test_convolutions_are_bfloat16_and_all_else_is_float32(both: tuple[Encoder, Encoder]) -> None:
    for name, module in both[1].named_modules():
        expected = BF16 if isinstance(module, nn.Conv2d) else F32
        own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        assert all(t.dtype == expected for t in own if t.is_floating_point()), name


def test_it_is_still_frozen(both: tuple[Encoder, Encoder]) -> None:
    assert not any(p.requires_grad for p in both[1].parameters())
    assert not any(module.training for module in both[1].modules())


def test_gradient_reaches_the_picture_in_float32(both: tuple[Encoder, Encoder]) -> None:
    image = torch.rand(1, 3, 64, 64, requires_grad=True)
    features = both[1](image)
    sum(f.float().square().sum() for f in features.values()).backward()  # type: ignore[union-attr]
    assert image.grad is not None
    assert image.grad.dtype == F32
    assert image.grad.abs().sum() > 0


def test_autocast_around_it_changes_nothing(both: tuple[Encoder, Encoder]) -> None:
    image = torch.rand(1, 3, 64, 64)
    with torch.autocast("cpu", dtype=BF16):
        inside = both[1](image)
    assert all(torch.equal(inside[tap], f) for tap, f in both[1](image).items())


def test_taking_it_to_bfloat16_twice_changes_nothing() -> None:
    once = {
        key: value.clone() for key, value in encoder("resnet50").in_bfloat16().state_dict().items()
    }
    twice = encoder("resnet50").in_bfloat16().in_bfloat16().state_dict()
    assert all(torch.equal(value, once[key]) for key, value in twice.items())


def seen(image: Tensor) -> Tensor:
    """What the first convolution of a VGG16 in bfloat16 gets for a picture."""
    network, inputs = encoder("vgg16").in_bfloat16(), []
    first = network.net.get_submodule("features.0")
    first.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    network(image)
    (x,) = inputs
    return x


def test_the_picture_is_normalized_before_it_is_rounded() -> None:
    network, image = encoder("vgg16"), torch.rand(1, 3, 32, 32)
    assert torch.equal(seen(image), ((image - network.mean) / network.std).to(BF16))


def test_differences_finer_than_bfloat16_are_seen_near_the_mean_color() -> None:
    """0.482 and 0.4825 are one number in bfloat16, whose spacing there is 0.002."""
    dark, light = (torch.full((1, 3, 32, 32), value) for value in (0.482, 0.4825))
    assert torch.equal(dark.to(BF16), light.to(BF16))
    network = encoder("vgg16").in_bfloat16()
    assert not torch.equal(network(dark)["relu1_1"], network(light)["relu1_1"])
