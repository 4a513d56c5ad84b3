import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from underdrawing.experiments import export as module
from underdrawing.experiments.export import ExportConfig, export
from underdrawing.experiments.stylize import StylizeConfig, stylize
from underdrawing.models import pretrained
from underdrawing.models.color import color_statistics
from underdrawing.models.generator import reduce_photo
from underdrawing.trainers.config import AttentionConfig, GeneratorConfig, TrainConfig, to_json
from underdrawing.trainers.model_files import Model, build_generator, load_model, save_model, sizes
from underdrawing.trainers.style_codes import StyleCodes, write_styles

pytest.importorskip("onnxscript", reason="the extra `export` is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="the extra `export` is not installed")

ROOT = Path(__file__).parents[2]
CONFIG = TrainConfig(
    size=32,
    generator=GeneratorConfig(width=8, blocks=1),
    attention=AttentionConfig(channels=True, gates_decoder=True),
)


@pytest.fixture(scope="module")
def job(
    cache: Path, folders: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> ExportConfig:
    """A model in which every layer has an effect, exported once for all tests."""
    torch.manual_seed(0)
    generator = build_generator(CONFIG)
    generator.fit_standardization(torch.rand(8, sizes(CONFIG)[0]))
    assert generator.attention is not None
    torch.nn.init.normal_(generator.to_residual.conv.weight, std=0.1)
    torch.nn.init.normal_(generator.attention.head.weight, std=1)
    run = tmp_path_factory.mktemp("run")
    (run / "config.json").write_text(to_json(CONFIG))
    save_model(generator.state_dict(), run)
    onnx = tmp_path_factory.mktemp("onnx") / "mine.onnx"
    config = ExportConfig(run, onnx, (folders[1] / "00.png",))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNDERDRAWING_CACHE", str(cache))
        patch.delenv("UNDERDRAWING_WEIGHTS", raising=False)
        patch.setattr(pretrained, "_from_torchvision", lambda name: None)
        assert 0 < export(config) < 1e-3
    return config


@pytest.fixture(scope="module")
def exported(job: ExportConfig) -> bytes:
    assert job.onnx
    return job.onnx.read_bytes()


@pytest.fixture(scope="module")
def session(job: ExportConfig) -> Any:
    return onnxruntime.InferenceSession(job.onnx, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("stroke_size", [1, 1.7, 2])
@pytest.mark.parametrize("shape", [(1, 64, 64), (2, 75, 93), (3, 129, 66)])
def test_outputs_equal_torch_at_any_size(
    job: ExportConfig, session: Any, shape: tuple[int, int, int], stroke_size: float
) -> None:
    batch, height, width = shape
    generator, _ = load_model(job.run)
    torch.manual_seed(height)
    photo, code = torch.rand(batch, 3, height, width), torch.rand(batch, sizes(CONFIG)[0])
    strength, reduced = torch.rand(batch, 1, height, width), reduce_photo(photo, stroke_size)
    with torch.inference_mode():
        expected = generator(photo, code, strength, reduced=reduced)
    inputs = {"photo": photo, "reduced": reduced, "code": code, "strength": strength}
    feed = {name: x.numpy() for name, x in inputs.items()}
    stylized, attention = session.run(["stylized", "attention"], feed)
    assert (expected.image - photo).abs().max() > 0.1
    assert expected.attention.max() > 1.01
    np.testing.assert_allclose(stylized, expected.image, rtol=0, atol=1e-3)
    np.testing.assert_allclose(attention, expected.attention, rtol=0, atol=1e-3)


def test_color_statistics_of_a_large_photo_are_exact() -> None:
    """ONNX Runtime adds a plane in one float32 sum: not row by row, these are off by 5e-4."""

    class ColorStatistics(torch.nn.Module):
        def forward(self, photo: Tensor) -> Tensor:
            return color_statistics(photo)

    photo = torch.linspace(0.92, 0.94, 2000).view(1, 1, 1, -1).repeat(1, 3, 2000, 1)
    program = torch.onnx.export(ColorStatistics(), (photo,), dynamo=True, verbose=False)
    assert program is not None
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    (found,) = session.run(None, {session.get_inputs()[0].name: photo.numpy()})
    np.testing.assert_allclose(found, color_statistics(photo), rtol=0, atol=1e-5)


def test_statistics_of_a_large_photo_are_exact(job: ExportConfig, session: Any) -> None:
    """Up to the rounding of the gate by A, which this smooth photo makes nearly flat."""
    generator, _ = load_model(job.run)
    photo = torch.linspace(0, 1, 2048).view(1, 1, -1, 1).pow(4).expand(1, 3, 2048, 2048)
    code, strength = generator.code_mean[None], torch.ones(1, 1, 2048, 2048)
    inputs = {"photo": photo, "reduced": photo, "code": code, "strength": strength}
    stylized, attention = session.run(None, {name: x.numpy() for name, x in inputs.items()})
    with torch.inference_mode():
        expected = generator.double()(photo.double(), code.double())
    np.testing.assert_allclose(stylized, expected.image, rtol=0, atol=5e-4)
    np.testing.assert_allclose(attention, expected.attention, rtol=0, atol=2e-3)


def test_strength_zero_returns_the_photo(session: Any) -> None:
    photo = np.random.default_rng(0).random((1, 3, 50, 61), np.float32)
    strength = np.ones((1, 1, 50, 61), np.float32)
    strength[..., :30] = 0
    code = np.zeros((1, sizes(CONFIG)[0]), np.float32)
    feed = {"photo": photo, "reduced": photo[..., :40, :40], "code": code, "strength": strength}
    stylized, _ = session.run(None, feed)
    assert (stylized[..., :30] == photo[..., :30]).all()
    assert (stylized[..., 30:] != photo[..., 30:]).mean() > 0.9


def test_file_holds_the_style_codes(job: ExportConfig, session: Any) -> None:
    styles = json.loads(session.get_modelmeta().custom_metadata_map["styles"])
    generator, config = load_model(job.run)
    code = StyleCodes(job.run, config, torch.device("cpu")).code(job.styles[0])
    assert styles.keys() == {"average", "00"}
    assert styles["00"] == code[0].tolist()
    assert styles["average"] == generator.code_mean.tolist()


def test_file_has_no_paths_of_this_machine(exported: bytes) -> None:
    assert str(ROOT).encode() not in exported
    assert b'File "' not in exported


@pytest.mark.parametrize("bias", [0.1, float("nan")])
def test_inexact_model_is_not_written(
    job: ExportConfig, exported: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    bias: float,
) -> None:  # fmt: skip
    generator, config = load_model(job.run)
    assert generator.to_residual.conv.bias is not None
    torch.nn.init.constant_(generator.to_residual.conv.bias, bias)
    monkeypatch.setattr(module, "load_model", lambda run: Model(generator, config))
    monkeypatch.setattr(module, "to_onnx", lambda *_: exported)
    with pytest.raises(ValueError, match=r"more than 0\.001: .*other\.onnx was not written"):
        export(replace(job, onnx=tmp_path / "other.onnx"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["00.png", "average.jpg"])
def test_duplicate_style_name_is_refused(job: ExportConfig, name: str) -> None:
    with pytest.raises(ValueError, match=f"two styles are named '{Path(name).stem}'"):
        export(replace(job, styles=(*job.styles, Path(name))))


def test_a_named_style_that_is_called_average_is_not_lost(
    job: ExportConfig, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(job.run, tmp_path / "run"))
    write_styles(run, {"average": load_model(run).generator.code_mean})
    with pytest.raises(ValueError, match="two styles are named 'average': remove that of"):
        export(replace(job, run=run))


def test_missing_extra_is_named(job: ExportConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda package: None)
    with pytest.raises(ValueError, match=r"pip install 'underdrawing\[export\]'"):
        export(job)


@pytest.mark.parametrize("size", [(72, 56), (960, 800)])
def test_documented_script_equals_stylize_without_torch(
    job: ExportConfig, exported: bytes, folders: tuple[Path, Path], tmp_path: Path,
    size: tuple[int, int],
) -> None:  # fmt: skip
    pages = "\n".join(page.read_text() for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
    blocks = re.findall(r"```python\n(.*?)```", pages, re.DOTALL)
    (script,) = (block for block in blocks if "onnxruntime" in block)
    (tmp_path / "script.py").write_text(script)
    (tmp_path / "mine.onnx").write_bytes(exported)
    photo = tmp_path / "photo.png"
    Image.open(folders[0] / "00.png").resize(size, Image.Resampling.BICUBIC).save(photo)
    code = (
        "import sys, runpy; sys.modules.update(torch=None, underdrawing=None); "
        "sys.argv = sys.argv[1:]; runpy.run_path('script.py', run_name='__main__')"
    )
    words = [sys.executable, "-c", code, "script.py", str(photo), "00", "0.7", "result.png"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (expected,) = stylize(
        StylizeConfig(
            photos=(photo,), style=str(job.styles[0]), model=job.run, out=tmp_path / "out",
            strength=0.7, device="cpu",
        )
    )  # fmt: skip
    with Image.open(tmp_path / "result.png") as theirs, Image.open(expected) as ours:
        difference = np.abs(np.asarray(theirs, np.int16) - np.asarray(ours, np.int16))
    assert difference.max() <= 1
    assert (difference == 0).mean() > 0.99


def test_nothing_to_write_is_refused(job: ExportConfig) -> None:
    with pytest.raises(ValueError, match="nothing to write: name a file with --onnx, or a folder"):
        export(ExportConfig(job.run))


@pytest.mark.parametrize("name", module.PAGE_FILES)
def test_the_page_overwrites_no_input(job: ExportConfig, name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="would overwrite the input"):
        export(replace(job, web=tmp_path, styles=(tmp_path / name,)))


def test_file_and_page_are_both_reported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "export", lambda config: 0.0)
    module.command(["run", "--onnx", "a.onnx", "--web", "site"])
    assert capsys.readouterr().out.startswith("a.onnx and site: maximum difference")


def test_onnx_file_has_a_suffix_that_no_input_has(job: ExportConfig) -> None:
    with pytest.raises(ValueError, match=r"must end in \.onnx"):
        export(replace(job, onnx=job.run / "model.safetensors"))
