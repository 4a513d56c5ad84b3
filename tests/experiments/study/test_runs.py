from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from underdrawing.experiments.presets import StudyConfig
from underdrawing.experiments.recipes import RECIPES, with_settings
from underdrawing.experiments.study import runs as module
from underdrawing.experiments.study.runs import StudyRun, make_run, settings_key
from underdrawing.trainers import runtime
from underdrawing.trainers.config import GeneratorConfig, TrainConfig
from underdrawing.trainers.schedule import joint_steps

DATA = ("photos", "paintings")


def run(study: StudyConfig, seed: int = 0, **settings: Any) -> StudyRun:
    return make_run(study, "row", with_settings(RECIPES["attention"](), settings), seed, DATA)


def test_run_has_the_studys_settings_and_continues_from_its_start(study: StudyConfig) -> None:
    study = replace(study, size=64, lr=1e-3, workers=3, generator=GeneratorConfig(width=8))
    found = run(study, seed=2)
    for config, steps in ((found.config, study.steps), (found.start, study.warmup)):
        assert (joint_steps(config), config.size, config.optimizer.lr) == (steps, 64, 1e-3)
        assert (config.workers, config.generator.width) == (3, 8)
    assert found.config.init == found.start.out
    assert found.config.seed != found.start.seed
    assert found.key == settings_key(found.config, DATA, found.start.out.name)
    assert found.dir == study.out / "runs" / found.key
    assert found.start.out.parent == found.dir.parent


@pytest.mark.parametrize(
    ("settings", "further"),
    [
        ({}, 7), ({"attention.objective": "shuffled"}, 7), ({"attention.objective": "oracle"}, 0),
        ({"attention.gates_decoder": True}, 0),
    ],
    ids=str,
)  # fmt: skip
def test_all_rows_train_the_generator_equally_long(
    settings: dict[str, Any], further: int, study: StudyConfig
) -> None:
    found = run(replace(study, attention_steps=7), **settings)
    assert joint_steps(found.config) == study.steps
    assert found.config.steps == study.steps + further
    assert found.start.steps == joint_steps(found.start) == study.warmup


def test_generator_settings_of_a_recipe_are_those_of_its_start_too(study: StudyConfig) -> None:
    """An ablation of ``generator.noise`` or ``base`` must not be undone by the study's size."""
    study = replace(study, generator=GeneratorConfig(width=8, blocks=2))
    varied: dict[str, Any] = {"generator.noise": False, "generator.base": "none"}
    found = run(study, **varied)
    expected = GeneratorConfig(width=8, blocks=2, noise=False, base="none")
    assert found.config.generator == found.start.generator == expected


def key(config: TrainConfig, data: Sequence[str] = DATA, init: str | None = None) -> str:
    return settings_key(config, data, init)


# -- keys -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "same",
    [
        {"recipe": "x"}, {"out": Path("x")}, {"workers": 9}, {"device": "cpu"},
        {"photos": Path("/y/x")}, {"encoder.weights_dir": Path("w")},
    ],
    ids=str,
)  # fmt: skip
def test_key_ignores_places_and_settings_without_effect_on_the_result(same: dict[str, Any]) -> None:
    assert key(with_settings(TrainConfig(), same)) == key(TrainConfig())


def test_key_depends_on_images_cache_version_and_every_setting_with_an_effect(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    others: tuple[dict[str, Any], ...] = (
        {}, {"seed": 1}, {"steps": 7}, {"full_strength_prob": 0.25}, {"attention.budget": 2.0},
    )  # fmt: skip
    keys = [key(with_settings(TrainConfig(), other)) for other in others]
    keys.append(key(TrainConfig(), data=("other", "paintings")))
    keys += [key(TrainConfig(), init=init) for init in ("0123", "4567")]
    monkeypatch.setattr(module, "CACHE_VERSION", module.CACHE_VERSION + 1)
    keys.append(key(TrainConfig()))
    assert len(set(keys)) == len(keys)


def test_key_depends_on_the_content_of_the_initial_model_not_on_its_place(
    study: StudyConfig, tmp_path: Path
) -> None:
    keys = []
    for place, content in (("a", b"1"), ("b", b"1"), ("c", b"2")):
        (tmp_path / place).mkdir()
        (tmp_path / place / "model.safetensors").write_bytes(content)
        found = run(replace(study, init=tmp_path / place))
        assert found.start.init == tmp_path / place
        keys.append((found.start.out.name, found.key))
    assert keys[0] == keys[1]
    assert all(a != b for a, b in zip(keys[0], keys[2], strict=True))
    assert run(study).key not in {k for _, k in keys}


def test_key_depends_on_the_precision_of_the_machine(
    study: StudyConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, keys = replace(study, precision="auto"), set()
    for supported in (True, False):
        monkeypatch.setattr(runtime, "has_bfloat16", lambda device, it=supported: it)
        keys.add(run(study).key)
    assert len(keys) == 2
    assert run(replace(study, precision="fp32")).key in keys


def test_inactive_settings_do_not_change_the_key(study: StudyConfig) -> None:
    def key_of(**settings: Any) -> str:
        return run(study, **settings).key

    budget: dict[str, Any] = {"attention.budget": 2.0}
    paintings: dict[str, Any] = {"attention.paintings": 1}
    uniform: dict[str, Any] = {"attention.objective": "uniform"}
    oracle: dict[str, Any] = {"attention.objective": "oracle"}  # has a budget, learns no error
    assert key_of(**uniform) == key_of(**uniform, **budget, **paintings)
    assert len({key_of(), key_of(**budget), key_of(**paintings)}) == 3
    assert key_of(**oracle) == key_of(**oracle, **paintings) != key_of(**oracle, **budget)
    assert key_of() == key_of(**{"adversarial.width": 16})  # there is no discriminator
