"""Stylizing from Python: any kind of picture, strengths, regions, protection, colors."""

import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from underdrawing.data.images import read_image, to_tensor
from underdrawing.models.color import keep_chroma, with_colors_of
from underdrawing.trainers import stylizer as module
from underdrawing.trainers.config import TrainConfig, to_json
from underdrawing.trainers.model_files import Model, build_generator, save_model
from underdrawing.trainers.style_codes import write_styles
from underdrawing.trainers.stylizer import Stylizer, load

CPU = torch.device("cpu")


@pytest.fixture
def run(tiny: Callable[..., TrainConfig], tmp_path: Path) -> Path:
    """A run folder whose model paints, and attends, strongly."""
    config = tiny()
    generator = build_generator(config)
    torch.manual_seed(0)
    nn.init.normal_(generator.paint.conv.weight, std=0.1)
    assert generator.attention is not None
    nn.init.normal_(generator.attention.logits.weight, std=20)
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(to_json(config))
    save_model(generator.state_dict(), folder)
    return folder


@pytest.fixture
def stylizer(run: Path) -> Stylizer:
    return load(run, "cpu")


@pytest.fixture
def paintings(folders: tuple[Path, Path]) -> list[str]:
    return sorted(map(str, folders[1].iterdir()))


@pytest.fixture
def photo(folders: tuple[Path, Path]) -> Tensor:
    """(1,3,56,72)."""
    return to_tensor(read_image(folders[0] / "00.png"))[None]


def test_what_comes_back_is_what_was_given(
    stylizer: Stylizer, paintings: list[str], folders: tuple[Path, Path], photo: Tensor
) -> None:
    style, path = stylizer.code(paintings[0]), folders[0] / "00.png"
    with torch.no_grad():
        expected = stylizer.generator(photo, style).image
    assert torch.equal(stylizer.stylize(photo, style), expected)
    assert torch.equal(stylizer.stylize(photo[0], style), expected[0])
    floats = photo[0].permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(
        stylizer.stylize(floats, style), expected[0].permute(1, 2, 0).numpy()
    )
    pixels = (expected[0].permute(1, 2, 0) * 255).round().byte().numpy()
    for given in (np.asarray(read_image(path)), read_image(path), path, str(path)):
        stylized = stylizer.stylize(given, style)
        assert isinstance(stylized, np.ndarray if isinstance(given, np.ndarray) else Image.Image)
        np.testing.assert_array_equal(np.asarray(stylized), pixels)
    several = stylizer.stylize([path, floats], style)
    assert [type(one) for one in several] == [Image.Image, np.ndarray]


def test_a_batch_is_stylized_like_its_photos(
    stylizer: Stylizer, paintings: list[str], folders: tuple[Path, Path]
) -> None:
    photos = torch.stack([to_tensor(read_image(folders[0] / f"0{i}.png")) for i in range(3)])
    styles = torch.cat([stylizer.code(one) for one in paintings[:3]])
    for style in (styles[:1], styles):
        together = stylizer.stylize(photos, style, 0.7)
        alone = [stylizer.stylize(x, s[None], 0.7) for x, s in zip(photos, styles, strict=True)]
        if len(style) == 3:
            torch.testing.assert_close(together, torch.stack(alone), rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="2 paintings for 3 photos"):
        stylizer.stylize(photos, styles[:2])


def test_large_photos_are_painted_in_tiles(
    stylizer: Stylizer, paintings: list[str], photo: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = torch.cat([photo, photo.flip(-1)])
    strength = torch.tensor([0.4, 1.0]).view(2, 1, 1, 1).expand(2, 1, 56, 72)
    whole = stylizer.stylize(photos, paintings[0], strength)
    monkeypatch.setattr(module, "LARGE", 0)
    tiled = stylizer.stylize(photos, paintings[0], strength)
    torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-5)


def test_paintings_are_files_images_arrays_codes_and_looks(
    stylizer: Stylizer, paintings: list[str], photo: Tensor, run: Path
) -> None:
    expected = stylizer.stylize(photo, paintings[0])
    write_styles(run, {"night": stylizer.code(paintings[0])})
    again = load(run, "cpu")
    assert again.styles == ("night",)
    image = read_image(Path(paintings[0]))
    for painting in (Path(paintings[0]), "night", image, np.asarray(image), to_tensor(image)):
        assert torch.equal(again.stylize(photo, painting), expected)


def test_a_mixture_is_the_average_of_codes(stylizer: Stylizer, paintings: list[str]) -> None:
    a, b = (stylizer.code(one) for one in paintings[:2])
    mixed = stylizer.code({paintings[0]: 7, paintings[1]: 3})
    torch.testing.assert_close(mixed, 0.7 * a + 0.3 * b)
    for weights in ({}, {paintings[0]: 0.0}, {paintings[0]: -1.0, paintings[1]: 3.0}):
        with pytest.raises(ValueError, match="weights of a mixture"):
            stylizer.code(weights)


