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
from torch import nn
from underdrawing.data.images import read_image, to_image, to_tensor
from underdrawing.models.color import keep_chroma, with_colors_of
from underdrawing.models.generator import reduce_photo
from underdrawing.models.style_code import style_code
from underdrawing.trainers import model_files
from underdrawing.trainers import stylizer as module
from underdrawing.trainers.config import TrainConfig
from underdrawing.trainers.style_codes import write_styles
from underdrawing.trainers.stylizer import Stylizer, load

COARSE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8))
PHOTO = to_tensor(COARSE.resize((72, 56), Image.Resampling.BICUBIC))[None]


@pytest.fixture
def stylizer(model_dir: Path) -> Stylizer:
    """With the named styles a and b, which need no encoder."""
    channels = {"relu1_1": 64, "relu2_1": 128, "relu3_1": 256, "relu4_1": 512}
    features = {layer: torch.rand(2, c, 8, 8) for layer, c in channels.items()}
    strong = {layer: torch.tensor([1, 9]).view(2, 1, 1, 1) * x for layer, x in features.items()}
    a, b = style_code(torch.rand(2, 3, 16, 16), strong)
    write_styles(model_dir, {"a": a, "b": b})
    return load(model_dir, "cpu")


def test_stylize_returns_the_type_of_the_photo(stylizer: Stylizer, tmp_path: Path) -> None:
    with torch.no_grad():
        expected = stylizer.generator(PHOTO, stylizer.code("a")).image
    assert torch.equal(stylizer.stylize(PHOTO, "a"), expected)
    assert torch.equal(stylizer.stylize(PHOTO[0], "a"), expected[0])
    assert not stylizer.stylize(PHOTO.clone().requires_grad_(), "a").requires_grad
    floats, result = (x[0].permute(1, 2, 0).numpy() for x in (PHOTO, expected))
    np.testing.assert_array_equal(stylizer.stylize(floats, "a"), result)
    pixels = (result * 255).round().astype(np.uint8)
    integers = stylizer.stylize((PHOTO[0] * 255).round().byte(), "a")
    assert torch.equal(integers, torch.from_numpy(pixels).permute(2, 0, 1))
    image, path = to_image(PHOTO[0]), tmp_path / "photo.png"
    image.save(path)
    for given in (np.asarray(image), image, path, str(path)):
        stylized = stylizer.stylize(given, "a")
        assert isinstance(stylized, np.ndarray if isinstance(given, np.ndarray) else Image.Image)
        np.testing.assert_array_equal(np.asarray(stylized), pixels)
    several = stylizer.stylize([path, floats], "a", strength=0.5)
    np.testing.assert_array_equal(several[1], stylizer.stylize(floats, "a", 0.5))
    assert isinstance(several[0], Image.Image)


def test_batch_equals_single_photos(stylizer: Stylizer) -> None:
    photos, a = torch.cat([PHOTO, PHOTO.flip(-1), PHOTO.flip(-2)]), stylizer.code("a")
    styles = torch.cat([a, stylizer.code("b"), a])
    for codes in (styles, styles[:1]):
        together = stylizer.stylize(photos, codes, 0.7)
        each = zip(photos, codes.expand(3, -1), strict=True)
        alone = torch.stack([stylizer.stylize(x, code[None], 0.7) for x, code in each])
        torch.testing.assert_close(together, alone, rtol=0, atol=2e-5)
    with pytest.raises(ValueError, match="2 paintings for 3 photos"):
        stylizer.stylize(photos, styles[:2])


def test_tiled_equals_untiled(stylizer: Stylizer, monkeypatch: pytest.MonkeyPatch) -> None:
    photos, s = torch.cat([PHOTO, PHOTO.flip(-1)]), torch.rand(2, 1, 56, 72)
    untiled = [stylizer.stylize(photos, "a", s, stroke_size=size) for size in (1, 1.5)]
    monkeypatch.setattr(module, "MAX_UNTILED", 0)
    tiled = [stylizer.stylize(photos, "a", s, stroke_size=size) for size in (1, 1.5)]
    torch.testing.assert_close(tiled, untiled, rtol=0, atol=1e-5)


