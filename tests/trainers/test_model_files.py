"""Finished models, also somebody else's: they load as they are, or are refused in one sentence."""

import importlib.machinery
import json
import pickle
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from underdrawing.experiments import networks, train
from underdrawing.losses.content import ContentLoss
from underdrawing.losses.style import StyleLoss
from underdrawing.models.encoder import Encoder
from underdrawing.models.pretrained import WEIGHTS, load_pretrained, sha256_of
from underdrawing.trainers.config import (
    AttentionConfig,
    GeneratorConfig,
    TrainConfig,
    encoder_taps,
    to_json,
)
from underdrawing.trainers.model_files import (
    build_encoder,
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
    """A run folder with a finished, untrained model."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(to_json(config))
    save_model(build_generator(config).state_dict(), folder)
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run")


def rewrite(run: Path, **changes: Tensor | None) -> None:
    """Somebody else's model file: a tensor replaced, added or (None) left out."""
    tensors = load_file(run / "model.safetensors") | changes
    kept = {name: tensor.clone() for name, tensor in tensors.items() if tensor is not None}
    save_file(kept, run / "model.safetensors")


def refusal(run: Path) -> str:
    with pytest.raises(ValueError) as caught:
        load_model(run)
    sentence = str(caught.value)
    assert len(sentence.splitlines()) == 1
    assert str(run) in sentence
    assert len(sentence) < 400 + 2 * len(str(run))
    return sentence


@pytest.mark.parametrize("objective", ["learned", "uniform", "gate"])
@pytest.mark.parametrize("encoder", ["vgg16", "resnet50"])
def test_what_is_saved_is_loaded(tmp_path: Path, objective: Any, encoder: Any) -> None:
    config = replace(SMALL, attention=AttentionConfig(objective=objective, channels=True))
    if encoder == "resnet50":
        config = replace(
            config,
            encoder=replace(config.encoder, name=encoder),
            content=replace(config.content, layers=(("layer3", 1.0),)),
            style=replace(config.style, layers=("stem", "layer1")),
        )
    state = load_state(make_run(tmp_path / "run", config))
    model = load_model(tmp_path / "run")
    assert model.config == config
    assert not model.generator.training
    assert all(torch.equal(state[k], v) for k, v in model.generator.state_dict().items())


@pytest.mark.parametrize(
    ("objective", "decoder", "gate", "teaches"),
    [
        ("learned", False, False, False),
        ("uniform", True, True, False),
        ("learned", True, True, False),
        ("shuffled", True, True, False),
        ("gate", False, True, True),
        ("gate", True, True, True),
    ],
)
def test_the_decoder_mixes_by_attention_if_told_to_or_by_the_gate(
    objective: Any, decoder: bool, gate: bool, teaches: bool
) -> None:
    config = replace(SMALL, attention=AttentionConfig(objective=objective, decoder=decoder))
    generator = build_generator(config)
    assert generator.gate == gate
    assert generator.gate_trains_attention == teaches


@pytest.mark.parametrize("follows", [False, True])
def test_the_strength_follows_attention_if_told_to(follows: bool) -> None:
    config = replace(SMALL, attention=AttentionConfig(strength=follows))
    assert build_generator(config).modulates_strength == follows


def test_what_it_paints_on_is_the_configs() -> None:
    assert build_generator(SMALL).base == "color"
    photo = replace(SMALL, generator=replace(SMALL.generator, base="photo"))
    assert build_generator(photo).base == "photo"


RESIDUAL = ("layer1 0.2 layer2 0.5", "stem layer1 layer2")
EFFICIENT = ("stage2 0.2 stage3 0.5 stage5 0.3", "stem stage1 stage2 stage3")


@pytest.mark.parametrize(
    ("name", "layers"),
    [("resnet50", RESIDUAL), ("efficientnet_b0", EFFICIENT), ("efficientnet_lite0", EFFICIENT)],
)
def test_other_encoders_are_asked_for_by_their_layers_on_the_command_line(
    name: str, layers: tuple[str, str], tmp_path: Path
) -> None:
    if name == "efficientnet_lite0":
        pytest.importorskip("timm")
    content, style = (part.split() for part in layers)
    config = train.parse([
        "--encoder.name", name, "--encoder.weights-dir", str(tmp_path),
        "--encoder.smooth", "True", "--generator.width", "8", "--generator.blocks", "1",
        "--content.layers", *content, "--style.layers", *style,
    ])  # fmt: skip
    torch.manual_seed(0)
    random = Encoder(name, encoder_taps(config)).net
    state = {k.removeprefix(random.weight_prefix): v for k, v in random.state_dict().items()}
    save_file(state, (tmp_path / Path(WEIGHTS[name].url).name).with_suffix(".safetensors"))

    encoder, pretrained = build_encoder(config, encoder_taps(config))
    assert pretrained.source.startswith("folder")
    assert encoder.smooth
    photo, painting = torch.rand(1, 3, 64, 64, requires_grad=True), torch.rand(1, 3, 64, 64)
    ours, theirs = encoder(photo), encoder(painting)
    compare = ContentLoss(config.content.layers)
    loss = compare(compare.squared_errors(ours, theirs))
    loss = loss + StyleLoss(config.style.layers)(ours, theirs)
    loss.sum().backward()
    assert photo.grad is not None
    assert photo.grad.isfinite().all()
    assert photo.grad.abs().sum() > 0
    assert build_generator(config).code_mean.shape == (
        6 + 2 * sum(ours[layer].shape[1] for layer in config.style.layers),
    )


def test_a_model_without_a_hash_is_loaded_too(run: Path) -> None:
    before = load_state(run)
    rewrite(run)
    assert read_tensors(run / "model.safetensors").metadata == {}
    assert all(torch.equal(load_state(run)[name], value) for name, value in before.items())


def test_a_missing_run_or_model_is_said(tmp_path: Path, run: Path) -> None:
    assert "is no run folder" in refusal(tmp_path / "absent")
    (run / "model.safetensors").unlink()
    assert "holds no finished model" in refusal(run)
    (run / "model.safetensors").mkdir()
    assert "holds no finished model" in refusal(run)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"code_mean": None}, r"'code_mean' should be \(\d+,\) and is absent"),
        ({"extra": torch.zeros(2)}, r"'extra' should be absent and is \(2,\)"),
        ({"code_mean": torch.zeros(3)}, r"'code_mean' should be \(\d+,\) and is \(3,\)"),
        ({"a\n" * 5000: torch.zeros(2)}, r"'a\\na.*\.\.\..*' should be absent"),
        ({"stem.bias": torch.full((8,), torch.nan)}, "stem.bias holds other than finite"),
        ({"stem.bias": torch.full((8,), torch.inf)}, "stem.bias holds other than finite"),
        ({"stem.bias": torch.zeros(8).double()}, "stem.bias holds other than finite float32"),
        ({"stem.bias": torch.zeros(8).long()}, "stem.bias holds other than finite float32"),
    ],
)
def test_tensors_that_do_not_fit_are_named(
    run: Path, changes: dict[str, Tensor | None], words: str
) -> None:
    rewrite(run, **changes)
    sentence = refusal(run)
    assert "model.safetensors" in sentence
    with pytest.raises(ValueError, match=words):
        load_model(run)


