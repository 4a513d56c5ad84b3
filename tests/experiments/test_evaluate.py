"""Evaluation of runs and of other methods' images: same pairs, same protocol, one table."""

import csv
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from underdrawing.data.folders import read_collection
from underdrawing.data.images import save_image
from underdrawing.experiments import evaluate as module
from underdrawing.experiments.analysis.results import (
    StudyResult,
    result_latex,
    result_markdown,
)
from underdrawing.experiments.evaluate import (
    EvaluateConfig,
    choose_pairs,
    command,
    evaluate,
    row_name,
)
from underdrawing.experiments.scoring.external import HEADER, read_manifest, write_manifest
from underdrawing.experiments.scoring.protocol import (
    CONTROLS,
    PairBatch,
    PairPaths,
    make_manifest,
    read_squares,
    trained_method,
)
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
    monkeypatch.setattr(module, "make_networks", lambda *_: pixel_networks())


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


def make_outputs(folder: Path, pairs: Sequence[PairPaths], which: int) -> Path:
    """A folder of outputs that are the photos (0) or the paintings (1), with its manifest."""
    folder.mkdir()
    file = folder / "manifest.csv"
    write_manifest(file, pairs)
    for pair, output in read_manifest(file, folder).items():
        shutil.copy(pair[which], output)
    return folder


def config_for(tmp_path: Path, *folders: Path, **options: object) -> EvaluateConfig:
    config = EvaluateConfig(
        outputs=folders, manifest=tuple(folder / "manifest.csv" for folder in folders), size=32,
        out=tmp_path / "scores", device="cpu",
    )  # fmt: skip
    return replace(config, **options)  # type: ignore[arg-type]


def values(result: StudyResult, title: str) -> dict[str, float | None]:
    (row,) = (row for row in result.full.rows if row.title == title)
    return {key: entry.measured for key, entry in row.entries.items()}


def test_copies_of_photos_and_paintings_score_like_the_controls(
    pairs: list[PairPaths], tmp_path: Path
) -> None:
    photos, paintings = (
        make_outputs(tmp_path / name, pairs, which) for which, name in enumerate(("a", "b"))
    )
    result = evaluate(config_for(tmp_path, photos, paintings))
    assert [row.title for row in result.full.rows] == ["a", "b", *CONTROLS]
    assert values(result, "a") == values(result, "identity")
    assert values(result, "b") == values(result, "style image as output")
    assert values(result, "a") != values(result, "b")
    note = "6 pairs of the manifest, no set for KID, at 32 px."
    assert note in result.full.notes


def test_any_name_of_a_method_is_one_cell_of_one_line(
    pairs: list[PairPaths], tmp_path: Path
) -> None:
    result = evaluate(config_for(tmp_path, make_outputs(tmp_path / "a|b\nc", pairs, 0)))
    assert "\n| a\\|b\\nc " in result_markdown(result)
    assert r"a\textbar{}b\textbackslash{}nc" in result_latex(result)


def test_boundaries_add_a_column(pairs: list[PairPaths], tmp_path: Path) -> None:
    outputs = make_outputs(tmp_path / "a", pairs, 0)
    drawn = shutil.copytree(pairs[0][0].parent, tmp_path / "drawn")
    result = evaluate(config_for(tmp_path, outputs, boundaries=Path(drawn)))
    assert result.full.columns[-1].title == "boundaries kept"
    assert values(result, "a")["boundaries"] == pytest.approx(1, abs=1e-4)
    assert "boundaries" not in values(evaluate(config_for(tmp_path, outputs)), "a")


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


@pytest.mark.parametrize("split", ["test", "validation"])
def test_run_is_evaluated_on_its_own_held_out_images(
    split: str, make_run: MakeRun, folders: Folders, tmp_path: Path
) -> None:
    file = tmp_path / "pairs.csv"
    options = ["--split", split, "--write-manifest", str(file), "--device", "cpu"]
    command([str(make_run("mine")), *options])
    photos, paintings = (read_collection(folder).distinct(split) for folder in folders)
    assert list(read_manifest(file, tmp_path)) == make_manifest(photos, paintings, 256)