def test_stroke_size_reduces_the_photo(stylizer: Stylizer, monkeypatch: pytest.MonkeyPatch) -> None:
    photos, s = torch.rand(2, 3, 70, 100), torch.rand(2, 1, 70, 100)
    s[..., :20], code = 0, stylizer.code("a").expand(2, -1)
    reduced = reduce_photo(photos, 2)
    with torch.no_grad():
        fine, coarse = (
            stylizer.generator(photos, code, s, reduced=r).image for r in (None, reduced)
        )
    for stroke_size, expected in ((None, fine), (1, fine), (2, coarse)):
        stylized = stylizer.stylize(photos, code, s, stroke_size=stroke_size)
        assert torch.equal(stylized, expected)
        assert torch.equal(stylized[..., :20], photos[..., :20])
    assert (fine - coarse).abs().mean() > 0.01
    monkeypatch.setattr(module, "STROKE_SIDE", 35)  # the default grows with the photo
    assert torch.equal(stylizer.stylize(photos, code, s), coarse)
    (listed,) = stylizer.stylize([photos], code, stroke_size=2)
    assert torch.equal(listed, stylizer.stylize(photos, code, stroke_size=2))
    for wrong in (0.9, math.nan, math.inf, "2"):
        with pytest.raises(ValueError, match="it must be a number, 1 or more"):
            stylizer.stylize(photos, code, stroke_size=wrong)  # type: ignore[arg-type]


def test_mixture_is_the_weighted_mean_of_codes(stylizer: Stylizer) -> None:
    a, b = (stylizer.code(one) for one in ("a", "b"))
    torch.testing.assert_close(stylizer.code({"a": 7, "b": 3}), 0.7 * a + 0.3 * b)
    weights: Any
    for weights in ((), (0,), (-1, 3), (1, math.nan), ("1",), (None,), (1e308, 1e308)):
        with pytest.raises(ValueError, match="with a finite sum > 0"):
            stylizer.code(dict(zip("ab", weights, strict=False)))


def test_strength_is_a_number_or_a_map(stylizer: Stylizer) -> None:
    full = stylizer.stylize(PHOTO, "a")
    assert torch.equal(stylizer.stylize(PHOTO, "a", 0), PHOTO)
    assert torch.equal(stylizer.stylize(PHOTO, "a", np.float32(1)), full)  # type: ignore[arg-type]
    half = torch.zeros(56, 72)
    half[:, 36:] = 1
    for strength in (half, half.numpy(), Image.fromarray((half * 255).byte().numpy())):
        stylized = stylizer.stylize(PHOTO, "a", strength)
        assert torch.equal(stylized[..., :36], PHOTO[..., :36])
        torch.testing.assert_close(stylized[..., 36:], full[..., 36:], rtol=0, atol=1e-6)
    for wrong in (1.5, -0.1, math.nan):
        with pytest.raises(ValueError, match=r"must be in \[0, 1\]"):
            stylizer.stylize(PHOTO, "a", wrong)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"photo": ("a.jpg", "b.jpg")}, "an image or map is a path, .*, not tuple"),
        ({"painting": None}, "not NoneType"),
        ({"strength": [0.5]}, "strength: .*, not list"),
        ({"strength": torch.ones(3, 56, 72)}, "3 strength maps for 2 photos"),
        ({"protect": 0.5}, "protect: .*, not float"),
        ({"protect": torch.ones(3, 56, 72)}, "3 protect maps for 2 photos"),
        ({"mask": 1, "painting": {}}, "with a mask, painting must be"),
    ],
)
def test_arguments_of_another_type_or_batch_are_one_sentence(
    stylizer: Stylizer, options: dict[str, Any], message: str
) -> None:
    code = stylizer.generator.code_mean[None]
    given: dict[str, Any] = {"photo": PHOTO.expand(2, -1, -1, -1), "painting": code}
    for strength in (torch.ones(56, 72), torch.ones(2, 56, 72)):
        stylizer.stylize(**given, strength=strength, protect=strength)
    with pytest.raises(ValueError, match=message):
        stylizer.stylize(**given | options)


