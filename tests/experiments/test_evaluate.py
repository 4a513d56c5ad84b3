"""Evaluation of runs and of other methods' images: same pairs, same protocol, one table."""

import csv
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from underdrawing.data.folders import read_collection
from underdrawing.data.images import save_image
from underdrawing.experiments import evaluate as module
from underdrawing.experiments.analysis.results import StudyResult, result_latex, result_markdown
from underdrawing.experiments.evaluate import EvaluateConfig, choose_pairs, command, evaluate
from underdrawing.experiments.scoring import protocol
from underdrawing.experiments.scoring.external import HEADER, read_manifest, write_manifest
from underdrawing.experiments.scoring.protocol import CONTROLS, PairPaths, make_manifest
from underdrawing.metrics.scores import MetricNetworks
from underdrawing.trainers.config import TrainConfig
from underdrawing.trainers.model_files import load_config, load_model, model_folder

CPU = torch.device("cpu")
Folders = tuple[Path, Path]
MakeRun = Callable[..., Path]


@pytest.fixture(autouse=True)
def _networks(
    pixel_networks: Callable[..., MetricNetworks], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Networks that find no weights for CFSD."""

    def make(device: torch.device, weights: Path | None, published: bool) -> MetricNetworks:
        missing = ["CFSD skipped: no weights (file)."] if published else []
        return replace(pixel_networks(), missing=missing)

    monkeypatch.setattr(module, "make_networks", make)


@pytest.fixture
def make_run(tiny: Callable[..., TrainConfig], write_model: MakeRun, tmp_path: Path) -> MakeRun:
    """``make_run("a", seed=0)``: a run whose generator transfers color and adds noise."""

    def make(name: str, seed: int = 0, **changes: object) -> Path:
        return write_model(tiny(out=tmp_path / name, **changes), residual=0.02, seed=seed)

    return make


@pytest.fixture
def pairs(folders: Folders) -> list[PairPaths]:
    photos, paintings = (sorted(folder.iterdir()) for folder in folders)
    return make_manifest(photos[:4], paintings[:3], 6)


def make_outputs(folder: Path, pairs: Sequence[PairPaths], which: int = 0) -> Path:
    """A folder of outputs that are the photos (0) or the paintings (1), with its manifest."""
    folder.mkdir()
    file = folder / "manifest.csv"
    write_manifest(file, pairs)
    for pair, output in read_manifest(file, folder).items():
        shutil.copy(pair[which], output)
    return folder


def config_for(*folders: Path, **options: Any) -> EvaluateConfig:
    manifests = tuple(folder / "manifest.csv" for folder in folders)
    settings: dict[str, Any] = {"outputs": folders, "manifest": manifests, "size": 32}
    return EvaluateConfig(device="cpu", **settings | options)


def write_record(run: Path, folders: Folders) -> None:
    """Record the images that a run was trained on."""
    images = zip(("photos", "paintings"), map(read_collection, folders), strict=True)
    record = {kind: collection.manifest() for kind, collection in images}
    (run / "manifest.json").write_text(json.dumps(record))


def values(result: StudyResult, title: str) -> dict[str, float | None]:
    (row,) = (row for row in result.full.rows if row.title == title)
    return {key: entry.measured for key, entry in row.entries.items()}


def test_copies_of_photos_and_paintings_score_like_the_controls_under_any_name(
    pairs: list[PairPaths], tmp_path: Path
) -> None:
    photos, paintings = (
        make_outputs(tmp_path / name, pairs, which) for which, name in enumerate(("a|b\nc", "b"))
    )
    result = evaluate(config_for(photos, paintings))
    assert [row.title for row in result.full.rows] == [r"a|b\nc", "b", *CONTROLS]
    assert values(result, r"a|b\nc") == values(result, "identity")
    assert values(result, "b") == values(result, "style image as output")
    assert values(result, "b") != values(result, "identity")
    assert "boundaries" not in values(result, "b")
    assert "6 pairs of the manifest, no set for KID, at 32 px." in result.full.notes
    assert "\n| a\\|b\\nc " in result_markdown(result)
    assert r"a\textbar{}b\textbackslash{}nc" in result_latex(result)


def test_boundaries_references_and_missing_metrics_are_shown(
    pairs: list[PairPaths], folders: Folders, tmp_path: Path
) -> None:
    outputs = make_outputs(tmp_path / "a", pairs)
    options = {"boundaries": folders[0], "paintings": folders[1], "published_metrics": True}
    with pytest.raises(ValueError, match="holds the photos themselves"):
        evaluate(config_for(outputs, **options))
    drawn = shutil.copytree(folders[0], tmp_path / "drawn")
    result = evaluate(config_for(outputs, **options | {"boundaries": Path(drawn)}))
    assert result.full.columns[-1].title == "boundaries kept"
    assert values(result, "a")["boundaries"] == pytest.approx(1, abs=1e-4)
    # Paintings that are no style are the reference set.
    assert f"KID against 6 other paintings of {folders[1]}" in result.full.notes[0]
    assert any("6 distinct paintings" in card.reference for card in result.full.cards)
    assert "CFSD skipped: no weights (file)." in result.full.notes


def test_written_manifest_evaluates_another_method_beside_the_run(
    make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, folder = make_run("mine"), tmp_path / "copies"
    file = folder / "manifest.csv"
    command([str(run), "--pairs", "5", "--write-manifest", str(file), "--device", "cpu"])
    assert "5 pairs" in capsys.readouterr().out
    assert not (run / "evaluation").exists()
    with file.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert list(rows[0]) == HEADER
    for row in rows:
        shutil.copy(row["photo"], folder / row["output"])
    command([str(run), "--outputs", str(folder), "--manifest", str(file), "--device", "cpu"])
    assert "At the style gap of copies" in capsys.readouterr().out
    stored = json.loads((run / "evaluation" / "table.json").read_text())
    entries = {row["title"]: row["entries"] for row in stored["full"]["rows"]}
    assert list(entries) == [str(run), "copies", *CONTROLS]
    assert entries["copies"] == entries["identity"]
    own = evaluate(EvaluateConfig((run,), pairs=5, device="cpu"))
    measured = {key: entry["measured"] for key, entry in entries[str(run)].items()}
    assert values(own, str(run)) == measured


def test_run_has_a_content_style_curve(make_run: MakeRun) -> None:
    run = make_run("mine")
    result = evaluate(EvaluateConfig((run,), pairs=4, strengths=(0.5, 1.0), device="cpu"))
    (curve,) = result.curves[str(run)]
    assert curve.strengths == (0, 0.5, 1)
    assert curve.scores[0] == result.controls["identity"]
    assert values(result, str(run))["ssim"] == curve.full.ssim
    gaps = [scores.style_gap for scores in curve.scores]
    assert gaps[1] > gaps[0] + 0.1
    assert gaps[2] > gaps[1] + 0.05
    (section,) = result.sections
    assert [row.title for row in section.table.rows] == ["0", "0.5", "1"]
    assert section.table.rows[1].entries["ssim"].measured == curve.scores[1].ssim


def test_run_is_compared_at_the_style_gap_of_another_method(
    make_run: MakeRun, pairs: list[PairPaths], tmp_path: Path
) -> None:
    """A method that equals the run at half strength is neither better nor worse."""

    def read(path: Path) -> Tensor:
        return protocol.read_squares([path], 32, CPU)

    def squared(path: Path) -> Path:
        copy = tmp_path / f"{path.parent.name}-{path.name}"
        save_image(read(path)[0], copy)
        return copy

    run = make_run("mine")
    folder = make_outputs(tmp_path / "half", [(squared(a), squared(b)) for a, b in pairs])
    stylize = protocol.trained_method(load_model(run), CPU, {"half": 0.5})
    for pair, output in read_manifest(folder / "manifest.csv", folder).items():
        batch = protocol.PairBatch([pair], *map(read, pair))
        save_image(stylize(batch)["half"][0].detach(), output)
    section = evaluate(config_for(folder, runs=(run,), strengths=(0.5, 1.0))).sections[0]
    assert section.heading == "At the style gap of half"
    assert [row.title for row in section.table.rows] == ["half", str(run)]
    strength = section.table.rows[1].entries["strength"].measured
    assert strength == pytest.approx(0.5, abs=0.01)
    by_metric = {d.key: d for d in section.differences}
    assert {"ssim"} <= by_metric.keys() <= {"ssim", "ssim_worst", "lpips"}  # too few for KID
    for difference in by_metric.values():
        assert difference.mean == pytest.approx(0, abs=2e-3)
        assert difference.pairs_interval == pytest.approx((0, 0), abs=2e-3)


def test_runs_are_compared_with_the_first_at_matched_style(
    make_run: MakeRun, folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(module, "CONTROLS", CONTROLS | {"color only": CONTROLS["identity"]})
    runs = [str(make_run(name, seed)) for seed, name in enumerate("abc")]
    command(
        [*runs, "--photos", str(folders[0]), "--paintings", str(folders[1]), "--pairs", "24",
         "--strengths", "0.5", "1.0", "--out", str(tmp_path / "out"), "--device", "cpu"]
    )  # fmt: skip
    stored = json.loads((tmp_path / "out" / "table.json").read_text())
    assert [row["title"] for row in stored["matched"]["rows"]] == runs
    compared = {(d["row"], d["against"]) for d in stored["differences"]}
    assert compared == {(runs[1], runs[0]), (runs[2], runs[0])}
    assert stored["gap"] > 0.2
    assert "At matched style:" in capsys.readouterr().out


def test_held_out_images_are_the_runs_own_wherever_they_are_and_changed_ones_are_refused(
    make_run: MakeRun, folders: Folders, tmp_path: Path
) -> None:
    moved = [Path(shutil.copytree(folder, tmp_path / folder.name)) for folder in folders]
    run = make_run("mine", photos=moved[0], paintings=moved[1])

    def choose(**options: Any) -> module.EvaluationSet:
        return choose_pairs(EvaluateConfig((run,), device="cpu", **options), [load_config(run)])

    # Without a record, folders of these names may hold any images.
    assert choose().note.startswith("9 pairs")
    write_record(run, folders)
    assert choose().note.startswith("9 held-out pairs")
    for split in ("test", "validation"):
        photos, paintings = (read_collection(folder).distinct(split) for folder in folders)
        expected = make_manifest(photos, paintings, 256)
        found = choose(split=split).pairs
        assert [(a.name, b.name) for a, b in found] == [(a.name, b.name) for a, b in expected]
        assert choose(photos=folders[0], paintings=folders[1], split=split).pairs == expected
    assert len(choose(paintings=folders[0]).pairs) > 9  # other paintings: all of them
    shutil.copy(moved[1] / "00.png", moved[0] / "new.png")
    with pytest.raises(ValueError, match=r"photos are not those .* \(1 added, 0 removed"):
        choose()


def test_row_of_the_shipped_model_does_not_name_where_the_package_is_installed() -> None:
    assert module.row_name(model_folder(Path("pretrained"))) == "pretrained"
    assert module.row_name(Path("runs/mine")) == "runs/mine"


def test_all_pairs_are_those_of_the_whole_folders(folders: Folders, tmp_path: Path) -> None:
    """Also of 40 paintings, half of which would else be the reference set."""
    for i in range(40):
        save_image(torch.full((3, 36, 36), i / 40), tmp_path / f"{i:02}.png")
    options: dict[str, Any] = {"photos": folders[0], "paintings": tmp_path, "device": "cpu"}
    chosen = choose_pairs(EvaluateConfig(all_pairs=True, pairs=3, **options), [])
    every = {(a, b) for a in folders[0].iterdir() for b in tmp_path.iterdir()}
    assert set(chosen.pairs) == every
    assert len(chosen.pairs) == 12 * 40
    assert chosen.references == []
    assert len(choose_pairs(EvaluateConfig(pairs=12 * 40, **options), []).pairs) == 12 * 20


def test_invalid_options_are_refused_before_networks_are_loaded(
    make_run: MakeRun, pairs: list[PairPaths], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "make_networks", lambda *_: pytest.fail("loaded networks"))
    run, other = make_run("mine"), make_run("other", photos=None)
    identity, partial = (make_outputs(tmp_path / name, pairs) for name in ("identity", "partial"))
    (partial / "0003.png").unlink()
    for config, message in (
        (EvaluateConfig(), "nothing to evaluate"),
        (EvaluateConfig((run, run)), "two rows are named .*mine; rename"),
        (EvaluateConfig((run,), strengths=(1.0, 0.5)), "they must rise"),
        (EvaluateConfig((run, other)), "trained on different images"),
        (config_for(identity), "two rows are named identity; rename"),
        (config_for(partial), r"0003\.png"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluate(replace(config, device="cpu"))
    for runs in ([], ["pretrained"], ["pretrained", "--photos", str(tmp_path)]):
        with pytest.raises(ValueError, match="of your own first, or both --photos and --paintings"):
            command([*runs, "--write-manifest", str(tmp_path / "new.csv"), "--device", "cpu"])
    for option in ({"pairs": 0}, {"size": 0}, {"size": 8}):
        with pytest.raises(ValueError, match="greater than or equal to"):
            EvaluateConfig(**option)  # type: ignore[arg-type]


def test_outputs_are_checked_before_the_work_and_replace_no_input(
    pairs: list[PairPaths], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "evaluate", lambda _: pytest.fail("evaluated"))
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        command([str(tmp_path), "--out", str(tmp_path / "file")])
    folder = make_outputs(tmp_path / "same", pairs)
    manifest = (folder / "manifest.csv").rename(folder / "table.csv")
    options = ["--outputs", str(folder), "--manifest", str(manifest), "--device", "cpu"]
    for place, message in (
        (["--out", str(folder)], "would overwrite the input"),
        (["--write-manifest", str(manifest)], "would overwrite the input"),
        (["--write-manifest", str(pairs[0][0])], r"must end in \.csv"),
    ):
        with pytest.raises(ValueError, match=message):
            command([*options, *place])
