from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from underdrawing.experiments.ablations import variants
from underdrawing.experiments.presets import StudyConfig
from underdrawing.experiments.recipes import RECIPES
from underdrawing.experiments.study.plan import StudyPlan, make_study_plan, time_step
from underdrawing.experiments.study.runs import StudyRun, make_run
from underdrawing.trainers.config import TrainConfig


def save_checkpoint(config: TrainConfig, step: int) -> None:
    folder = config.out / "checkpoints"
    folder.mkdir(parents=True)
    (folder / f"step-{step:08}.safetensors").touch()


def make_plan(study: StudyConfig, runs: dict[str, StudyRun], *scored: str) -> StudyPlan:
    scorer: Any = SimpleNamespace(study=study, cached=lambda key: key in scored)
    return make_study_plan(scorer, runs)


@pytest.fixture
def by_name(study: StudyConfig) -> dict[str, StudyRun]:
    study = replace(study, steps=10, warmup=100, attention_steps=40)
    names = ("pixel-style", "single-layer", "multi-layer", "attention")
    return {name: make_run(study, name, RECIPES[name](), 0, ()) for name in names}


@pytest.mark.usefixtures("offline")
def test_states_follow_scores_and_checkpoints(
    study: StudyConfig, by_name: dict[str, StudyRun]
) -> None:
    save_checkpoint(by_name["single-layer"].config, 10)
    save_checkpoint(by_name["multi-layer"].config, 4)
    plan = make_plan(study, by_name, "pixel-style")
    assert plan.states == {
        "pixel-style": "done", "single-layer": "trained, not scored",
        "multi-layer": "resume at step 4", "attention": "pending",
    }  # fmt: skip
    start = by_name["attention"].start
    assert plan.to_train == [start, by_name["multi-layer"].config, by_name["attention"].config]
    counts = "4 runs (1 done, 1 trained, not scored, 1 resume at step 4, 1 pending)"
    assert counts in plan.summary(None)
    assert "about 20 minutes (10 s/step" in plan.summary(10.0)  # 100 + 6 + 10 + 40 · 0.12 steps
    save_checkpoint(start, 100)
    assert start not in make_plan(study, by_name).to_train


@pytest.mark.usefixtures("vgg16_alone")
@pytest.mark.parametrize("ablation", ["encoder", "content-features", "text"])
def test_values_without_weights_are_skipped(ablation: str, study: StudyConfig) -> None:
    found = variants([ablation])
    recipes = found.recipes.items()
    runs = {name: make_run(study, name, recipe, 0, ()) for name, recipe in recipes}
    plan = make_plan(study, runs)
    others = runs.keys() - {found.baseline}
    assert plan.states == {found.baseline: "pending"} | dict.fromkeys(others, "skipped: no weights")
    assert all(plan.skipped[name].startswith("skipped: no weights for ") for name in others)
    baseline = runs[found.baseline]
    assert plan.to_train == [baseline.start, baseline.config]


def test_timing_a_step_writes_nothing(small_study: StudyConfig) -> None:
    assert 0 < time_step(make_run(small_study, "row", RECIPES["attention"](), 0, ())) < 60
    assert not small_study.out.exists()
