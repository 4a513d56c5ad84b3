from collections.abc import Callable
from pathlib import Path

import pytest
from underdrawing.trainers.config import TrainConfig
from underdrawing.trainers.dry_run import describe, make_plan

Tiny = Callable[..., TrainConfig]


def test_plan_describes_the_run_and_writes_nothing(tiny: Tiny) -> None:
    config = tiny(batch_size=4, accumulate=2)
    plan = make_plan(config)
    assert not config.out.exists()
    assert "2 steps of recipe attention-adversarial, starts from scratch" in plan["run"]
    assert plan["batch"] == "4 = 1 process(es) x 2 micro-batch(es) x 2 image(s) of 32 px"
    assert plan["photos"] == "6 training, 3 validation, 3 test"
    assert plan["paintings"] == "3 training, 3 validation, 3 test"
    assert plan["device"].endswith("fp32")
    assert "generator 0.06 M, discriminator" in plan["parameters"]
    assert ": 2 steps of " in plan["time"]
    assert "GB free at" in plan["disk"]
    assert len(describe(plan).splitlines()) == len(plan)


def test_plan_says_where_the_run_starts(tiny: Tiny, finished: Path, tmp_path: Path) -> None:
    plan = make_plan(tiny(steps=3))
    assert "resumes after step 2" in plan["run"]
    assert ": 1 steps of " in plan["time"]
    plan = make_plan(tiny("multi-layer", init=finished, out=tmp_path / "next"))
    assert f"starts from the model in {finished}" in plan["run"]
    assert "discriminator" not in plan["parameters"]


@pytest.mark.usefixtures("finished")
def test_plan_is_refused_where_training_would_be(tiny: Tiny) -> None:
    with pytest.raises(ValueError, match="nowhere"):
        make_plan(tiny(photos=Path("nowhere")))
    with pytest.raises(ValueError, match="another configuration"):
        make_plan(tiny(size=40))
