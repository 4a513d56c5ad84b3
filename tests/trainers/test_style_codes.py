"""Style codes are kept and found again; looks are stored beside the model."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from underdrawing.data.images import read_image, to_tensor
from underdrawing.trainers import style_codes as module
from underdrawing.trainers.config import TrainConfig
from underdrawing.trainers.model_files import sizes
from underdrawing.trainers.style_codes import StyleCodes, read_styles, write_styles

CPU = torch.device("cpu")


@pytest.fixture
def codes(tiny: Callable[..., TrainConfig], tmp_path: Path) -> Callable[[], StyleCodes]:
    """Of one run folder, each time as of a new process."""
    return lambda: StyleCodes(tmp_path / "run", tiny(), CPU)


@pytest.fixture
def painting(folders: tuple[Path, Path]) -> Path:
    return folders[1] / "00.png"


def test_a_painting_met_before_needs_no_encoder(
    codes: Callable[[], StyleCodes], painting: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = codes().of(painting)
    monkeypatch.setattr(module, "build_encoder", lambda *_: pytest.fail("asked for an encoder"))
    assert torch.equal(codes().of(str(painting)), first)


def test_within_a_process_a_painting_is_read_once(
    codes: Callable[[], StyleCodes], painting: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    those = codes()
    first = those.of(painting)
    monkeypatch.setattr(module, "sha256_of", lambda _: pytest.fail("read the file again"))
    assert those.of(painting) is first


def test_another_painting_under_the_same_name_is_another_style(
    codes: Callable[[], StyleCodes], tmp_path: Path
) -> None:
    painting, those = tmp_path / "painting.png", codes()
    found = []
    for size, color in ((64, "red"), (70, "blue")):
        Image.new("RGB", (size, size), color).save(painting)
        found.append(those.of(painting))
    assert not torch.equal(*found)


def test_a_damaged_kept_code_is_made_again(
    codes: Callable[[], StyleCodes], painting: Path, tmp_path: Path
) -> None:
    first = codes().of(painting)
    (kept,) = (tmp_path / "run" / "codes").iterdir()
    kept.write_bytes(b"damaged")
    assert torch.equal(codes().of(painting), first)
    assert kept.stat().st_size > 100


def test_a_folder_that_keeps_nothing_is_no_obstacle(
    codes: Callable[[], StyleCodes], painting: Path, tmp_path: Path
) -> None:
    first = codes().of(painting)
    (kept,) = (tmp_path / "run" / "codes").iterdir()
    kept.unlink()
    kept.parent.rmdir()
    kept.parent.write_text("a file where the folder should be")
    assert torch.equal(codes().of(painting), first)


def test_an_installed_model_is_left_as_it_is(
    codes: Callable[[], StyleCodes], painting: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text("{}")
    monkeypatch.setattr(module, "PRETRAINED", run)
    monkeypatch.setattr(module, "cache_dir", lambda: tmp_path / "cache")
    first = codes().of(painting)
    assert [path.name for path in run.iterdir()] == ["config.json"]
    assert len(list((tmp_path / "cache" / "codes").rglob("*.safetensors"))) == 1
    assert torch.equal(codes().of(painting), first)


def test_a_painting_in_memory_is_encoded_like_its_file(
    codes: Callable[[], StyleCodes], folders: tuple[Path, Path]
) -> None:
    paths, those = sorted(folders[1].iterdir())[:2], codes()
    expected = torch.cat([those.of(path) for path in paths])
    images = [read_image(path) for path in paths]
    batch = torch.stack([to_tensor(image) for image in images])
    assert torch.equal(those.of(images[0]), expected[:1])
    assert torch.equal(those.of(batch), expected)
    assert torch.equal(those.of(batch.permute(0, 2, 3, 1).numpy()), expected)


def test_looks_come_back_by_name_and_need_no_encoder(
    codes: Callable[[], StyleCodes], painting: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert codes().styles == {}
    code = codes().of(painting)
    write_styles(tmp_path / "run", {"night": code, "day": 2 * code[0]})
    monkeypatch.setattr(module, "build_encoder", lambda *_: pytest.fail("asked for an encoder"))
    assert list(codes().styles) == ["day", "night"]
    assert torch.equal(codes().of("night"), code)
    assert torch.equal(codes().of("day"), 2 * code)
    with pytest.raises(ValueError, match=r"no picture dusk, nor a look of that name \(day, night"):
        codes().of("dusk")


@pytest.mark.parametrize("wrong", [torch.zeros(7), torch.full((1,), torch.nan)])
def test_looks_of_another_model_are_refused(
    tiny: Callable[..., TrainConfig], tmp_path: Path, wrong: torch.Tensor
) -> None:
    config = tiny()
    write_styles(tmp_path, {"night": wrong.expand(sizes(config)[0]) if len(wrong) == 1 else wrong})
    with pytest.raises(ValueError, match=r"looks\.safetensors: .* style codes of this model"):
        read_styles(tmp_path, config)


@pytest.mark.parametrize("size", [(15, 40), (16, 400)])
def test_a_sliver_is_no_painting(codes: Callable[[], StyleCodes], size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="no picture of a style"):
        codes().of(Image.new("RGB", size))
