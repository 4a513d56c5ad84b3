import math
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from underdrawing.data.images import read_image, to_tensor
from underdrawing.models.color import keep_chroma, with_colors_of
from underdrawing.models.generator import reduce_photo
from underdrawing.trainers import model_files
from underdrawing.trainers import stylizer as module
from underdrawing.trainers.config import TrainConfig
from underdrawing.trainers.stylizer import Stylizer, load


@pytest.fixture
def stylizer(model_dir: Path) -> Stylizer:
    return load(model_dir, "cpu")


@pytest.fixture
def paintings(folders: tuple[Path, Path]) -> list[str]:
    return sorted(map(str, folders[1].iterdir()))


@pytest.fixture
def photo(folders: tuple[Path, Path]) -> Tensor:
    """(1,3,56,72)."""
    return to_tensor(read_image(folders[0] / "00.png"))[None]


def test_stylize_returns_the_type_of_the_photo(
    stylizer: Stylizer, paintings: list[str], folders: tuple[Path, Path], photo: Tensor
) -> None:
    style, path = stylizer.code(paintings[0]), folders[0] / "00.png"
    with torch.no_grad():
        expected = stylizer.generator(photo, style).image
    assert torch.equal(stylizer.stylize(photo, style), expected)
    assert torch.equal(stylizer.stylize(photo[0], style), expected[0])
    floats, result = (x[0].permute(1, 2, 0).numpy() for x in (photo, expected))
    np.testing.assert_array_equal(stylizer.stylize(floats, style), result)
    pixels = (result * 255).round().astype(np.uint8)
    integers = stylizer.stylize((photo[0] * 255).round().byte(), style)
    assert torch.equal(integers, torch.from_numpy(pixels).permute(2, 0, 1))
    for given in (np.asarray(read_image(path)), read_image(path), path, str(path)):
        stylized = stylizer.stylize(given, style)
        assert isinstance(stylized, np.ndarray if isinstance(given, np.ndarray) else Image.Image)
        np.testing.assert_array_equal(np.asarray(stylized), pixels)
    several = stylizer.stylize([path, floats], style, strength=0.5)
    np.testing.assert_array_equal(several[1], stylizer.stylize(floats, style, 0.5))
    assert isinstance(several[0], Image.Image)


def test_batch_equals_single_photos(
    stylizer: Stylizer, paintings: list[str], folders: tuple[Path, Path]
) -> None:
    photos = torch.stack([to_tensor(read_image(folders[0] / f"0{i}.png")) for i in range(3)])
    styles = torch.cat([stylizer.code(one) for one in paintings[:3]])
    for codes in (styles, styles[:1]):
        together = stylizer.stylize(photos, codes, 0.7)
        each = zip(photos, codes.expand(3, -1), strict=True)
        alone = torch.stack([stylizer.stylize(x, code[None], 0.7) for x, code in each])
        torch.testing.assert_close(together, alone, rtol=0, atol=2e-5)
    with pytest.raises(ValueError, match="2 paintings for 3 photos"):
        stylizer.stylize(photos, styles[:2])


