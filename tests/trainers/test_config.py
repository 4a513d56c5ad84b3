import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from underdrawing.models.encoder import ENCODERS
from underdrawing.trainers.config import (
    RUNTIME_ONLY,
    AdversarialConfig,
    AttentionConfig,
    BalanceConfig,
    ContentConfig,
    EncoderConfig,
    GeneratorConfig,
    OptimizerConfig,
    StyleConfig,
    TrainConfig,
    differences,
    from_json,
    to_json,
)

few = settings(max_examples=40, deadline=None, derandomize=True)
NAN = float("nan")
words = st.text(st.characters(exclude_characters="\0"), max_size=12)
weights = st.floats(0, 1e12)
places = st.none() | st.text("abc/. ü", min_size=1, max_size=9).map(Path)
layers = st.lists(words, min_size=1, max_size=3)
CONFIGS = st.builds(
    TrainConfig,
    recipe=words,
    photos=places,
    init=places,
    out=st.just(Path("runs/ä b")),
    steps=st.integers(1, 10**9),
    batch_size=st.sampled_from([6, 12]),
    accumulate=st.sampled_from([1, 2, 3]),
    seed=st.integers(0, 2**64),
    crop_scale=st.floats(0.01, 1),
    precision=st.sampled_from(["auto", "fp32", "bf16"]),
    encoder=st.builds(EncoderConfig, st.sampled_from(["vgg16", "resnet50"]), places),
    content=st.builds(
        ContentConfig, layers=st.lists(st.tuples(words, weights), min_size=1).map(tuple)
    ),
    style=st.builds(StyleConfig, layers=layers.map(tuple), relative=st.booleans()),
    balance=st.builds(BalanceConfig, content=weights, every=st.integers(1, 10**9)),
)
BASE = TrainConfig(
    photos=None,
    attention=AttentionConfig(objective="learned", channels=False),
    style=StyleConfig(layers=("relu2_1", "relu3_1")),
    balance=BalanceConfig(style=5.0),
)
#: A new value for some of the fields, by their dotted names.
CHANGES: dict[str, Any] = {
    "photos": "some/folder",
    "out": "runs/other",
    "steps": 7,
    "seed": 5,
    "size": 77,
    "encoder.weights_dir": "weights",
    "encoder.smooth": True,
    "generator.base": "photo",
    "content.layers": [["conv4_2", 1.0]],
    "attention.channels": True,
    "attention.decoder": True,
    "attention.strength": True,
    "attention.objective": "shuffled",
    "style.layers": ["relu1_1"],
    "balance.style": 0.123,
    "optimizer.lr": 0.123,
}


def changed(base: TrainConfig, names: set[str]) -> TrainConfig:
    tree = json.loads(to_json(base))
    for name in names:
        *parents, leaf = name.split(".")
        branch = tree
        for parent in parents:
            branch = branch[parent]
        branch[leaf] = CHANGES[name]
    return from_json(json.dumps(tree))


def test_every_encoder_can_be_chosen() -> None:
    for name in ENCODERS:
        assert from_json(f'{{"encoder": {{"name": "{name}"}}}}').encoder.name == name


def test_the_default_survives_json() -> None:
    assert from_json(to_json(TrainConfig())) == TrainConfig()


@few
@given(CONFIGS)
def test_every_config_survives_json(config: TrainConfig) -> None:
    again = from_json(to_json(config))
    assert again == config
    assert to_json(again) == to_json(config)
    assert differences(config, again) == []


def test_kinds_come_back_as_they_were() -> None:
    config = from_json(to_json(replace(TrainConfig(), photos=Path("a/b"))))
    assert isinstance(config.photos, Path)
    assert isinstance(config.out, Path)
    assert config.paintings is config.encoder.weights_dir is None
    assert isinstance(config.style, StyleConfig)
    hash(config)  # tuples all the way down


def test_settings_left_out_have_their_defaults() -> None:
    config = from_json('{"steps": 7, "balance": {"style": 2}}')
    assert config == replace(TrainConfig(), steps=7, balance=BalanceConfig(style=2.0))
    assert isinstance(config.balance.style, float)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"stepps": 3}', "unknown setting.* 'stepps'"),
        ('{"balance": {"sytle": 3, "b": 1}}', "unknown setting.* 'b', 'sytle'"),
        ('{"steps": "3"}', "'3' should be of type int"),
        ('{"steps": 3.0}', "3.0 should be of type int"),
        ('{"steps": true}', "True should be of type int"),
        ('{"steps": null}', "None should be of type int"),
        ('{"crop_scale": true}', "True should be of type float"),
        ('{"crop_scale": "0.5"}', "'0.5' should be of type float"),
        ('{"photos": 3}', "3 should be of type Path"),
        ('{"out": null}', "None should be of type Path"),
        ('{"recipe": 3}', "3 should be of type str"),
        ('{"attention": {"channels": 1}}', "1 should be of type bool"),
        ('{"encoder": {"name": "vgg11"}}', "'vgg11' is none of 'vgg16', .*'efficientnet_b0'"),
        ('{"encoder": {"name": ["vgg16"]}}', "is none of 'vgg16'"),
        ('{"content": {"layers": [["conv4_2", "1"]]}}', "'1' should be of type float"),
        ('{"style": {"layers": [1]}}', "1 should be of type str"),
        ('{"steps": 0}', "steps is 0"),
        ('{"steps": 1, "steps": 2}', "names a setting twice"),
        ('{"balance": {"style": NaN}}', "nan is no number of a size"),
        ('{"balance": {"style": -Infinity}}', "-inf is no number of a size"),
        ('{"balance": {"style": 1e999}}', "inf is no number of a size"),
        (f'{{"balance": {{"style": 1{"0" * 400}}}}}', "is no number of a size"),
        (f'{{"steps": 1{"0" * 5000}}}', "limit"),
        (f'{{"steps": {"[" * 100_000}', "no training configuration"),
        ('{"photos": "a\\u0000b"}', r"'a\\x00b' is no name"),
        (f'{{"recipe": "{"x" * 65}"}}', "is no name"),
        (f'{{"photos": "{"x" * 5000}"}}', "is no name"),
        ('{"a\\nb": 1}', r"unknown setting.* 'a\\nb'"),
    ],
)
def test_what_is_no_config_is_refused_in_words(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as refusal:
        from_json(text)
    assert len(str(refusal.value)) < 200
    assert len(str(refusal.value).splitlines()) == 1


@pytest.mark.parametrize("text", ["3", "null", "[1]", '"steps"', "{steps: 3}", '{"steps": 3', ""])
def test_what_is_no_object_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        from_json(text)


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        '""',
        '{"encoder": []}',
        '{"encoder": ""}',
        '{"style": {"layers": "relu1_1"}}',
        '{"style": {"layers": {"relu1_1": 1}}}',
        '{"content": {"layers": [["conv4_2"]]}}',
    ],
)
def test_a_list_or_text_is_no_object_and_text_no_list(text: str) -> None:
    with pytest.raises(ValueError, match="should be"):
        from_json(text)


