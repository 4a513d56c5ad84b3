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
from underdrawing.models.color import color_statistics
from underdrawing.models.generator import reduce_photo
from underdrawing.trainers.config import TrainConfig
from underdrawing.trainers.model_files import Model, load_model, sizes
from underdrawing.trainers.style_codes import write_styles
from underdrawing.trainers.stylizer import load

pytest.importorskip("onnxscript", reason="the extra `export` is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="the extra `export` is not installed")

ROOT = Path(__file__).parents[2]
CODE = sizes(TrainConfig())[0]


@pytest.fixture(scope="module")
def session(exported: ExportConfig) -> Any:
    return onnxruntime.InferenceSession(exported.onnx, providers=["CPUExecutionProvider"])


@pytest.fixture
def job(exported: ExportConfig) -> ExportConfig:
    """An export that is not done yet, of the file alone."""
    return replace(exported, web=None)


@pytest.mark.parametrize("stroke_size", [1, 1.7, 2])
@pytest.mark.parametrize("shape", [(1, 64, 64), (2, 75, 93), (3, 129, 66)])
def test_outputs_equal_torch_at_any_size(
    job: ExportConfig, session: Any, shape: tuple[int, int, int], stroke_size: float
) -> None:
    batch, height, width = shape
    generator, _ = load_model(job.run)
    torch.manual_seed(height)
    photo, code = torch.rand(batch, 3, height, width), torch.rand(batch, CODE)
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


def test_strength_zero_returns_the_photo(session: Any) -> None:
    photo = np.random.default_rng(0).random((1, 3, 50, 61), np.float32)
    strength = np.ones((1, 1, 50, 61), np.float32)
    strength[..., :30] = 0
    code = np.zeros((1, CODE), np.float32)
    feed = {"photo": photo, "reduced": photo[..., :40, :40], "code": code, "strength": strength}
    stylized, _ = session.run(None, feed)
    assert (stylized[..., :30] == photo[..., :30]).all()
    assert (stylized[..., 30:] != photo[..., 30:]).mean() > 0.9


def test_file_holds_the_style_codes(job: ExportConfig, session: Any) -> None:
    styles = json.loads(session.get_modelmeta().custom_metadata_map["styles"])
    stylizer = load(job.run, "cpu")
    assert styles.keys() == {"average", "00", "night", "day & dusk"}
    assert styles["00"] == stylizer.code(job.styles[0])[0].tolist()
    assert styles["average"] == stylizer.generator.code_mean.tolist()


def test_file_has_no_paths_of_this_machine(exported: ExportConfig) -> None:
    assert exported.onnx
    content = exported.onnx.read_bytes()
    assert str(ROOT).encode() not in content
    assert b'File "' not in content


@pytest.mark.parametrize("bias", [0.1, float("nan")])
def test_inexact_model_is_not_written(
    job: ExportConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bias: float
) -> None:
    generator, config = load_model(job.run)
    assert generator.to_residual.conv.bias is not None
    torch.nn.init.constant_(generator.to_residual.conv.bias, bias)
    monkeypatch.setattr(module, "load_model", lambda run: Model(generator, config))
    monkeypatch.setattr(module, "CHECKED_SIZES", ((1, 64, 96, 1),))
    monkeypatch.setattr(module, "LARGE_SIZE", (1, 64, 64, 1))
    monkeypatch.setattr(module, "to_onnx", lambda *_: Path(str(job.onnx)).read_bytes())
    with pytest.raises(ValueError, match=r"more than 0\.001: .*other\.onnx was not written"):
        export(replace(job, onnx=tmp_path / "other.onnx"))
    assert list(tmp_path.iterdir()) == []


def test_impossible_options_are_refused(
    job: ExportConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Path(shutil.copytree(job.run, tmp_path / "run"))
    write_styles(run, {"average": load_model(run).generator.code_mean})
    monkeypatch.setattr(module, "to_onnx", lambda *_: pytest.fail("exported"))
    for config, message in (
        (ExportConfig(job.run), "nothing to write: name a file with --onnx, or a folder"),
        (replace(job, onnx=job.run / "model.safetensors"), r"must end in \.onnx"),
        (replace(job, styles=(*job.styles, Path("00.png"))), "two styles are named '00'"),
        (replace(job, styles=(Path("average.jpg"),)), "two styles are named 'average': rename"),
        (replace(job, run=run), "two styles are named 'average': remove that of"),
        *(
            (replace(job, web=tmp_path, styles=(tmp_path / name,)), "would overwrite the input")
            for name in module.PAGE_FILES
        ),
    ):
        with pytest.raises(ValueError, match=message):
            export(config)
    monkeypatch.setattr(module, "find_spec", lambda package: None)
    with pytest.raises(ValueError, match=r"pip install 'underdrawing\[export\]'"):
        export(job)


@pytest.mark.parametrize("size", [(72, 56), (860, 800)])
def test_documented_script_equals_stylize_without_torch(
    job: ExportConfig, folders: tuple[Path, Path], tmp_path: Path, size: tuple[int, int]
) -> None:
    pages = "\n".join(page.read_text() for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
    blocks = re.findall(r"```python\n(.*?)```", pages, re.DOTALL)
    (script,) = (block for block in blocks if "onnxruntime" in block)
    (tmp_path / "script.py").write_text(script)
    shutil.copy(str(job.onnx), tmp_path / "mine.onnx")
    photo = tmp_path / "photo.png"
    Image.open(folders[0] / "00.png").resize(size, Image.Resampling.BICUBIC).save(photo)
    code = (
        "import sys, runpy; sys.modules.update(torch=None, underdrawing=None); "
        "sys.argv = sys.argv[1:]; runpy.run_path('script.py', run_name='__main__')"
    )
    words = [sys.executable, "-c", code, "script.py", str(photo), "00", "0.7", "result.png"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = load(job.run, "cpu").stylize(photo, job.styles[0], 0.7)
    with Image.open(tmp_path / "result.png") as result:
        difference = np.abs(np.asarray(result, int) - np.asarray(expected, int))
    assert difference.max() <= 1
    assert (difference == 0).mean() > 0.99


def test_file_and_page_are_both_reported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "export", lambda config: 0.0)
    module.command(["run", "--onnx", "a.onnx", "--web", "site"])
    assert capsys.readouterr().out.startswith("a.onnx and site: maximum difference")
