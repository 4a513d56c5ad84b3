import hashlib
import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tqdm.auto import tqdm
from underdrawing.data.dataset import RawBatch
from underdrawing.data.files import locked
from underdrawing.data.folders import Collection
from underdrawing.experiments.recipes import RECIPES
from underdrawing.models.encoder import Encoder
from underdrawing.trainers import trainer
from underdrawing.trainers.checkpoint import checkpoints, saved_step
from underdrawing.trainers.config import ContentConfig, TrainConfig
from underdrawing.trainers.model_files import load_model, load_state
from underdrawing.trainers.train_step import StepImages, TrainStep
from underdrawing.trainers.trainer import Trainer, train

Tiny = Callable[..., TrainConfig]

#: Losses of five steps, recorded in float32 on a CPU (torch 2.11).
RECORDED_LOSSES = {
    "attention-adversarial": {
        "loss/content": [0.026934, 0.066962, 0.037557, 0.040260, 0.046278],
        "loss/style": [0.311081, 0.285516, 0.261699, 0.412083, 0.395301],
        "loss/adversarial": [1.628199, 0.239831, 1.390316, -0.956568, 1.771668],
        "loss/attention": [0.845806, 0.845496, 0.881671, 0.756751, 0.803193],
        "loss/discriminator": [3.098945, 2.930684, 3.106351, 4.763222, 3.673320],
    },
    "multi-layer": {
        "loss/content": [0.026934, 0.066966, 0.037553, 0.040235, 0.046260],
        "loss/style": [0.311081, 0.285509, 0.261693, 0.412070, 0.395317],
    },
}


