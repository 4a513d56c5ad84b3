"""The shipped model in ``pretrained/``."""

from pathlib import Path

import pytest
import skimage.data
import torch
import underdrawing
from PIL import Image
from underdrawing.data.images import to_tensor
from underdrawing.losses.attention import correlation, kl_to_uniform
from underdrawing.models import pretrained
from underdrawing.trainers.model_files import PRETRAINED
from underdrawing.trainers.train_step import mean_log_error


@pytest.fixture
def photo() -> Image.Image:
    torch.manual_seed(0)
    coarse = torch.randint(0, 256, (6, 8, 3), dtype=torch.uint8).numpy()
    return Image.fromarray(coarse).resize((96, 64), Image.Resampling.BICUBIC)


def test_it_fits_into_a_wheel() -> None:
    assert sum(path.stat().st_size for path in PRETRAINED.iterdir()) < 20e6


def test_every_named_style_works_without_an_encoder(
    photo: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNDERDRAWING_CACHE", str(tmp_path))
    monkeypatch.setattr(pretrained, "load_pretrained", None)
    stylizer = underdrawing.load()
    assert len(stylizer.styles) == 12
    results = [stylizer.stylize(photo, style) for style in stylizer.styles]
    assert len({result.tobytes() for result in results}) == 12
    for result in results:
        assert result.size == photo.size
        assert result.tobytes() != photo.tobytes()
    assert stylizer.stylize(photo, stylizer.styles[0], strength=0).tobytes() == photo.tobytes()


def test_its_attention_map_uses_the_budget_on_photos() -> None:
    stylizer = underdrawing.load()
    for name in ("astronaut", "chelsea", "coffee"):
        a = stylizer.attention(Image.fromarray(getattr(skimage.data, name)()))
        torch.testing.assert_close(a.mean(), torch.tensor(1.0))
        assert kl_to_uniform(a).item() == pytest.approx(0.5, rel=0.2)


def test_its_attention_map_predicts_the_error() -> None:
    """On photos that it was not trained on, averaged over the named styles."""
    stylizer, found = underdrawing.load(), []
    generator = stylizer.generator
    codes = torch.stack([stylizer.code(name) for name in stylizer.styles])  # (12,1,D)
    for name in ("astronaut", "chelsea", "coffee"):
        image = Image.fromarray(getattr(skimage.data, name)()).resize((256, 256))
        photo = to_tensor(image)[None]
        with torch.no_grad():
            predicted = generator(photo, codes[0]).predicted.positions
        found.append(correlation(predicted, mean_log_error(generator, photo, codes)).item())
    assert sum(found) / len(found) > 0.4, found


def test_its_model_card_lists_every_named_style() -> None:
    card = (PRETRAINED / "README.md").read_text()
    assert all(f"| `{style}`" in card for style in underdrawing.load().styles)


def test_its_configuration_contains_no_absolute_path() -> None:
    config = underdrawing.load().config
    paths = (config.photos, config.paintings, config.out, config.init, config.encoder.weights_dir)
    assert not any(path and path.is_absolute() for path in paths)