def test_tiled_equals_untiled(
    stylizer: Stylizer, paintings: list[str], photo: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = torch.cat([photo, photo.flip(-1)])
    strength = torch.tensor([0.4, 1.0]).view(2, 1, 1, 1).expand(2, 1, 56, 72)
    untiled = stylizer.stylize(photos, paintings[0], strength)
    monkeypatch.setattr(module, "MAX_UNTILED", 0)
    tiled = stylizer.stylize(photos, paintings[0], strength)
    torch.testing.assert_close(tiled, untiled, rtol=0, atol=1e-5)


def test_stroke_size_reduces_the_photo_that_is_painted(
    stylizer: Stylizer, paintings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    photos, s = torch.rand(2, 3, 70, 100), torch.rand(2, 1, 70, 100)
    s[..., :20], code = 0, stylizer.code(paintings[0]).expand(2, -1)
    reduced, maximum = reduce_photo(photos, 2), s.amax(dim=(1, 2, 3))
    with torch.no_grad():
        fine, coarse = (
            stylizer.generator(photos, code, s, cond_strength=maximum, reduced=r).image
            for r in (None, reduced)
        )
    for stroke_size, expected in ((None, fine), (1, fine), (2, coarse)):
        stylized = stylizer.stylize(photos, code, s, stroke_size=stroke_size)
        assert torch.equal(stylized, expected)
        assert torch.equal(stylized[..., :20], photos[..., :20])
    assert (fine - coarse).abs().mean() > 0.01
    monkeypatch.setattr(module, "STROKE_SIDE", 35)  # the default grows with the photo
    assert torch.equal(stylizer.stylize(photos, code, s), coarse)
    monkeypatch.setattr(module, "MAX_UNTILED", 0)
    torch.testing.assert_close(stylizer.stylize(photos, code, s), coarse, rtol=0, atol=1e-5)
    (listed,) = stylizer.stylize([photos], code, stroke_size=2)
    assert torch.equal(listed, stylizer.stylize(photos, code, stroke_size=2))
    for wrong in (0.9, math.nan, math.inf, "2"):
        with pytest.raises(ValueError, match="it must be a number, 1 or more"):
            stylizer.stylize(photos, code, stroke_size=wrong)  # type: ignore[arg-type]


def test_stroke_size_with_a_mask_and_keep_colors(stylizer: Stylizer, paintings: list[str]) -> None:
    photo = torch.rand(1, 3, 70, 100)
    regions = {"black": paintings[0], "white": paintings[1]}
    options: dict[str, Any] = {"keep_colors": True, "stroke_size": 2}
    stylized = stylizer.stylize(photo, regions, mask=Image.new("RGB", (100, 70)), **options)
    expected = stylizer.stylize(photo, paintings[0], **options)
    torch.testing.assert_close(stylized, expected, rtol=0, atol=1e-6)


def test_mixture_is_the_weighted_mean_of_codes(stylizer: Stylizer, paintings: list[str]) -> None:
    a, b = (stylizer.code(one) for one in paintings[:2])
    mixed = stylizer.code({paintings[0]: 7, paintings[1]: 3})
    torch.testing.assert_close(mixed, 0.7 * a + 0.3 * b)


@pytest.mark.parametrize(
    "weights", [(), (0,), (-1, 3), (1, math.nan), (math.inf,), ("1",), (None,), (1e308, 1e308)]
)
def test_weights_of_a_mixture_are_finite_numbers(
    stylizer: Stylizer, paintings: list[str], weights: tuple[Any, ...]
) -> None:
    with pytest.raises(ValueError, match="with a finite sum > 0"):
        stylizer.code(dict(zip(paintings, weights, strict=False)))


def test_strength_is_a_number_or_a_map(
    stylizer: Stylizer, paintings: list[str], photo: Tensor
) -> None:
    full = stylizer.stylize(photo, paintings[0])
    assert torch.equal(stylizer.stylize(photo, paintings[0], 0), photo)
    assert torch.equal(stylizer.stylize(photo, paintings[0], np.float32(1)), full)  # type: ignore[arg-type]
    half = torch.zeros(56, 72)
    half[:, 36:] = 1
    for strength in (half, half.numpy(), Image.fromarray((half * 255).byte().numpy())):
        stylized = stylizer.stylize(photo, paintings[0], strength)
        assert torch.equal(stylized[..., :36], photo[..., :36])
        torch.testing.assert_close(stylized[..., 36:], full[..., 36:], rtol=0, atol=1e-6)
    for wrong in (1.5, -0.1, math.nan):
        with pytest.raises(ValueError, match=r"must be in \[0, 1\]"):
            stylizer.stylize(photo, paintings[0], wrong)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"photo": None}, "an image or map is a path, .*, not NoneType"),
        ({"photo": ("a.jpg", "b.jpg")}, "not tuple"),
        ({"painting": 5}, "not int"),
        ({"painting": None}, "not NoneType"),
        ({"strength": None}, "strength: .*, not NoneType"),
        ({"strength": [0.5]}, "strength: .*, not list"),
        ({"strength": torch.ones(3, 56, 72)}, "3 strength maps for 2 photos"),
        ({"protect": 0.5}, "protect: .*, not float"),
        ({"protect": torch.ones(3, 56, 72)}, "3 protect maps for 2 photos"),
        ({"mask": 1, "painting": {}}, "with a mask, painting must be"),
    ],
)
def test_arguments_of_another_type_or_batch_are_one_sentence(
    stylizer: Stylizer, photo: Tensor, options: dict[str, Any], message: str
) -> None:
    code = stylizer.generator.code_mean[None]
    given: dict[str, Any] = {"photo": photo.expand(2, -1, -1, -1), "painting": code}
    for strength in (torch.ones(56, 72), torch.ones(2, 56, 72)):
        stylizer.stylize(**given, strength=strength, protect=strength)
    with pytest.raises(ValueError, match=message):
        stylizer.stylize(**given | options)


