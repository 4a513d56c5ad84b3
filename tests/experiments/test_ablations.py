from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest
from underdrawing.experiments.ablations import ABLATIONS, variants, with_settings
from underdrawing.experiments.presets import StudyConfig, quick
from underdrawing.experiments.recipes import RECIPES
from underdrawing.experiments.study.runs import StudyRun, cell_config, warmup_config
from underdrawing.models.encoder import ENCODERS
from underdrawing.trainers.config import TrainConfig, differences, from_json, to_json


def runs(axis: str, study: StudyConfig | None = None) -> dict[str, TrainConfig]:
    recipes = variants([axis]).recipes
    return {
        title: cell_config(study or quick(), StudyRun("", r, 0)) for title, r in recipes.items()
    }


@pytest.mark.parametrize("axis", ABLATIONS)
def test_values_are_runs_that_differ_and_the_baseline_is_one(axis: str) -> None:
    found = variants([axis])
    assert not found.refused
    assert len(found.recipes) == len(ABLATIONS[axis].values) > 1
    for one, other in combinations(runs(axis).values(), 2):
        assert differences(one, other)
        assert one.out != other.out
    for config in runs(axis).values():
        assert from_json(to_json(config)) == config
    assert found.baseline in found.recipes


@pytest.mark.parametrize("axis", ["objective", "decoder", "layers", "base", "ema", "strength"])
def test_axes_of_content_share_their_baseline_with_the_table(axis: str) -> None:
    found, study = variants([axis]), quick()
    ours, rows = (
        StudyRun("", r, 1) for r in (found.recipes[found.baseline], RECIPES["attention"]())
    )
    assert cell_config(study, ours) == replace(cell_config(study, rows), recipe="attention")
    assert warmup_config(study, ours) == warmup_config(study, rows)


def test_axes_of_the_discriminator_share_theirs() -> None:
    baseline = cell_config(quick(), StudyRun("", RECIPES["attention-adversarial"](), 0))
    for name, axis in ABLATIONS.items():
        if axis.discriminator:
            assert runs(name)[variants([name]).baseline] == baseline, name


def test_values_that_are_recipes_agree_with_them() -> None:
    for axis, title, recipe in (
        ("paper-weights", "paper’s", "paper-weights"),
        ("balance", "gradient", "gradient-balance"),
        ("objective", "uniform", "multi-layer"),
        ("objective", "joint", "naive-attention"),
        ("layers", "conv4_2 alone", ""),
        ("adversarial", "off", "attention"),
    ):
        if recipe:
            assert not differences(variants([axis]).recipes[title], RECIPES[recipe]()), title


def test_every_encoder_is_compared_at_layers_that_it_has() -> None:
    recipes = variants(["encoder"]).recipes
    assert {recipe.encoder.name for recipe in recipes.values()} == set(ENCODERS)
    for recipe in recipes.values():
        layers = ENCODERS[recipe.encoder.name].layers
        assert {name for name, _ in recipe.content.layers} <= set(layers)
        assert set(recipe.style.layers) <= set(layers)


def test_encoders_are_weighed_by_gradient_shares_from_the_start_on() -> None:
    for recipe in variants(["encoder"]).recipes.values():
        start = warmup_config(quick(), StudyRun("", recipe, 0))
        for config in (recipe, start):
            balance = config.balance
            assert (balance.kind, balance.content, balance.style) == ("gradient", 0.3, 0.6)
        assert start.encoder == recipe.encoder
        assert start.content == recipe.content
        assert start.style.layers == recipe.style.layers


def test_a_model_of_one_strength_never_meets_another() -> None:
    study = replace(quick(), full_strength_prob=0.25)
    for title, share, strength in (("1 alone", 1, 1), ("0.5 alone", 1, 0.5)):
        cell = StudyRun("", variants(["strength"]).recipes[title], 0)
        for config in (cell_config(study, cell), warmup_config(study, cell)):
            assert (config.full_strength_prob, config.strength) == (share, strength)
    assert runs("strength", study)["all strengths"].full_strength_prob == 0.25


def test_a_grid_is_every_combination() -> None:
    found = variants(["objective", "adversarial"])
    assert len(found.recipes) == 7 * 4
    assert found.baseline == "learned · hinge"
    off = found.recipes["uniform · off"]
    assert (off.attention.objective, off.balance.adversarial) == ("uniform", 0)


def test_a_grid_keeps_to_shares_where_one_axis_asks_for_them() -> None:
    found = variants(["normalization", "projection"])
    assert found.baseline == "l2 · on"
    assert not differences(found.recipes["l2 · on"], RECIPES["gradient-balance"]())


def test_combinations_that_contradict_themselves_are_refused_in_words() -> None:
    found = variants(["objective", "decoder"])
    assert "needs a predicted map" in found.refused["oracle · on"]
    assert "learned · on" in found.recipes
    assert not found.recipes.keys() & found.refused.keys()


def test_mistakes_are_sentences() -> None:
    for axes, sentence in (
        (["color"], "there is no axis color; choose of objective, target"),
        ([], "name at least one axis"),
        (["layers", "encoder"], "both set content.layers"),
    ):
        with pytest.raises(ValueError, match=sentence):
            variants(axes)


def test_settings_reach_their_part_and_leave_the_rest() -> None:
    config = with_settings(TrainConfig(), {"steps": 7}, {"style.relative": False})
    assert differences(TrainConfig(), config) == [
        "steps: 2000 -> 7",
        "style.relative: True -> False",
    ]
    assert config.out == Path("runs/train")
