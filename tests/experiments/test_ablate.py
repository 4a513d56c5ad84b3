import json
import shlex
from dataclasses import replace

import pytest
import torch
from underdrawing.data.files import write_atomic
from underdrawing.experiments import ablate as module
from underdrawing.experiments.ablate import AblateConfig, ablate, command, make_tables
from underdrawing.experiments.ablations import ABLATIONS, Ablation
from underdrawing.experiments.presets import StudyConfig
from underdrawing.experiments.report import report
from underdrawing.experiments.scoring.protocol import CONTROLS
from underdrawing.experiments.study import queue, scores
from underdrawing.trainers.config import TrainConfig, to_json
from underdrawing.trainers.model_files import build_generator, save_model

Trained = list[str]


@pytest.fixture
def study(
    small_study: StudyConfig, vgg16_alone: None, monkeypatch: pytest.MonkeyPatch
) -> StudyConfig:
    """A study on a machine with the weights of VGG16 alone, with a report without images."""
    monkeypatch.setattr(report, "study_samples", lambda *_: [])
    monkeypatch.setattr(report, "draw_figures", lambda *_: {})
    monkeypatch.setattr(module, "time_step", lambda _: 60.0)
    return replace(small_study, pairs=2, strengths=(1.0,))


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> Trained:
    """Recipes and seeds of the runs trained from now on, warm-ups apart; the model of a "trained"
    run is its initialization. The fourth run is interrupted.
    """
    names: Trained = []

    def pretend(config: TrainConfig) -> None:
        if (config.out / "model.safetensors").exists():
            return
        if config.init:
            names.append(f"{config.attention.objective} {config.attention.budget:g} {config.seed}")
            if len(names) == 4:
                raise KeyboardInterrupt
        torch.manual_seed(config.seed)
        save_model(build_generator(config).state_dict(), config.out)
        write_atomic(config.out / "config.json", to_json(config))
        checkpoint = config.out / "checkpoints" / f"step-{config.steps:08}.safetensors"
        write_atomic(checkpoint, b"")

    monkeypatch.setattr(queue, "train", pretend)
    return names