def test_a_flipped_weight_is_noticed(run: Path) -> None:
    path = run / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1000] ^= 1
    path.write_bytes(content)
    assert "model.safetensors is damaged" in refusal(run)


@pytest.mark.parametrize(
    "changes",
    [
        {"generator": {"width": 10**9}},
        {"generator": {"width": 4096, "blocks": 64}},
        {"generator": {"blocks": 10**9}},
        {"generator": {"width": -1}},
        {"style": {"layers": ["relu1_1"] * 10**5}},
        {"style": {"layers": ["relu9_9"]}},
        {"content": {"layers": [["x" * 60, 1.0]]}},
        {"size": 10**9},
        {"encoder": {"name": "../../vgg16"}},
        {"generator": [[[[]]]]},
    ],
    ids=str,
)
def test_a_config_that_asks_for_the_impossible_is_refused_at_once(
    run: Path, changes: dict[str, Any]
) -> None:
    load_model(run)
    (run / "config.json").write_text(json.dumps(changes))
    start = time.perf_counter()
    assert "config.json" in refusal(run)
    assert time.perf_counter() - start < 2


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\xff\xfe{}", b"\x80abc", b"[" * 900_000, b"{" * 10, b'{"steps": 1' + b"0" * 9000,
        b" " * 2_000_000, b"null", b'{"steps": NaN}', b'{"steps": 1, "steps": 2}',
    ],
    ids=range(10),
)  # fmt: skip
def test_what_is_no_config_is_refused(run: Path, content: bytes) -> None:
    (run / "config.json").write_bytes(content)
    assert "config.json" in refusal(run)


