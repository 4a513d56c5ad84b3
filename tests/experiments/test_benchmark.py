"""The benchmark measures what it says, on work too small to take long."""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from underdrawing.experiments import benchmark, measure, rivals, workloads
from underdrawing.experiments.benchmark import BenchmarkConfig, cases, to_text
from underdrawing.experiments.main import main
from underdrawing.experiments.timing.workloads import Case, Outcome, ours, plain, rival
from underdrawing.trainers.config import GeneratorConfig, TrainConfig

CPU = torch.device("cpu")
KEYS = {
    "part", "size", "batch", "device", "dtype", "median_s", "images_per_s", "peak_mb", "floor_s",
    "plain_s",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few calls, small matrices, no processes of their own."""
    monkeypatch.setattr(measure, "REPEATS", 3)
    monkeypatch.setattr(measure, "MATRIX", 128)
    monkeypatch.setattr(workloads, "BATCHES", 2)
    monkeypatch.setattr(benchmark, "in_fresh_process", lambda f, *arguments: f(*arguments))
    monkeypatch.setattr(workloads, "keep_freed_memory", lambda: None)


def tiny_config() -> BenchmarkConfig:
    return BenchmarkConfig(
        sizes=(32,), batch=1, images=(9,), device="cpu", precision="fp32", workers=0,
        generator=GeneratorConfig(width=8, blocks=1),
    )  # fmt: skip


def test_every_part_is_measured_beside_its_floor_and_plain_code(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    records = benchmark.benchmark(replace(tiny_config(), json=file))
    assert [record["part"] for record in records] == ["train", "stylize", "data"]
    assert json.loads(file.read_text()) == records
    for record in records:
        assert record.keys() >= KEYS
        for key in ("median_s", "images_per_s", "peak_mb", "floor_s", "plain_s"):
            assert isinstance(record[key], float)
            assert record[key] > 0
        assert record["images_per_s"] == pytest.approx(1 / record["median_s"])
    table = to_text(records)
    assert len(table.splitlines()) == 2 + 3
    assert "data, 9 images" in table


def test_sizes_and_images_make_one_case_each() -> None:
    config = BenchmarkConfig(parts=("stylize", "data"), sizes=(64, 128), images=(10, 100))
    found = [(case.part, case.size, case.images) for case in cases(config)]
    assert found == [
        ("stylize", 64, 0), ("stylize", 128, 0),
        ("data", 64, 10), ("data", 64, 100), ("data", 128, 10), ("data", 128, 100),
    ]  # fmt: skip


def test_usual_sizes_and_batches() -> None:
    found = {(case.part, case.size, case.batch) for case in cases(BenchmarkConfig())}
    assert {("train", 256, 4), ("stylize", 512, 1), ("data", 256, 4)} <= found


@pytest.mark.parametrize(
    "changes", [{"parts": ()}, {"images": ()}, {"sizes": (0,)}, {"batch": 0}, {"images": (0,)}]
)
def test_nothing_to_measure_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"--"):
        BenchmarkConfig(**changes)  # type: ignore[arg-type]


def test_the_command_prints_a_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "--parts stylize --sizes 32 --plain False --device cpu --generator.width 8"
    monkeypatch.setattr("sys.argv", ["underdrawing", "benchmark", *words.split()])
    main()
    assert "| stylize | 32 | 1 | float32 |" in capsys.readouterr().out


def case(part: str, **changes: object) -> Case:
    config = TrainConfig(
        size=32, batch_size=2, device="cpu", precision="fp32", workers=0, steps=1000,
        generator=GeneratorConfig(width=8, blocks=1),
    )  # fmt: skip
    return Case(part, 32, 2, replace(config, **changes), 9)  # type: ignore[arg-type]


@pytest.mark.parametrize("part", ["train", "stylize", "data"])
@pytest.mark.parametrize("version", [ours, plain])
def test_ours_and_plain_run(part: str, version: Callable[[Case], Outcome]) -> None:
    outcome = version(case(part))
    assert outcome.timing.median_s > 0
    assert outcome.timing.spread_s >= 0


def test_flops_of_a_step_grow_with_the_generator() -> None:
    narrow, wide = (
        ours(case("train", generator=GeneratorConfig(width=w, blocks=1))).flops for w in (8, 64)
    )
    assert 0 < narrow < wide


def test_rivals_run_where_they_can() -> None:
    step = rival(case("train"), "AdaIN")
    assert step is not None
    assert step.timing.median_s > 0
    assert rival(case("stylize"), "AdaIN") is not None
    assert rivals.lite_stylize_with(32) is None  # works at another size only


def test_our_network_is_timed_in_onnx_runtime_too() -> None:
    pytest.importorskip("onnxscript", reason="the extra `export` is not installed")
    exported = rival(case("stylize"), "ours in ONNX Runtime")
    assert exported is not None
    assert exported.timing.median_s > 0


def test_adain_decoder_mirrors_the_encoder() -> None:
    decoder = rivals._decoder()
    assert decoder(torch.rand(1, 512, 4, 5)).shape == (1, 3, 32, 40)
    convolutions = [layer for layer in decoder if isinstance(layer, torch.nn.Conv2d)]
    assert len(convolutions) == 9  # as VGG19 has up to relu4_1


def test_adain_takes_over_the_statistics() -> None:
    mean, std = torch.rand(2, 3), 1 + torch.rand(2, 3)
    own_mean, own_std = rivals._statistics(rivals._adain(torch.rand(2, 3, 8, 8), mean, std))
    assert torch.allclose(own_mean, mean, atol=1e-5)
    assert torch.allclose(own_std, std, rtol=1e-3)


def test_flops_of_a_product_are_counted() -> None:
    a, b = torch.rand(3, 5), torch.rand(5, 7)
    assert measure.count_flops(lambda: a @ b) == 2 * 3 * 5 * 7


def test_timing_waits_for_the_work() -> None:
    timing = measure.time_calls(lambda: time.sleep(0.01), CPU)
    assert timing.median_s >= 0.01


def test_ceilings_are_rates() -> None:
    assert measure.matrix_ceiling(CPU, torch.float32) > 1e6
    assert measure.copy_ceiling() > 1e6


def test_a_fresh_process_is_another_process() -> None:
    import os

    assert measure.in_fresh_process(os.getpid) != os.getpid()


def test_the_machine_is_named() -> None:
    assert "torch" in measure.machine(CPU)