def test_protect_map_reduces_strength_locally(
    stylizer: Stylizer, paintings: list[str], photo: Tensor
) -> None:
    mask = torch.zeros(56, 72)
    mask[10:40, 20:30], mask[10:40, 40:60] = 1, 0.5
    before = stylizer.stylize(photo, paintings[0], 0.9)
    after = stylizer.stylize(photo, paintings[0], 0.9, protect=mask)
    change, reduced = ((x - photo).abs().mean(1)[0] for x in (before, after))
    assert torch.equal(after[..., mask == 1], photo[..., mask == 1])
    assert reduced[mask == 0.5].mean() < 0.8 * change[mask == 0.5].mean()
    torch.testing.assert_close(after[..., mask == 0], before[..., mask == 0], rtol=0, atol=1e-6)
    assert change[mask == 0].mean() > 0.01


def test_protect_attention_reduces_strength_where_attention_is_high(
    stylizer: Stylizer, paintings: list[str], photo: Tensor
) -> None:
    a = stylizer.attention(photo)
    assert a.shape == (1, 1, 7, 9)
    torch.testing.assert_close(a.mean(), torch.tensor(1.0))
    before, after = (stylizer.stylize(photo, paintings[0], protect=p) for p in (None, "attention"))
    change, reduced = ((x - photo).abs().mean(1, keepdim=True) for x in (before, after))
    fine = nn.functional.interpolate(a, (56, 72), mode="bilinear")
    assert reduced[fine > 1.5].mean() < 0.9 * change[fine > 1.5].mean()
    torch.testing.assert_close(reduced[fine <= 1], change[fine <= 1], rtol=0, atol=1e-5)


def test_attention_of_a_model_without_a_branch_is_an_error(
    tiny: Callable[..., TrainConfig], write_model: Callable[..., Path], photo: Tensor
) -> None:
    plain = load(write_model(tiny("multi-layer")), "cpu")
    for use in (plain.attention, partial(plain.stylize, painting="a.jpg", protect="attention")):
        with pytest.raises(ValueError, match=r"no attention map .*objective uniform"):
            use(photo)


def test_mask_assigns_paintings_to_regions(
    stylizer: Stylizer, paintings: list[str], photo: Tensor
) -> None:
    mask = Image.new("RGB", (72, 56), "black")
    mask.paste("white", (36, 0, 72, 56))
    styles = {"black": paintings[0], "white": paintings[1]}
    stylized = stylizer.stylize(photo, styles, mask=mask)
    left, right = (stylizer.stylize(photo, painting) for painting in paintings[:2])
    torch.testing.assert_close(stylized[..., :25], left[..., :25], rtol=0, atol=1e-5)
    torch.testing.assert_close(stylized[..., 47:], right[..., 47:], rtol=0, atol=1e-5)
    assert (left - right).abs().mean() > 0.01
    with pytest.raises(ValueError, match="must be a mapping of the mask's colors"):
        stylizer.stylize(photo, paintings[0], mask=mask)


def test_keep_colors_changes_luma_only(
    stylizer: Stylizer, paintings: list[str], photo: Tensor
) -> None:
    stylized = stylizer.stylize(photo, paintings[0], keep_colors=True)
    code = with_colors_of(stylizer.code(paintings[0]), photo)
    assert torch.equal(stylized, keep_chroma(stylizer.stylize(photo, code), photo))


def test_stylize_is_without_gradient_and_in_eval_mode(
    stylizer: Stylizer, paintings: list[str], photo: Tensor
) -> None:
    assert not stylizer.stylize(photo.requires_grad_(), paintings[0]).requires_grad
    assert not stylizer.generator.training


def test_load_without_run_takes_the_shipped_model(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(model_files, "PRETRAINED", tmp_path / "nothing")
    with pytest.raises(ValueError, match="no shipped model in this installation"):
        load()
    with pytest.raises(ValueError, match="not a run directory"):
        load("x" * 5000)
    monkeypatch.setattr(model_files, "PRETRAINED", model_dir)
    assert load(device="cpu").codes.run == model_dir


def test_docstring_example_runs(
    model_dir: Path, paintings: list[str], folders: tuple[Path, Path], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    assert module.__doc__
    example = module.__doc__.split("\n\n", 1)[1].rsplit("\n\n", 1)[0]
    monkeypatch.chdir(tmp_path)
    shutil.copytree(model_dir, "runs/mine")
    read_image(folders[0] / "00.png").save("photo.jpg")
    read_image(Path(paintings[0])).save("painting.jpg")
    exec("\n".join(line[4:] for line in example.splitlines()), {})  # noqa: S102 (our own)
    with Image.open("stylized.png") as stylized:
        assert stylized.size == (72, 56)