def test_a_folder_of_weights_that_is_not_here_is_not_asked_for(tmp_path: Path) -> None:
    here, elsewhere = tmp_path, Path("/home/somebody/weights")
    for folder, expected in ((here, here), (elsewhere, None), (Path("x" * 4000), None)):
        config = replace(SMALL, encoder=replace(SMALL.encoder, weights_dir=folder))
        run = make_run(tmp_path / "run", config)
        assert load_config(run).encoder.weights_dir == folder
        assert load_model(run).config.encoder.weights_dir == expected


def test_a_link_that_leads_out_of_the_run_is_not_written_through(run: Path, tmp_path: Path) -> None:
    assert own_folder(run, "codes") == run / "codes"
    (tmp_path / "outside").mkdir()
    (run / "codes").symlink_to(tmp_path / "outside")
    with pytest.raises(ValueError, match="leads out of"):
        own_folder(run, "codes")
    (tmp_path / "linked").symlink_to(run)  # the user's own link to a run is fine
    assert own_folder(tmp_path / "linked", "evaluation") == tmp_path / "linked" / "evaluation"


@pytest.mark.usefixtures("offline")
def test_style_codes_stay_in_the_run_and_fit_the_model(
    run: Path, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    painting, cpu = folders[1] / "00.png", torch.device("cpu")
    (tmp_path / "outside").mkdir()
    (run / "codes").symlink_to(tmp_path / "outside")
    code = StyleCodes(run, SMALL, cpu).of(painting)
    assert not list((tmp_path / "outside").iterdir())
    (run / "codes").unlink()
    StyleCodes(run, SMALL, cpu).of(painting)
    (kept,) = (run / "codes").iterdir()
    save_file({"code": code + 1}, kept)
    assert torch.equal(StyleCodes(run, SMALL, cpu).of(painting), code + 1)
    for unusable in (torch.zeros(1, 7), code * torch.nan):
        save_file({"code": unusable}, kept)
        assert torch.equal(StyleCodes(run, SMALL, cpu).of(painting), code)


@pytest.mark.usefixtures("offline")
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("pack", ["pickle", "torch", "legacy torch"])
def test_a_pickle_is_never_executed_whatever_it_is_offered_as(
    run: Path,
    folders: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    bomb: Any,
    pack: str,
) -> None:
    crater, weights = bomb.crater, tmp_path / "weights"
    weights.mkdir()

    def plant(path: Path) -> Path:
        path.parent.mkdir(exist_ok=True)
        if pack == "pickle":
            path.write_bytes(pickle.dumps(bomb))
        else:
            torch.save(
                {"features.0.weight": bomb}, path,
                _use_new_zipfile_serialization=pack == "torch",
            )  # fmt: skip
        return path

    # weights of the encoders, as either kind of file, also where the name's hash is right
    for name, suffix in (("vgg19", ".pth"), ("resnet50", ".safetensors")):
        plant((weights / Path(WEIGHTS[name].url).name).with_suffix(suffix))
        with pytest.raises(ValueError):
            load_pretrained(name, weights)
    path = plant(weights / "new.pth")
    path = path.rename(weights / f"vgg19-{sha256_of(path)[:8]}.pth")
    monkeypatch.setitem(WEIGHTS, "vgg19", SimpleNamespace(url=path.as_uri()))
    with pytest.raises(ValueError, match="more than tensors"):
        load_pretrained("vgg19", weights)

    # FID's network, which torch-fidelity would unpickle
    library = ModuleType("torch_fidelity")
    library.__spec__ = importlib.machinery.ModuleSpec("torch_fidelity", None)
    monkeypatch.setitem(sys.modules, "torch_fidelity", library)
    plant(weights / networks.INCEPTION_FILE)
    with pytest.raises(ValueError, match="not the file that its name says"):
        networks._inception(torch.device("cpu"), weights)

    # a kept style code: made anew
    photo = folders[0] / "00.png"
    code = StyleCodes(run, SMALL, torch.device("cpu")).of(photo)
    (kept,) = (run / "codes").iterdir()
    plant(kept)
    assert torch.equal(StyleCodes(run, SMALL, torch.device("cpu")).of(photo), code)

    # a model, a checkpoint, a configuration
    with pytest.raises(ValueError):
        read_tensors(plant(run / "checkpoints" / "step-0000001.safetensors"))
    plant(run / "model.safetensors")
    refusal(run)
    plant(run / "config.json")
    refusal(run)

    assert not crater.exists()
    if pack == "pickle":  # the bomb is real
        pickle.loads((run / "config.json").read_bytes())
        assert crater.exists()
