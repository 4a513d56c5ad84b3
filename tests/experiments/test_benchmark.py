import json
from dataclasses import replace
from pathlib import Path

import pytest
from underdrawing.experiments import benchmark as module
from underdrawing.experiments.benchmark import BenchmarkConfig, benchmark, cases, to_text
from underdrawing.experiments.main import run_command
from underdrawing.experiments.timing import timer, workloads
from underdrawing.trainers.config import GeneratorConfig

TINY = BenchmarkConfig(
    sizes=(32,), batch=1, device="cpu", precision="fp32", workers=0,
    generator=GeneratorConfig(width=8, blocks=1),
)  # fmt: skip


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time three calls and small matrices, in this process."""
    monkeypatch.setattr(timer, "REPEATS", 3)
    monkeypatch.setattr(timer, "MATRIX", 128)
    monkeypatch.setattr(timer, "BUFFER", 4096)
    monkeypatch.setattr(workloads, "IMAGES", 9)
    monkeypatch.setattr(workloads, "BATCHES", 2)
    monkeypatch.setattr(module, "in_fresh_process", lambda f, *arguments: f(*arguments))
    monkeypatch.setattr(workloads, "keep_freed_memory", lambda: None)


def test_every_part_is_compared_with_bounds_and_reference(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    with pytest.raises(ValueError, match=r"must end in \.json"):
        replace(TINY, json=tmp_path / "photo.jpg")
    records = benchmark(replace(TINY, json=file))
    assert [record["part"] for record in records] == ["train", "stylize", "data"]
    assert json.loads(file.read_text()) == records
    for record in records:
        assert record["images_per_s"] == pytest.approx(1 / record["median_s"])
        assert record["peak_mb"] > 0
        assert ("reference_s" in record) == (record["part"] != "stylize")
        for bound in ("compute_s", "memory_s"):
            assert (bound in record) == (record["part"] != "data")
    table = to_text(records).splitlines()
    assert [[cell.strip() for cell in line.split("|")[1:5]] for line in table[2:]] == [
        ["train", "32", "1", "float32"],
        ["stylize", "32", "1", "float32"],
        ["data", "32", "1", "uint8"],
    ]


def test_each_part_and_size_is_a_case() -> None:
    config = BenchmarkConfig(parts=("stylize", "data"), sizes=(64, 128))
    assert [(case.part, case.size) for case in cases(config)] == [
        ("stylize", 64), ("stylize", 128), ("data", 64), ("data", 128),
    ]  # fmt: skip
    default = {(case.part, case.size, case.batch) for case in cases(BenchmarkConfig())}
    assert {("train", 256, 4), ("stylize", 512, 1), ("data", 256, 4)} <= default


def test_profile_lists_the_ten_most_expensive_operations(tmp_path: Path) -> None:
    words = "--parts stylize --sizes 192 --device cpu --generator.width 32 --profile"
    run_command("benchmark", [*words.split(), str(tmp_path / "profile.md")])
    text = (tmp_path / "profile.md").read_text()
    assert "## stylize, 192², batch 1" in text
    rows = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("| aten::")]
    assert len(rows) == 10
    assert [float(row[2]) for row in rows] == sorted((float(row[2]) for row in rows), reverse=True)
    assert any("convolution" in row[0] for row in rows)
