import json
import pickle
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from underdrawing.experiments.scoring.networks import INCEPTION_FILE, make_networks
from underdrawing.trainers.config import (
    AttentionConfig,
    ContentConfig,
    EncoderConfig,
    GeneratorConfig,
    StyleConfig,
    TrainConfig,
    to_json,
)
from underdrawing.trainers.model_files import (
    build_generator,
    load_config,
    load_model,
    load_state,
    own_folder,
    save_model,
)
from underdrawing.trainers.style_codes import StyleCodes
from underdrawing.trainers.tensor_files import read_tensors

SMALL = TrainConfig(
    generator=GeneratorConfig(width=8, blocks=1), attention=AttentionConfig(channels=True)
)


def make_run(folder: Path, config: TrainConfig = SMALL) -> Path:
    """Write a run directory with an untrained model."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(to_json(config))
    save_model(build_generator(config).state_dict(), folder)
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run")


def rewrite(run: Path, **changes: Tensor | None) -> None:
    """Rewrite the model file without a hash; tensors are replaced, added or (None) removed."""
    tensors = load_file(run / "model.safetensors") | changes
    remaining = {name: tensor.clone() for name, tensor in tensors.items() if tensor is not None}
    save_file(remaining, run / "model.safetensors")


def load_error(run: Path) -> str:
    """Return the error of ``load_model``, which must be short, on one line, and name the run."""
    with pytest.raises(ValueError) as caught:
        load_model(run)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert str(run) in message
    assert len(message) < 400 + 2 * len(str(run))
    return message


@pytest.mark.parametrize(
    ("changes", "built"),
    [
        ({}, {"gates_decoder": False, "modulates_strength": False}),
        ({"attention": AttentionConfig(objective="uniform", gates_decoder=True)},
         {"attention": None, "gates_decoder": True}),
        ({"attention": AttentionConfig(gates_decoder=True, channels=True)},
         {"gates_decoder": True, "gate_trains_attention": False}),
        ({"attention": AttentionConfig(objective="gate")},
         {"gates_decoder": True, "gate_trains_attention": True}),
        ({"attention": AttentionConfig(modulates_strength=True)}, {"modulates_strength": True}),
        ({"generator": GeneratorConfig(width=12, blocks=3, noise=False, base="channelwise")},
         {"base": "channelwise"}),
        ({"encoder": EncoderConfig(name="resnet50"), "style": StyleConfig(layers=("stem",)),
          "content": ContentConfig(layers=(("layer2", 1.0), ("layer3", 0.5)))}, {}),
    ],
)  # fmt: skip
def test_model_is_built_by_its_config_and_read_back(
    tmp_path: Path, changes: dict[str, Any], built: dict[str, Any]
) -> None:
    config = replace(SMALL, **changes)
    state = load_state(make_run(tmp_path / "run", config))
    model = load_model(tmp_path / "run")
    assert model.config == config
    assert not model.generator.training
    assert all(torch.equal(state[k], v) for k, v in model.generator.state_dict().items())
    assert {name: getattr(model.generator, name) for name in built} == built
    noise = model.generator.make_noise(torch.empty(1, 8, 4, 4))
    assert (noise is not None) == config.generator.noise


def test_missing_run_or_model_is_named(tmp_path: Path, run: Path) -> None:
    assert "not a run directory" in load_error(tmp_path / "absent")
    (run / "model.safetensors").unlink()
    assert "no finished model in" in load_error(run)


def test_run_with_the_first_generator_is_refused(run: Path) -> None:
    rewrite(run, **{"trunk.weight": torch.zeros(8, 8, 3, 3), "trunk8.weight": None})
    assert "does not fit" in load_error(run)
    settings = json.loads((run / "config.json").read_text())
    del settings["generator"]["noise"], settings["generator"]["base"]
    (run / "config.json").write_text(json.dumps(settings, indent=2))
    message = load_error(run)
    assert "made by an older version of underdrawing" in message
    assert message.endswith("train it again")


def test_model_in_half_precision_is_loaded_in_float32(run: Path) -> None:
    state = load_state(run)
    save_model({name: tensor.half() for name, tensor in state.items()}, run)
    for name, tensor in load_state(run).items():
        assert torch.equal(tensor, state[name].half().float())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"code_mean": None}, r"'code_mean' should be \(\d+,\), but is absent"),
        ({"extra": torch.zeros(2)}, r"'extra' should be absent, but is \(2,\)"),
        ({"code_mean": torch.zeros(3)}, r"'code_mean' should be \(\d+,\), but is \(3,\)"),
        ({"a\n" * 5000: torch.zeros(2)}, r"'a\\na.*\.\.\..*' should be absent"),
        ({"trunk8.bias": torch.full((8,), torch.nan)}, r"trunk8\.bias is not finite float16"),
        ({"trunk8.bias": torch.zeros(8).double()}, r"trunk8\.bias is not finite float16"),
    ],
)
def test_misfit_tensors_are_named(run: Path, changes: dict[str, Tensor | None], words: str) -> None:
    rewrite(run, **changes)
    message = load_error(run)
    assert "model.safetensors" in message
    assert re.search(words, message)


@pytest.mark.parametrize(
    "changes",
    [
        {"generator": {"width": 4096, "blocks": 64}},  # valid, but not this model's
        {"style": {"layers": ["relu1_1"] * 10**5}},
        {"style": {"layers": ["relu9_9"]}},
        {"encoder": {"name": "../../vgg16"}},
    ],
    ids=str,
)
def test_config_of_another_model_is_refused(run: Path, changes: dict[str, Any]) -> None:
    (run / "config.json").write_text(json.dumps(changes))
    assert "config.json" in load_error(run)


def test_weights_dir_is_dropped_if_absent(tmp_path: Path) -> None:
    for folder, kept in ((tmp_path, True), (Path("/nobody"), False), (Path("x" * 4000), False)):
        config = replace(SMALL, encoder=replace(SMALL.encoder, weights_dir=folder))
        run = make_run(tmp_path / "run", config)
        assert load_config(run).encoder.weights_dir == folder
        assert load_model(run).config.encoder.weights_dir == (folder if kept else None)


def test_own_folder_refuses_a_link_out_of_the_run(run: Path, tmp_path: Path) -> None:
    assert own_folder(run, "codes") == run / "codes"
    (tmp_path / "outside").mkdir()
    (run / "codes").symlink_to(tmp_path / "outside")
    with pytest.raises(ValueError, match="is a link to a place outside"):
        own_folder(run, "codes")
    (tmp_path / "linked").symlink_to(run)  # a link to the run itself is fine
    assert own_folder(tmp_path / "linked", "evaluation") == tmp_path / "linked" / "evaluation"


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("pack", ["pickle", "torch", "legacy torch"])
def test_pickles_are_never_executed(
    run: Path, folders: tuple[Path, Path], unpickle_bomb: Any, pack: str
) -> None:
    def plant(path: Path) -> Path:
        path.parent.mkdir(exist_ok=True)
        if pack == "pickle":
            path.write_bytes(pickle.dumps(unpickle_bomb))
        else:
            torch.save({"features.0.weight": unpickle_bomb}, path,
                       _use_new_zipfile_serialization=pack == "torch")  # fmt: skip
        return path

    painting, cpu = folders[1] / "00.png", torch.device("cpu")
    code = StyleCodes(run, SMALL, cpu).code(painting)
    (cached,) = (run / "codes").iterdir()
    plant(cached)
    assert torch.equal(StyleCodes(run, SMALL, cpu).code(painting), code)

    with pytest.raises(ValueError):
        read_tensors(plant(run / "checkpoints" / "step-0000001.safetensors"))
    plant(run / "model.safetensors")
    load_error(run)
    plant(run / "config.json")
    load_error(run)

    assert not unpickle_bomb.directory.exists()
    if pack == "pickle":  # the bomb works
        pickle.loads((run / "config.json").read_bytes())
        assert unpickle_bomb.directory.exists()


@pytest.mark.usefixtures("offline", "single_network")
def test_pickled_inception_weights_are_not_loaded(tmp_path: Path, unpickle_bomb: Any) -> None:
    pytest.importorskip("torch_fidelity")  # unpickles its weights file
    torch.save(unpickle_bomb, tmp_path / INCEPTION_FILE)
    with pytest.raises(ValueError, match=INCEPTION_FILE):
        make_networks(torch.device("cpu"), tmp_path)
    assert not unpickle_bomb.directory.exists()
