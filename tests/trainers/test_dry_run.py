import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from underdrawing.trainers import plan as module
from underdrawing.trainers.config import TrainConfig
from underdrawing.trainers.dry_run import describe, make_plan
from underdrawing.trainers.trainer import train

Tiny = Callable[..., TrainConfig]

WITH_PEAK = """
import atexit, resource, sys
from underdrawing.experiments.main import run_command
atexit.register(lambda: print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024))
run_command("train", sys.argv[1:])
"""


def test_a_plan_says_what_the_run_then_does(tiny: Tiny) -> None:
    config = tiny(batch_size=4, accumulate=2)
    plan = make_plan(config)
    assert not config.out.exists()
    assert (plan.processes, plan.micro_batch, plan.start) == (1, 2, 0)
    assert plan.splits == {"photos": (6, 3, 3), "paintings": (3, 3, 3)}
    assert set(plan.terms) == {"content", "style", "adversarial", "attention", "discriminator"}
    assert list(plan.parameters) == ["generator", "discriminator", "encoder"]
    train(config)
    (file,) = (config.out / "checkpoints").iterdir()
    assert plan.checkpoint == pytest.approx(file.stat().st_size, rel=0.05)
    assert make_plan(config).start == 2


def test_terms_that_are_off_are_not_named(tiny: Tiny) -> None:
    plan = make_plan(tiny("multi-layer"))
    assert "discriminator" not in plan.parameters
    assert not {"adversarial", "discriminator"} & set(plan.terms)


def test_memory_follows_the_micro_batch_alone(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_memory_taken", lambda device: 0)
    two, four, halves = (
        make_plan(tiny(batch_size=batch, accumulate=parts)).memory
        for batch, parts in ((2, 1), (4, 1), (4, 2))
    )
    assert halves == two
    assert two < four
    assert two < make_plan(tiny(batch_size=2, size=64)).memory


def test_what_training_would_refuse_is_refused(tiny: Tiny) -> None:
    with pytest.raises(ValueError, match="there is no folder nowhere"):
        make_plan(tiny(photos=Path("nowhere")))
    train(tiny())
    with pytest.raises(ValueError, match="another configuration"):
        make_plan(tiny(size=40))


def test_the_description_has_a_line_for_everything(tiny: Tiny) -> None:
    plan = make_plan(tiny(batch_size=4, accumulate=2))
    text = describe(plan)
    assert "4 = 1 process(es) x 2 micro-batch(es) x 2 picture(s) of 32 px" in text
    assert "2: 1.3 times through 6 photos, 2.7 times through 3 paintings" in text
    assert "from the beginning" in text
    assert "NOT ENOUGH" not in text
    assert "NOT ENOUGH; raise --accumulate" in describe(replace(plan, memory_free=1))
    assert "continues after step 1" in describe(replace(plan, start=1))
    assert "finished at step 2" in describe(replace(plan, start=2))


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="counts memory in other units")
@pytest.mark.parametrize(("size", "batch"), [(128, 8), (256, 1), (256, 8), (512, 2)])
def test_memory_is_what_training_takes(
    folders: tuple[Path, Path], tmp_path: Path, cache: Path, size: int, batch: int
) -> None:
    words = [
        "--photos", folders[0], "--paintings", folders[1], "--out", tmp_path, "--size", size,
        "--batch-size", batch, "--steps", 3, "--workers", 0, "--device", "cpu",
    ]  # fmt: skip

    def run(*more: str) -> str:
        return subprocess.run(
            [sys.executable, "-c", WITH_PEAK, *map(str, words), *more],
            env=os.environ | {"UNDERDRAWING_CACHE": str(cache)},
            stdout=subprocess.PIPE, text=True, check=True,
        ).stdout  # fmt: skip

    plan = next(line for line in run("--dry-run").splitlines() if line.startswith("memory"))
    value, unit = plan.split("about ")[1].split()[:2]
    expected = float(value) * {"MB": 1e6, "GB": 1e9}[unit]
    peak = int(run().split("peak ")[1])
    assert 1 < expected / peak < 1.3
