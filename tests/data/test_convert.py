from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from underdrawing.data.convert import ImageLike, as_given, to_batch, to_map
from underdrawing.data.images import to_rgb

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
TENSOR = torch.from_numpy(PIXELS).permute(2, 0, 1) / 255


@pytest.mark.parametrize(
    "given",
    [
        PIXELS, PIXELS[None], (PIXELS / 255).astype(np.float32), PIXELS / 255,
        Image.fromarray(PIXELS), TENSOR, TENSOR[None], TENSOR.double(),
        torch.from_numpy(PIXELS).permute(2, 0, 1),
    ],
)  # fmt: skip
def test_as_given_inverts_to_batch(given: ImageLike) -> None:
    batch = to_batch(given)
    assert batch.dtype == torch.float32
    torch.testing.assert_close(batch, TENSOR[None])
    back = as_given(batch, given)
    assert type(back) is type(given)
    if isinstance(given, Image.Image):
        assert back.tobytes() == given.tobytes()  # type: ignore[union-attr]
    else:
        assert back.dtype == given.dtype  # type: ignore[union-attr]
        assert back.shape == given.shape  # type: ignore[union-attr]
        np.testing.assert_allclose(back, given, atol=1e-6)  # type: ignore[arg-type]


def test_to_batch_accepts_read_only_views_and_paths(tmp_path: Path) -> None:
    view = PIXELS[::-1, ::-1]
    view.flags.writeable = False
    assert torch.equal(to_batch(view)[0], TENSOR.flip(-1, -2))
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    for given in (tmp_path / "a.png", str(tmp_path / "a.png")):
        assert torch.equal(to_batch(given)[0], TENSOR)
        assert isinstance(as_given(TENSOR[None], given), Image.Image)


def test_to_batch_rotates_images_once_and_composites_over_white() -> None:
    image = Image.fromarray(PIXELS)
    image.getexif()[0x0112] = 6
    assert to_batch(image).shape == (1, 3, 7, 5)
    assert to_batch(to_rgb(image)).shape == (1, 3, 7, 5)
    assert image.size == (7, 5)
    assert torch.equal(to_batch(Image.new("RGBA", (4, 4))), torch.ones(1, 3, 4, 4))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (PIXELS[..., :2], "image array is"),
        (TENSOR.permute(1, 2, 0), "image tensor is"),
        (TENSOR * 255, "outside"),
        (TENSOR * torch.nan, "outside"),
        (PIXELS.astype(np.int32), "uint8"),
        (PIXELS.astype(object), "uint8"),
        (PIXELS[:0], "no pixels"),
        ((PIXELS, PIXELS), "PIL image, array or tensor, not tuple"),
        (None, "PIL image, array or tensor, not NoneType"),
    ],
)
def test_to_batch_rejects_other_shapes_types_and_ranges(given: ImageLike, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        to_batch(given)


def test_to_map_converts_to_gray_and_resizes(tmp_path: Path) -> None:
    half = np.zeros((4, 8), np.uint8)
    half[:, 4:] = 255
    Image.fromarray(half).save(tmp_path / "half.png")
    tensor = torch.from_numpy(half) / 255
    for given in (half, Image.fromarray(half), tmp_path / "half.png", tensor, tensor[None, None]):
        resized = to_map(given, (16, 32))
        assert resized.shape == (1, 1, 16, 32)
        assert torch.equal(resized[..., :12], torch.zeros(1, 1, 16, 12))
        assert torch.equal(resized[..., 20:], torch.ones(1, 1, 16, 12))
    assert to_map(tensor.expand(3, 1, 4, 8), (4, 8)).shape == (3, 1, 4, 8)
    assert to_map(tensor.expand(3, 4, 8), (4, 8)).shape == (3, 1, 4, 8)


@pytest.mark.parametrize(
    ("width", "height", "fits"),
    [
        (408, 300, True),
        (7, 5, True),
        (409, 300, False),
        (391, 300, False),
        (4, 4, True),
        (5, 5, False),
    ],
)
def test_maps_must_have_the_aspect_ratio_of_the_photo(width: int, height: int, fits: bool) -> None:
    if fits:
        assert to_map(torch.zeros(height, width), (300, 400)).shape == (1, 1, 300, 400)
    else:
        with pytest.raises(ValueError, match=rf"{width}x{height} pixels .* a photo of 400x300"):
            to_map(torch.zeros(height, width), (300, 400))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (torch.zeros(4), "a map is"),
        (torch.zeros(1, 3, 4, 4), "a map is"),
        (torch.full((4, 4), 2.0), "outside"),
        (torch.zeros(0, 0), "no pixels"),
        (0.5, "PIL image, array or tensor, not float"),
    ],
)
def test_to_map_rejects_other_shapes_and_ranges(given: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        to_map(given, (4, 4))