@pytest.mark.parametrize("text", ["", "{steps: 3}"])
def test_what_is_no_json_is_called_no_configuration(text: str) -> None:
    with pytest.raises(ValueError, match="no training configuration"):
        from_json(text)


@few
@given(st.sets(st.sampled_from(sorted(CHANGES))))
def test_differences_are_the_fields_that_differ_and_matter(names: set[str]) -> None:
    lines = differences(BASE, changed(BASE, names))
    assert sorted(line.split(":")[0] for line in lines) == sorted(names - RUNTIME_ONLY)


def test_a_difference_shows_old_and_new() -> None:
    lines = differences(BASE, changed(BASE, {"photos", "balance.style", "style.layers"}))
    assert lines == [
        "photos: None -> some/folder",
        "style.layers: ['relu2_1', 'relu3_1'] -> ['relu1_1']",
        "balance.style: 5.0 -> 0.123",
    ]
    assert differences(BASE, replace(BASE, balance=replace(BASE.balance, style=5))) == []


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        *(
            ({name: 0}, f"{name} is 0; it must be at least 1")
            for name in (
                "steps",
                "batch_size",
                "accumulate",
                "log_every",
                "image_every",
                "save_every",
            )
        ),
        ({"steps": -5}, "steps is -5"),
        ({"size": 31}, "size is 31; crops must be at least 32"),
        ({"size": 4097}, "size is 4097; .* at most 4096"),
        ({"batch_size": 4, "accumulate": 3}, "batch_size 4 does not divide into 3"),
        *(
            (
                {"attention": AttentionConfig(objective=objective, **{use: True})},
                f"attention.{use} needs a predicted map, and objective {objective} predicts none",
            )
            for objective in ("uniform", "oracle", "saliency")
            for use in ("decoder", "strength")
            if (objective, use) != ("uniform", "decoder")
        ),
        (
            {"content": ContentConfig(kind="pixel"), "attention": BASE.attention},
            "pixel content loss has no attention",
        ),
    ],
)
def test_settings_that_contradict_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        TrainConfig(**settings)


@pytest.mark.parametrize(
    ("part", "settings", "words"),
    [
        (GeneratorConfig, {"width": -3}, r"generator\.width is -3; it must be at least 4, at most"),
        (GeneratorConfig, {"width": 10**9}, r"generator\.width is 1000000000"),
        (GeneratorConfig, {"blocks": 65}, r"generator\.blocks is 65; .* at most 64"),
        (ContentConfig, {"layers": ()}, r"content\.layers must name at least one layer"),
        (ContentConfig, {"layers": (("conv4_2", 1.0),) * 65}, r"content\.layers .* at most 64"),
        (ContentConfig, {"layers": (("conv4_2", -1.0),)}, r"content\.layers has a weight"),
        (ContentConfig, {"layers": (("conv4_2", NAN),)}, r"content\.layers has a weight"),
        (AttentionConfig, {"budget": 0.0}, r"attention\.budget is 0\.0"),
        (StyleConfig, {"layers": ()}, r"style\.layers must name at least one layer"),
        (AdversarialConfig, {"layers": 9}, r"adversarial\.layers is 9"),
        (AdversarialConfig, {"scales": 4}, r"adversarial\.scales is 4"),
        (BalanceConfig, {"tv": float("inf")}, r"balance\.tv is inf; .* at most 1e\+12"),
        (BalanceConfig, {"every": 0}, r"balance\.every is 0"),
        (OptimizerConfig, {"lr": NAN}, r"optimizer\.lr is nan"),
        (OptimizerConfig, {"ema": 1.0}, r"optimizer\.ema is 1\.0; .* at most 0\.999"),
    ],
)
def test_settings_out_of_bounds_are_refused(
    part: type, settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        part(**settings)


@pytest.mark.parametrize("objective", ["uniform", "learned", "shuffled", "joint", "gate"])
def test_the_decoder_may_use_any_predicted_map_and_an_even_one(objective: Any) -> None:
    config = TrainConfig(attention=AttentionConfig(objective=objective, decoder=True))
    assert from_json(to_json(config)) == config


def test_the_limits_themselves_are_allowed() -> None:
    config = TrainConfig(
        steps=1,
        batch_size=3,
        accumulate=3,
        size=32,
        content=ContentConfig(kind="pixel"),
        attention=AttentionConfig(objective="uniform"),
        adversarial=AdversarialConfig(scales=3),
    )
    assert from_json(to_json(config)) == config