def test_run_has_a_content_style_curve(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("mine")
    config = EvaluateConfig((run,), pairs=4, strengths=(0.5, 1.0), out=tmp_path, device="cpu")
    result = evaluate(config)
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
    half = evaluate(replace(config, strengths=(0.5,)))
    assert values(half, str(run))["ssim"] == pytest.approx(curve.scores[1].ssim, rel=1e-6)


def test_run_is_compared_at_the_style_gap_of_another_method(
    make_run: MakeRun, pairs: list[PairPaths], tmp_path: Path
) -> None:
    """A method that equals the run at half strength is neither better nor worse."""

    def read(path: Path) -> Tensor:
        return read_squares([path], 32, CPU)

    def squared(path: Path) -> Path:
        copy = tmp_path / f"{path.parent.name}-{path.name}"
        save_image(read(path)[0], copy)
        return copy

    run = make_run("mine")
    folder = make_outputs(tmp_path / "half", [(squared(a), squared(b)) for a, b in pairs], 0)
    stylize = trained_method(load_model(run), CPU, {"half": 0.5})
    for pair, output in read_manifest(folder / "manifest.csv", folder).items():
        save_image(stylize(PairBatch([pair], *map(read, pair)))["half"][0].detach(), output)
    result = evaluate(config_for(tmp_path, folder, runs=(run,), strengths=(0.5, 1.0)))
    section = result.sections[0]
    assert section.heading == "At the style gap of half"
    assert [row.title for row in section.table.rows] == ["half", str(run)]
    strength = section.table.rows[1].entries["strength"].measured
    assert strength == pytest.approx(0.5, abs=0.01)
    by_metric = {d.key: d for d in section.differences}
    assert by_metric.keys() <= {"ssim", "ssim_worst", "lpips"}  # too few images for KID
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


def test_a_moved_data_set_is_the_runs_own_and_a_changed_one_is_refused(
    make_run: MakeRun, folders: Folders, tmp_path: Path
) -> None:
    moved = [Path(shutil.copytree(folder, tmp_path / folder.name)) for folder in folders]
    images = [read_collection(folder) for folder in folders]
    run = make_run("mine", photos=moved[0], paintings=moved[1])
    record = {k: c.manifest() for k, c in zip(("photos", "paintings"), images, strict=True)}
    (run / "manifest.json").write_text(json.dumps(record))

    def pairs(**options: object) -> list[PairPaths]:
        config = EvaluateConfig((run,), device="cpu", **options)  # type: ignore[arg-type]
        return choose_pairs(config, [load_config(run)]).pairs

    photos, paintings = (collection.distinct("test") for collection in images)
    expected = make_manifest(photos, paintings, 256)
    assert [(a.name, b.name) for a, b in pairs()] == [(a.name, b.name) for a, b in expected]
    assert pairs(photos=folders[0], paintings=folders[1]) == expected
    assert len(pairs(paintings=folders[0])) > len(expected)  # other paintings: all of them
    shutil.copy(moved[1] / "00.png", moved[0] / "new.png")
    with pytest.raises(ValueError, match=r"photos are not those .* \(1 added, 0 removed"):
        pairs()


def test_published_metrics_without_weights_are_named_below_the_table(
    pairs: list[PairPaths], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    pixel_networks: Callable[..., MetricNetworks],
) -> None:  # fmt: skip
    asked = []

    def make(device: torch.device, weights: Path | None, published: bool) -> MetricNetworks:
        asked.append(published)
        return replace(pixel_networks(), missing=["CFSD skipped: no weights (file)."])

    monkeypatch.setattr(module, "make_networks", make)
    folder = make_outputs(tmp_path / "same", pairs, 0)
    result = evaluate(config_for(tmp_path, folder, published_metrics=True))
    assert asked == [True]
    assert "CFSD skipped: no weights (file)." in result.full.notes


def test_paintings_that_are_no_style_are_the_reference_set(
    pairs: list[PairPaths], folders: Folders, tmp_path: Path
) -> None:
    folder = make_outputs(tmp_path / "same", pairs, 0)
    result = evaluate(config_for(tmp_path, folder, paintings=folders[1]))
    assert f"KID against 6 other paintings of {folders[1]}" in result.full.notes[0]
    assert any("6 distinct paintings" in card.reference for card in result.full.cards)


def test_row_of_the_shipped_model_does_not_name_where_the_package_is_installed() -> None:
    assert row_name(model_folder(Path("pretrained"))) == "pretrained"
    assert row_name(Path("runs/mine")) == "runs/mine"


def test_all_pairs_are_those_of_the_whole_folders(
    many: Path, folders: Folders, tmp_path: Path
) -> None:
    """Also of 40 paintings, half of which would else be the reference set."""
    config = EvaluateConfig(
        photos=folders[0], paintings=many, all_pairs=True, pairs=3, device="cpu"
    )
    chosen = choose_pairs(config, [])
    photos, paintings = (set(folder.iterdir()) for folder in (folders[0], many))
    assert set(chosen.pairs) == {(a, b) for a in photos for b in paintings}
    assert len(chosen.pairs) == 12 * 40
    assert chosen.references == []
    assert len(choose_pairs(replace(config, all_pairs=False, pairs=12 * 40), []).pairs) == 12 * 20


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """A folder of 40 distinct paintings."""
    folder = tmp_path / "many"
    folder.mkdir()
    for i in range(40):
        save_image(torch.full((3, 36, 36), i / 40), folder / f"{i:02}.png")
    return folder


def test_manifest_is_checked_before_networks_are_loaded(
    pairs: list[PairPaths], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "make_networks", lambda *_: pytest.fail("loaded networks"))
    folder = make_outputs(tmp_path / "same", pairs, 0)
    (folder / "0003.png").unlink()
    with pytest.raises(ValueError, match=r"0003\.png"):
        evaluate(config_for(tmp_path, folder))


def test_invalid_options_raise(make_run: MakeRun, pairs: list[PairPaths], tmp_path: Path) -> None:
    run, other = make_run("mine"), make_run("other", photos=None)
    folder = make_outputs(tmp_path / "identity", pairs, 0)
    for config, message in (
        (EvaluateConfig(), "nothing to evaluate"),
        (EvaluateConfig((run, run)), "two rows are named .*mine; rename"),
        (EvaluateConfig((run,), strengths=(1.0, 0.5)), "they must rise"),
        (EvaluateConfig((run, other)), "trained on different images"),
        (config_for(tmp_path, folder), "two rows are named identity; rename"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluate(replace(config, device="cpu"))
    for runs in ([], ["pretrained"], ["pretrained", "--photos", str(tmp_path)]):
        with pytest.raises(ValueError, match="of your own first, or both --photos and --paintings"):
            command([*runs, "--write-manifest", str(tmp_path / "new.csv"), "--device", "cpu"])


def test_only_images_of_the_runs_record_are_called_held_out(
    make_run: MakeRun, folders: Folders
) -> None:
    """Without a record, folders of these names may hold any images."""
    run = make_run("mine")
    images = zip(("photos", "paintings"), map(read_collection, folders), strict=True)
    config = EvaluateConfig((run,), device="cpu")
    assert "9 pairs" in choose_pairs(config, [load_config(run)]).note
    (run / "manifest.json").write_text(json.dumps({k: c.manifest() for k, c in images}))
    assert "9 held-out pairs" in choose_pairs(config, [load_config(run)]).note


@pytest.mark.parametrize("option", [{"pairs": 0}, {"size": 0}, {"size": -5}, {"size": 8}])
def test_options_out_of_bounds_are_refused(option: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="greater than or equal to"):
        EvaluateConfig(**option)  # type: ignore[arg-type]


def test_a_file_as_output_folder_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "evaluate", lambda _: pytest.fail("evaluated"))
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        command([str(tmp_path), "--out", str(tmp_path / "file")])


def test_no_manifest_is_overwritten(pairs: list[PairPaths], tmp_path: Path) -> None:
    folder = make_outputs(tmp_path / "same", pairs, 0)
    manifest = (folder / "manifest.csv").rename(folder / "table.csv")
    options = ["--outputs", str(folder), "--manifest", str(manifest), "--device", "cpu"]
    for place in (["--out", str(folder)], ["--write-manifest", str(manifest)]):
        with pytest.raises(ValueError, match="would overwrite the input"):
            command([*options, *place])
    with pytest.raises(ValueError, match=r"must end in \.csv"):
        command([*options, "--write-manifest", str(pairs[0][0])])
