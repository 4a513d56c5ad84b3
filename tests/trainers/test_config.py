import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from underdrawing.experiments.recipes import RECIPES
from underdrawing.trainers.config import (
    RUNTIME_ONLY,
    AdversarialConfig,
    AttentionConfig,
    BalanceConfig,
    ContentConfig,
    TrainConfig,
    differences,
    from_json,
    to_json,
    validation_message,
)
from underdrawing.trainers.model_files import PRETRAINED

#: New values of some settings, by their names on the command line.
CHANGES: dict[str, Any] = {
    "photos": "some/folder",
    "out": "runs/other",
    "steps": 7,
    "size": 77,
    "encoder.weights_dir": "weights",
    "content.layers": [["conv4_2", 1.0]],
    "attention.objective": "shuffled",
    "balance.style": 0.123,
    "optimizer.betas": [0.5, 0.9],
}


def changed(names: set[str]) -> TrainConfig:
    tree = json.loads(to_json(TrainConfig()))
    for setting in names:
        *sections, name = setting.split(".")
        (tree[sections[0]] if sections else tree)[name] = CHANGES[setting]
    return from_json(json.dumps(tree))


@pytest.mark.parametrize("recipe", RECIPES)
def test_json_round_trip_is_exact(recipe: str) -> None:
    config = RECIPES[recipe]()
    again = from_json(to_json(config))
    assert again == config
    assert hash(again) == hash(config)


def test_config_of_the_shipped_model_loads() -> None:
    """Settings that are newer than the model get their defaults."""
    text = (PRETRAINED / "config.json").read_text()
    loaded, shipped = json.loads(to_json(from_json(text))), json.loads(text)
    assert loaded | shipped == loaded


def test_missing_settings_get_their_defaults_and_types() -> None:
    config = from_json('{"steps": 7, "photos": "a/b", "balance": {"style": 2}}')
    expected = replace(TrainConfig(), steps=7, photos=Path("a/b"), balance=BalanceConfig(style=2.0))
    assert config == expected
    assert isinstance(config.photos, Path)
    assert isinstance(config.balance.style, float)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"stepps": 3}', "unknown setting 'stepps'"),
        ('{"balance": {"sytle": 3}}', "unknown setting 'balance.sytle'"),
        ('{"steps": true}', "steps is True; it must be a valid integer"),
        ('{"out": null}', "out is None; it must be a valid string"),
        ('{"attention": {"channels": 1}}', "attention.channels is 1; it must be a valid boolean"),
        ('{"encoder": {"name": "vgg11"}}', "encoder.name is 'vgg11'; it must be 'vgg16', "),
        ('{"content": {"layers": [["conv4_2"]]}}', "content.layers.0.1 is ['conv4_2']; "),
        ('{"steps": 0}', "steps is 0; it must be greater than or equal to 1"),
        ('{"steps": 1, "steps": 2}', "setting 'steps' is given twice"),
        ('{"content": {"layers": [["conv4_2", 0]]}}', "all weights of content.layers are 0"),
        ('{"style": {"layers": ["a", "a"]}}', "style layer 'a' is given twice"),
        ('{"balance": {"style": 1e999}}', "balance.style is inf; it must be a finite number"),
        (f'{{"balance": {{"style": 1{"0" * 400}}}}}', "it must be a finite number"),
        (f'{{"steps": 1{"0" * 5000}}}', "limit"),
        (f'{{"steps": {"[" * 100_000}', "not a training configuration"),
        ('{"a\\nb": 1}', "unknown setting 'a\\nb'"),
        ('{"photos": "\\ud800"}', "Invalid JSON"),
        ("[1]", "the configuration is [1]; it must be an object"),
        ("", "not a training configuration"),
    ],
)
def test_invalid_json_is_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(ValueError) as refusal:
        from_json(text)
    assert message in str(refusal.value)
    assert len(str(refusal.value)) < 200
    assert str(refusal.value).isprintable()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 4, "accumulate": 3}, "batch_size 4 is not divisible by accumulate 3"),
        ({"content": ContentConfig(kind="pixel")}, "set attention.objective uniform"),
        ({"compile": True, "adversarial": AdversarialConfig(r1=1.0)}, "set adversarial.r1 0"),
        ({"attention": AttentionConfig(objective="oracle", gates_decoder=True)},
         "attention.gates_decoder needs a predicted map, and objective oracle predicts none"),
        ({"attention": AttentionConfig(objective="uniform", modulates_strength=True)},
         "attention.modulates_strength needs a predicted map, and objective uniform predicts none"),
    ],
)  # fmt: skip
def test_contradicting_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as refusal:
        TrainConfig(**settings)
    assert message in validation_message(refusal.value)


@pytest.mark.parametrize("names", [set(), *({name} for name in CHANGES), set(CHANGES)])
def test_differences_are_the_changed_settings_that_affect_the_result(names: set[str]) -> None:
    lines = differences(TrainConfig(), changed(names))
    assert sorted(line.split(":")[0] for line in lines) == sorted(names - RUNTIME_ONLY)


@pytest.mark.parametrize(
    ("changes", "depends"),
    [
        ({}, False),
        ({"attention": AttentionConfig(objective="shuffled")}, True),
        ({"content": ContentConfig(normalization="batch")}, True),
    ],
)
def test_micro_batches_are_a_setting_where_their_images_interact(
    changes: dict[str, Any], depends: bool
) -> None:
    config = replace(TrainConfig(), **changes)
    found = differences(config, replace(config, accumulate=2))
    assert found == (["accumulate: 1 -> 2"] if depends else [])