def test_protect_map_reduces_strength_locally(stylizer: Stylizer) -> None:
    mask = torch.zeros(56, 72)
    mask[10:40, 20:30], mask[10:40, 40:60] = 1, 0.5
    before = stylizer.stylize(PHOTO, "a", 0.9)
    after = stylizer.stylize(PHOTO, "a", 0.9, protect=mask)
    change, reduced = ((x - PHOTO).abs().mean(1)[0] for x in (before, after))
    assert torch.equal(after[..., mask == 1], PHOTO[..., mask == 1])
    assert reduced[mask == 0.5].mean() < 0.8 * change[mask == 0.5].mean()
    torch.testing.assert_close(after[..., mask == 0], before[..., mask == 0], rtol=0, atol=1e-6)


def test_protect_attention_reduces_strength_where_attention_is_high(stylizer: Stylizer) -> None:
    a = stylizer.attention(PHOTO)
    assert a.shape == (1, 1, 7, 9)
    torch.testing.assert_close(a.mean(), torch.tensor(1.0))
    before, after = (stylizer.stylize(PHOTO, "a", protect=p) for p in (None, "attention"))
    change, reduced = ((x - PHOTO).abs().mean(1, keepdim=True) for x in (before, after))
    fine = nn.functional.interpolate(a, (56, 72), mode="bilinear")
    assert reduced[fine > 1.5].mean() < 0.9 * change[fine > 1.5].mean()
    torch.testing.assert_close(reduced[fine <= 1], change[fine <= 1], rtol=0, atol=1e-5)


def test_attention_of_a_model_without_a_branch_is_an_error(
    tiny: Callable[..., TrainConfig], write_model: Callable[..., Path]
) -> None:
    plain = load(write_model(tiny("multi-layer")), "cpu")
    for use in (plain.attention, partial(plain.stylize, painting="a.jpg", protect="attention")):
        with pytest.raises(ValueError, match=r"no attention map .*objective uniform"):
            use(PHOTO)


@pytest.mark.parametrize("options", [{}, {"keep_colors": True, "stroke_size": 1.5}])
def test_mask_assigns_paintings_to_regions(stylizer: Stylizer, options: dict[str, Any]) -> None:
    mask = Image.new("RGB", (72, 56), "black")
    mask.paste("white", (36, 0, 72, 56))
    styles = {"black": "a", "white": "b"}
    stylized = stylizer.stylize(PHOTO, styles, mask=mask, **options)
    left, right = (stylizer.stylize(PHOTO, painting, **options) for painting in ("a", "b"))
    torch.testing.assert_close(stylized[..., :25], left[..., :25], rtol=0, atol=1e-5)
    torch.testing.assert_close(stylized[..., 47:], right[..., 47:], rtol=0, atol=1e-5)
    assert (left - right).abs().mean() > 1e-3
    with pytest.raises(ValueError, match="must be a mapping of the mask's colors"):
        stylizer.stylize(PHOTO, "a", mask=mask)


def test_keep_colors_changes_luma_only(stylizer: Stylizer) -> None:
    stylized = stylizer.stylize(PHOTO, "a", keep_colors=True)
    code = with_colors_of(stylizer.code("a"), PHOTO)
    assert torch.equal(stylized, keep_chroma(stylizer.stylize(PHOTO, code), PHOTO))


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
    model_dir: Path, folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert module.__doc__
    example = module.__doc__.split("\n\n", 1)[1].rsplit("\n\n", 1)[0]
    monkeypatch.chdir(tmp_path)
    shutil.copytree(model_dir, "runs/mine")
    for name, folder in zip(("photo.jpg", "painting.jpg"), folders, strict=True):
        read_image(folder / "00.png").save(name)
    exec("\n".join(line[4:] for line in example.splitlines()), {})  # noqa: S102 (our own)
    with Image.open("stylized.png") as stylized:
        assert stylized.size == (72, 56)
