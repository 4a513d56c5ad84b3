"""The generator equals the prototype that it was written after, on the prototype's weights."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from underdrawing.models.color import COLOR_SIZE, color_statistics
from underdrawing.models.generator import Generator

ROOT = Path(__file__).parents[2]
REFERENCE = Path(os.environ.get("UNDERDRAWING_REFERENCE", ROOT.parent / "shared" / "reference"))
# Name "height x width x strength" -> every 13th row and column of the prototype's output.
EXPECTED = np.load(Path(__file__).with_name("prototype_outputs.npz"))


def waves(height: int, width: int, phase: float) -> Tensor:
    """A photo (1,3,H,W) of smooth waves, the same on every machine."""
    y, x = torch.arange(height)[:, None] / 40, torch.arange(width)[None] / 25
    channels = [torch.sin(x * (1 + i / 3) + phase) * torch.cos(y + i * phase) for i in range(3)]
    return 0.5 + 0.4 * torch.stack(channels)[None]


def make_code(mean: Tensor) -> Tensor:
    """A style code (1,D): colors of an image, feature statistics near the mean of paintings."""
    features = mean[None, COLOR_SIZE:]
    variation = 1 + 0.1 * torch.sin(torch.arange(features.shape[1], dtype=torch.float32))
    return torch.cat([color_statistics(waves(64, 48, 2.0)), features * variation], dim=1)


def rename(name: str) -> str:
    """Map a state-dict name of the prototype to the generator's."""
    name = re.sub(r"^t([48])\.", r"trunk\1.", name)
    name = re.sub(r"^fine\.0\.", "fine.", name)
    name = name.replace(".a.", ".conv1.").replace(".b.", ".conv2.")
    return name.replace("paint.", "to_residual.")


@pytest.fixture(scope="module")
def generator() -> Generator:
    path = REFERENCE / "prototype.pt"
    if not path.is_file():
        pytest.skip(f"no prototype weights: {path} is missing (set UNDERDRAWING_REFERENCE)")
    state = torch.load(path, "cpu", weights_only=True)["state"]  # noqa: TID251
    generator = Generator(len(state["code_mean"]), width=128, blocks=4, attention=False).eval()
    kept = {rename(k): v.float() for k, v in state.items() if not k.startswith("att.")}
    generator.load_state_dict(kept)
    return generator


@pytest.mark.parametrize("name", EXPECTED.files)
def test_generator_equals_the_prototype(generator: Generator, name: str) -> None:
    """The large size repeats the noise field at every resolution but 1/8."""
    height, width, strength = name.split("x")
    photo, code = waves(int(height), int(width), 0.5), make_code(generator.code_mean)
    with torch.no_grad():
        s = float(strength)
        image = generator(photo, code, s, cond_strength=s).image  # as in training
    found = image[0, :, ::13, ::13]
    torch.testing.assert_close(found, torch.from_numpy(EXPECTED[name]), rtol=0, atol=1e-4)