def test_ablations_share_their_baseline_and_resume_after_an_interruption(
    study: StudyConfig, trained: Trained, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    two = {"learned": {}, "uniform": {"attention.objective": "uniform"}}
    monkeypatch.setitem(ABLATIONS, "objective", Ablation("Which objective?", two))
    monkeypatch.setitem(ABLATIONS, "budget", replace(ABLATIONS["budget"], control="2"))
    config = AblateConfig(("objective", "budget"), study=replace(study, seeds=2))
    with pytest.raises(KeyboardInterrupt):
        ablate(config)
    assert "8 runs (8 pending), 10 trainings with warm-ups: about" in capsys.readouterr().err
    results, failures = ablate(config)
    assert failures == {}
    assert "8 runs (3 done, 5 pending), 6 trainings" in capsys.readouterr().err
    assert trained == [
        "learned 0.5 1000", "uniform 0.5 1000", "learned 0.1 1000", "learned 2 1000",
        "learned 2 1000", "learned 0.5 1001", "uniform 0.5 1001", "learned 0.1 1001",
        "learned 2 1001",
    ]  # fmt: skip

    objective, budget = results
    assert [row.title for row in objective.full.rows] == ["learned", "uniform", *CONTROLS]
    values = list(ABLATIONS["budget"].values)
    assert [row.title for row in budget.full.rows] == [*values, *CONTROLS]
    assert {(d.row, d.against) for d in budget.differences} == {
        ("0.1", "0.5"), ("2", "0.5"), ("0.1", "2"),
    }  # fmt: skip
    assert objective.curves["learned"] == budget.curves["0.5"]
    assert budget.full.rows[0].entries["ssim"].half_interval is not None  # two seeds
    assert budget.full.notes[0] == f"budget: {ABLATIONS['budget'].question}"
    assert all(e.paper is None for row in budget.full.rows for e in row.entries.values())
    page = (study.out / "report.html").read_text()
    for name in config.ablations:
        assert {"table.md", "table.csv", "table.json"} == {
            path.name for path in (study.out / name).iterdir()
        }
        assert ABLATIONS[name].question in page
        assert f"{name}-table.tex" in {path.name for path in (study.out / "paper").iterdir()}
    record = json.loads((study.out / "paper" / "record.json").read_text())
    assert module.parse(shlex.split(record["command"])[2:]) == config

    monkeypatch.setattr(report, "write_report", lambda *_: None)
    ablate(config)  # nothing is timed, trained or scored again
    assert "8 runs (8 done), 0 trainings with warm-ups\n" in capsys.readouterr().err
    assert len(trained) == 9


def arguments(study: StudyConfig) -> list[str]:
    """Return the study as on the command line."""
    options = [
        "--photos", study.photos, "--paintings", study.paintings, "--out", study.out, "--warmup", 1,
        "--steps", 1, "--size", 32, "--batch-size", 2, "--pairs", 2, "--strengths", 1, "--device",
        "cpu", "--workers", 0, "--init", None, "--generator.width", 8, "--generator.blocks", 1,
    ]  # fmt: skip
    return [*map(str, options), "--precision", "fp32"]


@pytest.mark.usefixtures("trained")
def test_encoders_without_weights_are_skipped_and_the_others_start_from_random_weights(
    study: StudyConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports = list[tuple[object, ...]]()
    monkeypatch.setattr(report, "write_report", lambda *of: reports.append(of))
    options = arguments(study)
    options[options.index("--init") + 1] = "pretrained"
    command(["encoder", *options])
    table = json.loads((study.out / "encoder" / "table.json").read_text())
    assert list(table["curves"]) == ["vgg16"]
    assert set(table["skipped"]) == set(ABLATIONS["encoder"].values) - {"vgg16"}
    assert all(why.startswith("skipped: no weights for ") for why in table["skipped"].values())
    text = (study.out / "encoder" / "table.md").read_text()
    assert "vgg19: skipped: no weights" in text
    assert "shared by the rows, from random weights" in text  # not from the model of --init
    ((*_, sha256),) = reports
    assert isinstance(sha256, dict)
    assert sha256["initial model"] is None


def test_a_failed_run_leaves_the_others_and_exits_with_1(
    study: StudyConfig, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend = vars(queue)["train"]

    def fail_one(config: TrainConfig) -> None:
        if config.attention.channels:
            raise ValueError("the disk is full")
        pretend(config)

    monkeypatch.setattr(queue, "train", fail_one)
    monkeypatch.setattr(report, "write_report", lambda *_: None)
    with pytest.raises(SystemExit) as exit_:
        command(["channels", *arguments(study)])
    assert exit_.value.code == "underdrawing: channels: on, seed 0, failed: the disk is full"
    assert len(trained) == 1
    table = json.loads((study.out / "channels" / "table.json").read_text())
    assert list(table["curves"]) == ["off"]
    assert table["skipped"] == {"on": "channels: on, seed 0, failed: the disk is full"}


def test_dry_run_lists_the_runs_and_trains_none(
    study: StudyConfig, trained: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    config = AblateConfig(("encoder", "budget"), dry_run=True, study=study)
    assert ablate(config) == ([], {})
    *lines, last = capsys.readouterr().out.splitlines()
    states = {line.rpartition("  ")[2]: line.split("  ")[1].strip() for line in lines}
    assert states["budget: 2"] == states["encoder: vgg16"] == "pending"
    assert states["encoder: resnet50"] == "skipped: no weights"
    tables = make_tables(config, scores.make_scorer(study).data)
    assert [line.split()[0] for line in lines] == list(module.distinct_runs(tables))
    assert "9 runs (4 pending, 5 skipped: no weights), 6 trainings with warm-ups" in last
    assert "about 6 minutes (60 s/step in a trial" in last
    assert trained == []
    assert not study.out.exists()
    with pytest.raises(ValueError, match="both vary content"):
        command(["layers", "encoder", "--grid", "--photos", "nowhere", "--out", str(study.out)])
    assert not study.out.exists()


def test_grid_and_repeated_ablations_are_one_table(study: StudyConfig) -> None:
    assert len(make_tables(AblateConfig(("budget", "budget"), study=study), ())) == 1
    (table,) = make_tables(AblateConfig(("objective", "channels"), grid=True, study=study), ())
    assert table.name == "objective+channels"
    assert table.variants.baseline == "learned · off"
    assert len(table.rows) == 14


def test_help_lists_the_ablations(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    for name, ablation in ABLATIONS.items():
        assert f"{name}: {ablation.question}" in text