def test_strength_is_a_number_or_a_map(
    stylizer: Stylizer, paintings: list[str], photo: Tensor
) -> None:
    full = stylizer.stylize(photo, paintings[0])
    assert torch.equal(stylizer.stylize(photo, paintings[0], 0), photo)
    assert torch.equal(stylizer.stylize(photo, paintings[0], np.float32(1)), full)  # type: ignore[call-overload]
    half = torch.zeros(56, 72)
    half[:, 36:] = 1
    for strength in (half, half.numpy(), Image.fromarray((half * 255).byte().numpy())):
        stylized = stylizer.stylize(photo, paintings[0], strength)
        assert torch.equal(stylized[..., :36], photo[..., :36])
        torch.testing.assert_close(stylized[..., 36:], full[..., 36:], rtol=0, atol=1e-6)
    for wrong in (1.5, -0.1, math.nan):
        with pytest.raises(ValueError, match="from 0 to 1"):
            stylizer.stylize(photo, paintings[0], wrong)


def test_protected_pixels_change_less_and_the_others_as_before(
    stylizer: Stylizer, paintings: list[str], photo: Tensor
) -> None:
    mask = torch.zeros(56, 72)
    mask[10:40, 20:30], mask[10:40, 40:60] = 1, 0.5
    before = stylizer.stylize(photo, paintings[0], 0.9)
    after = stylizer.stylize(photo, paintings[0], 0.9, protect=mask)
    change, less = ((x - photo).abs().mean(1)[0] for x in (before, after))
    assert torch.equal(after[..., mask == 1], photo[..., mask == 1])
    assert less[mask == 0.5].mean() < 0.8 * change[mask == 0.5].mean()
    torch.testing.assert_close(after[..., mask == 0], before[..., mask == 0], rtol=0, atol=1e-6)
    assert change[mask == 0].mean() > 0.01


def test_attention_protects_where_it_is_high(
    stylizer: Stylizer, paintings: list[str], photo: Tensor
) -> None:
    a = stylizer.attention(photo)
    assert a.shape == (1, 1, 7, 9)
    torch.testing.assert_close(a.mean(), torch.tensor(1.0))
    before, after = (stylizer.stylize(photo, paintings[0], protect=p) for p in (None, "attention"))
    change, less = ((x - photo).abs().mean(1, keepdim=True) for x in (before, after))
    fine = nn.functional.interpolate(a, (56, 72), mode="bilinear")
    assert less[fine > 1.5].mean() < 0.9 * change[fine > 1.5].mean()
    torch.testing.assert_close(less[fine <= 1], change[fine <= 1], rtol=0, atol=1e-5)


def test_a_mask_gives_each_region_its_painting(
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
    with pytest.raises(ValueError, match="mapping of its colors"):
        stylizer.stylize(photo, paintings[0], mask=mask)


def test_colors_are_kept(stylizer: Stylizer, paintings: list[str], photo: Tensor) -> None:
    kept = stylizer.stylize(photo, paintings[0], keep_colors=True)
    code = with_colors_of(stylizer.code(paintings[0]), photo)
    assert torch.equal(kept, keep_chroma(stylizer.stylize(photo, code), photo))
    half = torch.zeros(56, 72)
    half[:, 36:] = 1
    kept = stylizer.stylize(photo, paintings[0], protect=half, keep_colors=True)
    assert torch.equal(kept[..., 36:], photo[..., 36:])


def test_no_gradients_are_kept_and_the_model_is_as_it_was(
    stylizer: Stylizer, paintings: list[str], photo: Tensor
) -> None:
    assert not stylizer.stylize(photo.requires_grad_(), paintings[0]).requires_grad
    assert not stylizer.generator.training


def test_without_a_model_the_shipped_one_is_taken(
    run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(module, "PRETRAINED", tmp_path / "nothing")
    with pytest.raises(ValueError, match="ships no model yet: train one"):
        load()
    monkeypatch.setattr(module, "PRETRAINED", run)
    assert load(device="cpu").styles == ()


def test_the_example_in_the_documentation_runs(
    run: Path, paintings: list[str], folders: tuple[Path, Path], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    assert module.__doc__
    example = module.__doc__.split("\n\n", 1)[1].rsplit("\n\n", 1)[0]
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run, "runs/mine")
    read_image(folders[0] / "00.png").save("photo.jpg")
    read_image(Path(paintings[0])).save("painting.jpg")
    exec("\n".join(line[4:] for line in example.splitlines()), {})  # noqa: S102 (our own)
    with Image.open("stylized.png") as stylized:
        assert stylized.size == (72, 56)


def test_a_painter_can_be_made_of_a_model_in_memory(
    tiny: Callable[..., TrainConfig], tmp_path: Path, paintings: list[str], photo: Tensor
) -> None:
    config = tiny()
    made = Stylizer(Model(build_generator(config), config), tmp_path, CPU)
    assert made.stylize(photo, paintings[0]).shape == photo.shape
