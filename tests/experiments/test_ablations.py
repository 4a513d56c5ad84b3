from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest
from underdrawing.experiments.ablations import ABLATIONS, variants
from underdrawing.experiments.presets import quick
from underdrawing.experiments.recipes import RECIPES, with_settings
from underdrawing.experiments.study.runs import make_run
from underdrawing.models.encoder import CONTENT_ENCODERS, ENCODERS
from underdrawing.trainers.config import TrainConfig, differences, from_json, to_json
from underdrawing.trainers.model_files import SHIPPED, build_generator
from underdrawing.trainers.networks import load_initial_model


@pytest.mark.parametrize("name", ABLATIONS)
def test_values_are_different_runs_and_one_is_the_baseline(name: str) -> None:
    found = variants([name])
    assert not found.refused
    assert list(found.recipes) == list(ABLATIONS[name].values)
    assert found.baseline in found.recipes
    assert found.control in {None, *found.recipes} - {found.baseline}
    runs = [make_run(quick(), title, recipe, 0, ()) for title, recipe in found.recipes.items()]
    assert all(differences(a.config, b.config) for a, b in combinations(runs, 2))
    assert len({run.key for run in runs}) == len(runs) > 1
    assert all(from_json(to_json(run.config)) == run.config for run in runs)


@pytest.mark.parametrize("name", ABLATIONS)
def test_baseline_is_a_row_of_the_paper_unless_settings_are_shared(name: str) -> None:
    ablation, found = ABLATIONS[name], variants([name])
    if ablation.gradient_shares or ablation.shared_settings:
        return
    row = RECIPES["attention-adversarial" if ablation.discriminator else "attention"]()
    ours, theirs = (
        make_run(quick(), "", recipe, 1, ()) for recipe in (found.recipes[found.baseline], row)
    )
    assert (ours.key, ours.start) == (theirs.key, theirs.start)


@pytest.mark.parametrize(
    ("name", "title", "recipe"),
    [
        ("paper-weights", "paper’s", "paper-weights"),
        ("balance", "gradient", "gradient-balance"),
        ("objective", "uniform", "multi-layer"),
        ("objective", "joint", "naive-attention"),
        ("adversarial", "off", "attention"),
    ],
)
def test_values_agree_with_their_recipes(name: str, title: str, recipe: str) -> None:
    assert not differences(variants([name]).recipes[title], RECIPES[recipe]())


@pytest.mark.parametrize("name", ABLATIONS)
def test_every_value_can_start_from_the_shipped_model_or_the_ablation_starts_from_nothing(
    name: str,
) -> None:
    found = variants([name])
    runs = [make_run(quick(), title, recipe, 0, ()) for title, recipe in found.recipes.items()]
    misfits = 0
    for run in runs:
        try:
            load_initial_model(build_generator(run.start), replace(run.start, init=SHIPPED))
        except ValueError:
            misfits += 1
    assert (misfits > 0) is found.from_nothing


def test_encoders_are_compared_at_existing_layers_with_gradient_shares_from_the_warmup() -> None:
    recipes = variants(["encoder"]).recipes
    assert {recipe.encoder.name for recipe in recipes.values()} == set(ENCODERS)
    for title, recipe in recipes.items():
        layers = set(ENCODERS[recipe.encoder.name].layers)
        assert {name for name, _ in recipe.content.layers} | set(recipe.style.layers) <= layers
        run = make_run(quick(), title, recipe, 0, ())
        for config in (run.config, run.start):
            assert (config.encoder, config.content) == (recipe.encoder, recipe.content)
            assert config.style.layers == recipe.style.layers
            balance = config.balance
            assert (balance.kind, balance.content, balance.style) == ("gradient", 0.3, 0.6)


def test_content_features_leave_style_and_the_shared_warmup_alone() -> None:
    found = variants(["content-features"])
    assert found.baseline == "vgg16"
    starts = set()
    for title, recipe in found.recipes.items():
        assert recipe.style == found.recipes["vgg16"].style
        own = [name.rpartition(":") for name, _ in recipe.content.layers]
        assert {name or "vgg16" for name, _, _ in own} == {title}
        layers = (ENCODERS | CONTENT_ENCODERS)[title].layers
        assert all(layer in layers for _, _, layer in own)
        starts.add(make_run(quick(), title, recipe, 0, ()).start.out)
    assert len(starts) == 1


def test_grid_has_every_combination() -> None:
    found = variants(["objective", "adversarial"])
    assert len(found.recipes) == 7 * 4
    assert found.baseline == "learned · hinge"
    off = found.recipes["uniform · off"]
    assert (off.attention.objective, off.balance.adversarial) == ("uniform", 0)
    shares = variants(["normalization", "projection"])  # one of them needs gradient shares
    assert not differences(shares.recipes["l2 · on"], RECIPES["gradient-balance"]())


def test_contradictory_combinations_are_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gate = replace(
        ABLATIONS["channels"], values={"off": {}, "on": {"attention.gates_decoder": True}}
    )
    monkeypatch.setitem(ABLATIONS, "gate", gate)
    found = variants(["objective", "gate"])
    assert "needs a predicted map" in found.refused["oracle · on"]
    assert "\n" not in found.refused["oracle · on"]
    assert found.recipes.keys() | found.refused.keys() >= {"learned · on", "oracle · on"}
    assert not found.recipes.keys() & found.refused.keys()


def test_every_pair_has_a_baseline_or_is_refused_in_one_sentence() -> None:
    refused = list[str]()
    for pair in combinations(ABLATIONS, 2):
        try:
            found = variants(pair)
            assert found.baseline in found.recipes
        except ValueError as error:
            refused.append(str(error))
    assert refused
    assert all(message.endswith("cannot be combined in a grid") for message in refused)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["color"], "no ablation color; choose from objective, budget"),
        ([], "name at least one ablation"),
        (["layers", "encoder"], "both vary content.layers"),
        (["content-weight", "style"], "content-weight, style have no common baseline"),
    ],
)
def test_wrong_names_are_explained(names: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        variants(names)


def test_with_settings_changes_only_the_named_settings() -> None:
    config = with_settings(TrainConfig(), {"steps": 7}, {"style.relative": False})
    found = differences(TrainConfig(), config)
    assert found == ["steps: 5000 -> 7", "style.relative: True -> False"]
    assert config.out == Path("runs/train")