def read_metrics(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def read_json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def recorded_split(folder: Path, cache: Path) -> Collection:
    """The images in the order of the recorded losses, whatever bytes the PNG encoder writes."""
    order = sorted(folder.iterdir(), key=lambda path: hashlib.sha1(path.name.encode()).digest())
    return Collection(tuple(order[6:]), tuple(order[3:6]), tuple(order[:3]))


def test_content_loss_on_the_features_of_another_encoder(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("timm")
    other = Encoder("dinov2_vits14", ["block1"]).net.state_dict()
    save_file(other, tmp_path / "dinov2_vits14.safetensors")
    monkeypatch.setenv("UNDERDRAWING_WEIGHTS", str(tmp_path))
    layers = (("conv3_2", 0.5), ("dinov2_vits14:block1", 0.5))
    run = train(tiny(content=ContentConfig(layers=layers)))
    about = read_json(run / "run.json")["encoder"]
    assert (about["name"], about["sha256"].count("+")) == ("vgg16+dinov2_vits14", 1)
    assert load_model(run, torch.device("cpu")).config.content.layers == layers
    assert all(0 < line["loss/content"] < 10 for line in read_metrics(run))


@pytest.mark.parametrize("recipe", RECORDED_LOSSES)
def test_losses_match_recorded_values(
    recipe: str, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "read_collection", recorded_split)
    lines = read_metrics(train(tiny(recipe, steps=5)))
    for name, values in RECORDED_LOSSES[recipe].items():
        # Where the output hardly differs from its photo, rounding is amplified in the target of A.
        tolerance = 2e-4 if name == "loss/attention" else 1e-5
        found = [line[name] for line in lines]
        assert found == pytest.approx(values, rel=1e-4, abs=tolerance), name


def test_run_directory_records_the_origin_of_data_and_weights(finished: Path) -> None:
    about, manifest = (read_json(finished / name) for name in ("run.json", "manifest.json"))
    assert len(about["encoder"]["sha256"]) == 64
    assert about["data"]["photos"] == manifest["photos"]["sha256"]
    assert {"torch", "kornia", "accelerate"} <= set(about["packages"])
    assert len(manifest["paintings"]["train"]) == 3


def test_run_resumes_with_moved_and_renamed_images_but_not_with_changed_ones(
    tiny: Tiny, finished: Path, folders: tuple[Path, Path], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    manifest = read_json(finished / "manifest.json")
    shutil.copytree(folders[0], tmp_path / "elsewhere")
    photos = [p.rename(p.with_name(f"0-{p.name}")) for p in [*(tmp_path / "elsewhere").iterdir()]]
    monkeypatch.chdir(tmp_path)
    train(tiny(photos=Path("elsewhere"), steps=3))
    assert [line["step"] for line in read_metrics(finished)] == [1, 2, 3]
    moved = read_json(finished / "manifest.json")
    assert moved["photos"]["sha256"] == manifest["photos"]["sha256"]

    photos[0].unlink()
    for path, color in ((photos[1], "blue"), (tmp_path / "elsewhere" / "new.png", "red")):
        Image.new("RGB", (40, 40), color).save(path)
    message = r"the photos are not those .*run was made with \(2 added, 2 removed\); .*--out"
    with pytest.raises(ValueError, match=message):
        train(tiny(photos=Path("elsewhere"), steps=4))
    assert saved_step(finished) == 3


def test_run_resumes_with_its_initial_model_elsewhere_or_gone_but_not_with_another(
    tiny: Tiny, finished: Path, tmp_path: Path
) -> None:
    first, other = finished.rename(tmp_path / "first"), train(tiny(seed=1, out=tmp_path / "other"))
    run = train(tiny(init=first))
    started = read_json(run / "run.json")["init"]
    moved = first.rename(tmp_path / "moved")
    train(tiny(init=moved, steps=3))

    def assert_others_are_refused() -> None:
        for init in (other, None):
            with pytest.raises(ValueError, match=r"init: .*moved -> "):
                train(tiny(init=init, steps=5))

    assert_others_are_refused()
    shutil.rmtree(moved)
    train(tiny(init=moved, steps=4))
    assert [line["step"] for line in read_metrics(run)] == [1, 2, 3, 4]
    assert read_json(run / "run.json")["init"] == started
    (run / "run.json").write_text("{")  # no record of the model it started from
    assert_others_are_refused()


def test_run_without_an_intact_checkpoint_starts_from_its_initial_model_again(
    tiny: Tiny, finished: Path, tmp_path: Path
) -> None:
    first = finished.rename(tmp_path / "first")
    run = train(tiny(init=first))
    before = load_state(run)
    (run / "model.safetensors").unlink()
    for path in checkpoints(run):
        path.write_bytes(b"")
    with pytest.warns(UserWarning, match="starting over"):
        train(tiny(init=first))
    assert all(torch.equal(value, before[key]) for key, value in load_state(run).items())


def test_other_encoder_weights_are_refused(tiny: Tiny, finished: Path) -> None:
    about = read_json(finished / "run.json")
    about["encoder"]["sha256"] = "other"
    (finished / "run.json").write_text(json.dumps(about))
    with pytest.raises(ValueError, match="started with other weights of vgg16"):
        train(tiny(steps=4))


@pytest.mark.parametrize("content", ["{", '{"data": {"photos": 1}}', "\xff"])
def test_damaged_description_is_written_again(tiny: Tiny, finished: Path, content: str) -> None:
    about = read_json(finished / "run.json")
    (finished / "run.json").write_bytes(content.encode("latin1"))
    with pytest.warns(UserWarning, match=r"run\.json is damaged; writing it again"):
        train(tiny(steps=3))
    assert read_json(finished / "run.json")["encoder"] == about["encoder"]


def test_image_grid_is_written_after_the_last_step(finished: Path) -> None:
    events = EventAccumulator(str(finished / "tensorboard")).Reload()
    (name,) = events.Tags()["images"]
    assert [image.step for image in events.Images(name)] == [2]


def test_settings_of_accelerate_do_not_apply(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "DYNAMO_BACKEND": "INDUCTOR", "MIXED_PRECISION": "bf16", "USE_FSDP": "true",
        "GRADIENT_ACCUMULATION_STEPS": "4",
    }.items():  # fmt: skip
        monkeypatch.setenv(f"ACCELERATE_{name}", value)
    trainer = Trainer(tiny())
    accelerator = trainer.accelerator
    assert accelerator.state.dynamo_plugin.backend == "NO"
    assert accelerator.distributed_type == "NO"
    assert (accelerator.mixed_precision, accelerator.gradient_accumulation_steps) == ("no", 1)
    assert trainer.networks.generator is trainer.networks.plain_generator


def test_time_estimate_leaves_out_the_slow_first_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    now, remaining = [0.0], list[float]()
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    progress = tqdm(total=6, file=io.StringIO())
    for done, seconds in enumerate((1000, 100, 1, 1, 1, 1), 1):
        now[0] += seconds
        trainer._advance(progress, done, timed=done > trainer.WARMUP)
        remaining.append((6 - progress.n) / (progress.format_dict["rate"] or 1))
    assert remaining[2:] == [3, 2, 1, 0]


@pytest.mark.parametrize("error", [RuntimeError("a bug"), KeyboardInterrupt()])
def test_failing_run_releases_all_that_it_holds(
    error: BaseException, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, step = tiny(steps=99, workers=1), TrainStep.step

    def failing(self: TrainStep, number: int, batch: RawBatch) -> StepImages | None:
        if number == 2:
            raise error
        return step(self, number, batch)

    monkeypatch.setattr(TrainStep, "step", failing)
    with pytest.raises(type(error)) as caught:
        train(config)
    assert not active_children()
    with locked(config.out / ".lock"):
        events = EventAccumulator(str(config.out / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("loss/content")] == [1, 2]
    assert caught.value is error  # whose traceback keeps the trainer alive


def test_finished_run_is_left_alone_and_more_steps_resume_it(tiny: Tiny, finished: Path) -> None:
    written = (finished / "model.safetensors").stat().st_mtime_ns
    train(tiny())
    assert (finished / "model.safetensors").stat().st_mtime_ns == written
    train(tiny(steps=3))
    assert [line["step"] for line in read_metrics(finished)] == [1, 2, 3]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path, _: path.unlink(), r"model\.safetensors missing\); writing it again"),
        (
            lambda path, whole: path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1])),
            "is damaged.*; writing it again from the last checkpoint",
        ),
    ],
)
def test_missing_or_damaged_model_of_a_finished_run_is_written_again(
    damage: Callable[[Path, bytes], object], message: str, tiny: Tiny, finished: Path
) -> None:
    path = finished / "model.safetensors"
    whole = path.read_bytes()
    damage(path, whole)
    with pytest.warns(UserWarning, match=message):
        train(tiny())
    assert path.read_bytes() == whole


@pytest.mark.usefixtures("finished")
@pytest.mark.parametrize(("name", "value"), [("steps", 1), ("size", 40)])
def test_run_of_another_configuration_is_refused(tiny: Tiny, name: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"(?s)another configuration.*{name}: .* -> {value}"):
        train(tiny(**{name: value}))


def test_run_can_start_from_another_model(
    tiny: Tiny, write_model: Callable[..., Path], tmp_path: Path
) -> None:
    start = write_model(tiny("multi-layer", out=tmp_path / "start"), residual=0.1)
    config = tiny("attention-adversarial", init=start)
    initial = Trainer(config).networks.plain_generator.state_dict()
    assert all(torch.equal(initial[key], value) for key, value in load_state(start).items())
    with pytest.raises(ValueError, match=r"differ in generator\.width"):
        train(replace(config, generator=replace(config.generator, width=16)))


def test_gradient_balance_keeps_its_shares(tiny: Tiny) -> None:
    run = train(tiny("gradient-balance", steps=3))
    balance, last = RECIPES["gradient-balance"]().balance, read_metrics(run)[-1]
    for name in ("content", "style", "adversarial"):
        assert last[f"share/{name}"] == pytest.approx(getattr(balance, name), abs=0.02)
