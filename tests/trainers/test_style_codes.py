from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from underdrawing.data.images import read_image, to_tensor
from underdrawing.trainers import style_codes as module
from underdrawing.trainers.config import TrainConfig
from underdrawing.trainers.model_files import sizes
from underdrawing.trainers.style_codes import StyleCodes, read_styles, write_styles


@pytest.fixture
def codes(tiny: Callable[..., TrainConfig], tmp_path: Path) -> StyleCodes:
    return StyleCodes(tmp_path / "run", tiny(), torch.device("cpu"))


@pytest.fixture
def painting(folders: tuple[Path, Path]) -> Path:
    return folders[1] / "00.png"


def cached_file(codes: StyleCodes) -> Path:
    (path,) = (codes.run / "codes").iterdir()
    return path


def test_no_encoder_for_known_painting(
    codes: StyleCodes, painting: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = codes.code(painting)
    monkeypatch.setattr(module, "build_encoder", lambda *_: pytest.fail("built an encoder"))
    again = StyleCodes(codes.run, codes.config, codes.device)
    assert torch.equal(again.code(str(painting)), first)


def test_cache_depends_on_the_content_of_the_file(codes: StyleCodes, tmp_path: Path) -> None:
    painting, found = tmp_path / "painting.png", []
    for color in ("red", "tan"):
        Image.new("RGB", (64, 64), color).save(painting)
        found.append(codes.code(painting))
    assert not torch.equal(*found)


def test_cached_code_is_used_if_it_fits_the_model(codes: StyleCodes, painting: Path) -> None:
    code = codes.code(painting)
    save_file({"code": code + 1}, cached_file(codes))
    assert torch.equal(codes.code(painting), code + 1)
    for unusable in (torch.zeros(1, 7), code * torch.nan):
        save_file({"code": unusable}, cached_file(codes))
        assert torch.equal(codes.code(painting), code)
    cached_file(codes).write_bytes(b"damaged")
    assert torch.equal(codes.code(painting), code)
    assert cached_file(codes).stat().st_size > 100  # rewritten


@pytest.mark.parametrize("link", [True, False])
def test_cache_that_is_unwritable_or_a_link_out_of_the_run_is_left_alone(
    link: bool, codes: StyleCodes, painting: Path, tmp_path: Path
) -> None:
    codes.run.mkdir()
    (tmp_path / "outside").mkdir()
    if link:
        (codes.run / "codes").symlink_to(tmp_path / "outside")
    else:
        (codes.run / "codes").write_text("a file instead of a folder")
    assert codes.code(painting).isfinite().all()
    assert not list((tmp_path / "outside").iterdir())


def test_shipped_model_is_not_written_to(
    codes: StyleCodes, painting: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes.run.mkdir()
    (codes.run / "config.json").write_text("{}")
    monkeypatch.setattr(module, "PRETRAINED", codes.run)
    monkeypatch.setattr(module, "cache_dir", lambda: tmp_path / "cache")
    first = codes.code(painting)
    assert [path.name for path in codes.run.iterdir()] == ["config.json"]
    assert len(list((tmp_path / "cache" / "codes").rglob("*.safetensors"))) == 1
    assert torch.equal(codes.code(painting), first)


def test_images_in_memory_have_the_codes_of_their_files(
    codes: StyleCodes, folders: tuple[Path, Path]
) -> None:
    paths = sorted(folders[1].iterdir())[:2]
    expected = torch.cat([codes.code(path) for path in paths])
    images = [read_image(path) for path in paths]
    batch = torch.stack([to_tensor(image) for image in images])
    assert torch.equal(codes.code(images[0]), expected[:1])
    assert torch.equal(codes.code(batch), expected)
    assert torch.equal(codes.code(batch.permute(0, 2, 3, 1).numpy()), expected)


def test_named_styles_round_trip(codes: StyleCodes, painting: Path) -> None:
    assert codes.styles == {}
    code = codes.code(painting)
    write_styles(codes.run, {"night": code, "day": 2 * code[0]})
    again = StyleCodes(codes.run, codes.config, codes.device)
    assert list(again.styles) == ["day", "night"]
    assert torch.equal(again.code("night"), code)
    assert torch.equal(again.code("day"), 2 * code)
    with pytest.raises(ValueError, match=r"dusk is no image file, and no named style \(day, night"):
        again.code("dusk")


@pytest.mark.parametrize(("factor", "length"), [(0.0, 7), (torch.nan, None)])
def test_named_styles_of_another_model_are_rejected(
    codes: StyleCodes, factor: float, length: int | None
) -> None:
    write_styles(codes.run, {"night": torch.full((length or sizes(codes.config)[0],), factor)})
    with pytest.raises(ValueError, match=r"styles\.safetensors does not fit this model"):
        read_styles(codes.run, codes.config)


@pytest.mark.parametrize(
    "code",
    [
        torch.zeros(1, 5),
        torch.full((2, 1929), torch.nan),
        torch.full((1, 1929), 1e300, dtype=torch.double),
    ],
)
def test_codes_of_another_model_are_rejected(codes: StyleCodes, code: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"the style code does not fit this model: .* 1929 finite"):
        codes.code(code)


def test_unreadable_painting_is_an_error(
    codes: StyleCodes, painting: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    with pytest.raises(ValueError, match="x is no image file"):
        codes.code("x" * 5000)
    for size in ((15, 40), (16, 400)):
        with pytest.raises(ValueError, match="aspect ratio of at most 20"):
            codes.code(Image.new("RGB", size))
    monkeypatch.setattr(module, "content_hash", denied)
    with pytest.raises(ValueError, match=r"00\.png cannot be read: Permission denied"):
        codes.code(painting)
