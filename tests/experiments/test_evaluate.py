"""Scoring runs and anybody's pictures: the same pairs, the same protocol, one table."""

import csv
import json
import shutil
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor
from underdrawing.data.folders import read_collection
from underdrawing.data.images import save_image
from underdrawing.experiments import evaluate as module
from underdrawing.experiments.analysis.results import StudyResult
from underdrawing.experiments.evaluate import EvaluateConfig, command, evaluate
from underdrawing.experiments.scoring.external import (
    HEADER,
    is_same_view,
    read_manifest,
    write_manifest,
)
from underdrawing.experiments.scoring.protocol import (
    CONTROLS,
    Batch,
    PairPaths,
    make_manifest,
    read_squares,
    trained_painter,
)
from underdrawing.metrics.perceptual import LPIPS_LAYERS, lpips_vector
from underdrawing.metrics.scores import FeatureExtractor, MetricNetworks
from underdrawing.metrics.style_gap import ACTIVATION_STD, style_vector
from underdrawing.trainers.config import TrainConfig, to_json
from underdrawing.trainers.model_files import build_generator, load_model, save_model

Folders = tuple[Path, Path]
Run = Callable[..., Path]


@pytest.fixture(autouse=True)
def networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Judges that see the picture itself, so that colors are all of its style."""

    def network(images: Tensor, layers: Collection[str]) -> dict[str, Tensor]:
        return {layer: ACTIVATION_STD.get(layer, 1.0) * images for layer in layers}

    heads, words = [torch.ones(3)] * len(LPIPS_LAYERS), ("toy", "")
    toy = MetricNetworks(
        style=FeatureExtractor(network, ACTIVATION_STD, style_vector, words),
        perceptual=FeatureExtractor(network, LPIPS_LAYERS, lambda x: lpips_vector(x, heads), words),
        pooled=FeatureExtractor(network, ["relu4_3"], lambda x: x["relu4_3"].mean(dim=(2, 3)), words),
        lpips_name="LPIPS", frechet_name="Fréchet (toy)", kernel_name="KID (toy)",
    )  # fmt: skip
    monkeypatch.setattr(module, "make_judges", lambda *_: toy)


@pytest.fixture
def make_run(tiny: Callable[..., TrainConfig], tmp_path: Path) -> Run:
    """``make_run("a", seed=0)``: a run folder whose generator matches colors and adds noise."""

    def make(name: str, seed: int = 0, **changes: object) -> Path:
        config = tiny(out=tmp_path / name, **changes)
        torch.manual_seed(seed)
        generator = build_generator(config)
        torch.nn.init.normal_(generator.paint.conv.weight, std=0.02)
        config.out.mkdir()
        save_model(generator.state_dict(), config.out)
        (config.out / "config.json").write_text(to_json(config))
        return config.out

    return make


@pytest.fixture
def pairs(folders: Folders) -> list[PairPaths]:
    photos, paintings = (sorted(folder.iterdir()) for folder in folders)
    return make_manifest(photos[:4], paintings[:3], 6)


def fill(folder: Path, pairs: Sequence[PairPaths], which: int) -> Path:
    """A folder of outputs that are the photos (0) or the paintings (1), with its manifest."""
    folder.mkdir()
    file = folder / "manifest.csv"
    write_manifest(file, pairs)
    for pair, output in read_manifest(file, folder).items():
        shutil.copy(pair[which], output)
    return folder


def config_of(tmp_path: Path, *systems: Path, **options: object) -> EvaluateConfig:
    config = EvaluateConfig(
        outputs=systems, manifest=tuple(folder / "manifest.csv" for folder in systems), size=32,
        out=tmp_path / "scores", device="cpu",
    )  # fmt: skip
    return replace(config, **options)  # type: ignore[arg-type]


def figures(result: StudyResult, title: str) -> dict[str, float | None]:
    (line,) = (line for line in result.full.lines if line.title == title)
    return {key: figure.measured for key, figure in line.figures.items()}


def test_photos_as_outputs_score_as_identity_and_paintings_as_themselves(
    pairs: list[PairPaths], tmp_path: Path
) -> None:
    systems = [fill(tmp_path / name, pairs, which) for which, name in enumerate(("same", "swap"))]
    found = evaluate(config_of(tmp_path, *systems))
    assert [line.title for line in found.full.lines] == ["same", "swap", *CONTROLS]
    assert figures(found, "same") == figures(found, "identity")
    assert figures(found, "swap") == figures(found, "style image as output")
    assert figures(found, "same") != figures(found, "swap")
    assert [line.note for line in found.full.lines[:2]] == ["did not stylize"] * 2  # all is color
    assert "6 pairs of the manifest, KID against the 3 paintings of the manifest, at 32 px." in (
        found.full.notes
    )


def test_the_order_of_a_manifest_changes_no_figure(pairs: list[PairPaths], tmp_path: Path) -> None:
    mixed = [(photo, painting) for painting, photo in pairs[::-1]]  # painted photos of paintings
    straight = fill(tmp_path / "straight", mixed, 1)
    system = fill(tmp_path / "system", mixed[::-1], 1)
    alone = evaluate(config_of(tmp_path, system))
    beside = evaluate(config_of(tmp_path, straight, system))
    for title in ("system", "color only"):
        for key in ("ssim", "ssim_worst", "lpips", "style_gap"):
            ours, theirs = figures(beside, title)[key], figures(alone, title)[key]
            assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-5)
    assert figures(beside, "straight") == figures(beside, "system")


def test_the_round_trip_with_a_run_beside(
    make_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, file, folder = make_run("mine"), tmp_path / "copies" / "manifest.csv", tmp_path / "copies"
    command([str(run), "--pairs", "5", "--write-manifest", str(file), "--device", "cpu"])
    assert "5 pairs" in capsys.readouterr().out
    assert not (run / "evaluation").exists()
    with file.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert list(rows[0]) == HEADER
    assert [row["output"] for row in rows] == [f"{i:04}.png" for i in range(5)]
    for row in rows:
        shutil.copy(row["photo"], folder / row["output"])
    command([str(run), "--outputs", str(folder), "--manifest", str(file), "--device", "cpu"])
    printed = capsys.readouterr().out
    assert "At the style gap of copies" in printed
    tree = json.loads((run / "evaluation" / "table.json").read_text())
    lines_by_title = {line["title"]: line["figures"] for line in tree["full"]["lines"]}
    assert list(lines_by_title) == [str(run), "copies", *CONTROLS]
    assert lines_by_title["copies"] == lines_by_title["identity"]
    own = evaluate(EvaluateConfig((run,), pairs=5, device="cpu"))
    assert figures(own, str(run)) == {
        key: figure["measured"] for key, figure in lines_by_title[str(run)].items()
    }


def test_a_run_is_scored_on_the_test_pictures_of_its_own_or_on_the_validation_ones(
    make_run: Run, folders: Folders, tmp_path: Path
) -> None:
    run, file = make_run("mine"), tmp_path / "pairs.csv"
    for split in ("test", "validation"):
        options = ["--split", split, "--write-manifest", str(file), "--device", "cpu"]
        command([str(run), *options])
        photos, paintings = (getattr(read_collection(folder), split) for folder in folders)
        assert list(read_manifest(file, tmp_path)) == make_manifest(photos, paintings, 256)


def test_a_run_gives_its_whole_curve(make_run: Run, tmp_path: Path) -> None:
    run = make_run("mine")
    config = EvaluateConfig((run,), pairs=4, strengths=(0.5, 1.0), out=tmp_path, device="cpu")
    found = evaluate(config)
    (curve,) = found.curves[str(run)]
    assert curve.strengths == (0, 0.5, 1)
    assert curve.scores[0] == found.controls["identity"]
    assert figures(found, str(run))["ssim"] == curve.full.ssim
    gaps = curve.figure("style_gap")
    assert (gaps[1:] > gaps[:-1] + 0.1).all()
    (section,) = found.more
    assert [line.title for line in section.table.lines] == ["0", "0.5", "1"]
    assert section.table.lines[1].figures["ssim"].measured == curve.scores[1].ssim
    half = evaluate(replace(config, strengths=(0.5,)))
    assert figures(half, str(run))["ssim"] == pytest.approx(curve.scores[1].ssim, rel=1e-6)
    assert found.full.notes[1].startswith("Runs at strengths 0.5, 1,")


def test_a_run_is_read_at_the_style_gap_of_a_system(
    make_run: Run, pairs: list[PairPaths], tmp_path: Path
) -> None:
    """A system that paints as the run does at half its strength is neither better nor worse."""

    def square(path: Path) -> Tensor:
        return read_squares([path], 32, torch.device("cpu"))

    def squared(path: Path) -> Path:
        """A copy that the evaluation takes as it is."""
        copy = tmp_path / f"{path.parent.name}-{path.name}"
        save_image(square(path)[0], copy)
        return copy

    run = make_run("mine")
    folder = fill(tmp_path / "half", [(squared(a), squared(b)) for a, b in pairs], 0)
    stylizer = trained_painter(load_model(run), torch.device("cpu"), {"half": 0.5})
    for pair, output in read_manifest(folder / "manifest.csv", folder).items():
        painted = stylizer(Batch([pair], *map(square, pair)))["half"]
        save_image(painted[0], output)
    found = evaluate(config_of(tmp_path, folder, runs=(run,), strengths=(0.5, 1.0)))
    section = found.more[0]
    assert section.heading == "At the style gap of half"
    assert [line.title for line in section.table.lines] == ["half", str(run)]
    assert section.table.lines[1].figures["strength"].measured == pytest.approx(0.5, abs=0.01)
    by_figure = {d.key: d for d in section.differences}
    for key in ("ssim", "ssim_worst", "lpips"):
        assert by_figure[key].mean == pytest.approx(0, abs=2e-3)
        assert by_figure[key].pairs_interval == pytest.approx((0, 0), abs=2e-3)
    assert by_figure.keys() <= {"ssim", "ssim_worst", "lpips"}  # too few pictures for KID


def test_several_runs_are_compared_with_the_first_at_matched_style(
    make_run: Run, folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(module, "CONTROLS", CONTROLS | {"color only": CONTROLS["identity"]})
    runs = [str(make_run(name, seed)) for seed, name in enumerate("abc")]
    command(
        [*runs, "--photos", str(folders[0]), "--paintings", str(folders[1]), "--pairs", "24",
         "--strengths", "0.5", "1.0", "--out", str(tmp_path / "out"), "--device", "cpu"]
    )  # fmt: skip
    tree = json.loads((tmp_path / "out" / "table.json").read_text())
    assert [line["title"] for line in tree["matched"]["lines"]] == runs
    assert {(d["row"], d["against"]) for d in tree["differences"]} == {
        (runs[1], runs[0]), (runs[2], runs[0])
    }  # fmt: skip
    ssim = next(d for d in tree["differences"] if d["key"] == "ssim")
    assert tree["at"] > 0.2
    assert ssim["half_interval"] is None
    assert ssim["pairs_interval"][0] < ssim["mean"] < ssim["pairs_interval"][1]
    printed = capsys.readouterr().out
    assert "At matched style:" in printed
    assert "one seed" in printed
    assert "one seed each" in (tmp_path / "out" / "table.md").read_text()


def write_rows(file: Path, *rows: Sequence[object]) -> None:
    with file.open("w", newline="") as lines:
        csv.writer(lines).writerows([HEADER, *rows])


def test_names_are_relative_to_the_manifest_or_to_the_folders_named(
    folders: Folders, tmp_path: Path
) -> None:
    photos, paintings = folders
    file, out = photos.parent / "pairs.csv", tmp_path / "out"
    write_rows(file, ["photos/00.png", "paintings/01.png", "x.png"])
    expected = {(photos / "00.png", paintings / "01.png"): out / "x.png"}
    assert read_manifest(file, out) == expected
    other = tmp_path / "pairs.csv"
    write_rows(other, ["00.png", "01.png", "x.png"])
    assert read_manifest(other, out, *folders) == expected
    write_rows(other, [photos / "00.png", paintings / "01.png", out / "x.png"])
    assert read_manifest(other, Path("elsewhere"), *reversed(folders)) == expected


def test_a_manifest_may_be_a_spreadsheets(folders: Folders, tmp_path: Path) -> None:
    file = tmp_path / "pairs.csv"
    lines = ["\ufeff" + ",".join(HEADER), '"/a, b/1.png",/c/2.png,é.png', "", ""]
    file.write_text("\r\n".join(lines), encoding="utf-8", newline="")
    (pair,) = read_manifest(file, tmp_path).items()
    assert pair == ((Path("/a, b/1.png"), Path("/c/2.png")), tmp_path / "é.png")


def test_kid_compares_with_the_paintings_of_a_folder_that_is_named(
    pairs: list[PairPaths], folders: Folders, tmp_path: Path
) -> None:
    system = fill(tmp_path / "same", pairs, 0)
    found = evaluate(config_of(tmp_path, system, paintings=folders[1]))
    assert f"the 9 paintings of {folders[1]}" in found.full.notes[0]
    assert any("9 reference paintings" in card.reference for card in found.full.cards)


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ("", r"names no pair|begins with ''"),
        ("photo,painting,output\n", "names no pair"),
        ("photo;painting;output\na;b;c\n", "begins with 'photo;painting;output' instead of"),
        ("painting,photo,output\na,b,c\n", "begins with 'painting,photo,output' instead of"),
        ("photo,painting,output\n{0},{1}\n", r"line 2 of .*pairs\.csv is .* instead of photo,"),
        ("photo,painting,output\n{0},{1},\n", r"line 2 of .*pairs\.csv is .* instead of photo,"),
        ("photo,painting,output\n{0},{1},a.png\n{0},{1},b.png\n", "line 3 of .* once more"),
        ("photo,painting,output\n{0},{1},none.png\n", r"there is no picture .*none\.png"),
        ("photo,painting,output\nno.png,{1},a.png\n", r"there is no picture .*no\.png"),
        ("photo,painting,output\n{0},no.png,a.png\n", r"there is no picture .*no\.png"),
        ("photo,painting,output\n{0},{1},text.png\n", r"text\.png is not a picture"),
        ("photo,painting,output\n{0},{1},cut.png\n", r"cut\.png cannot be read"),
        (
            "photo,painting,output\n{0},{1},square.png\n",
            r"square\.png is 56x56 pixels and its photo .*00\.png 72x56: places would not",
        ),
        ("\x00\xff", "begins with .* instead of"),
    ],
)
def test_a_mistake_in_a_manifest_is_a_sentence_before_anything_is_computed(
    rows: str, sentence: str, folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "make_judges", lambda *_: pytest.fail("asked for judges"))
    photo, painting = (sorted(folder.iterdir())[0] for folder in folders)
    shutil.copy(photo, tmp_path / "a.png")
    (tmp_path / "cut.png").write_bytes(photo.read_bytes()[:400])
    (tmp_path / "text.png").write_text("no picture")
    Image.open(photo).resize((56, 56)).save(tmp_path / "square.png")
    file = tmp_path / "pairs.csv"
    file.write_text(rows.format(photo, painting), encoding="latin-1")
    with pytest.raises(ValueError, match=sentence) as error:
        evaluate(EvaluateConfig(outputs=(tmp_path,), manifest=(file,), device="cpu"))
    assert "\n" not in str(error.value)


def test_systems_must_have_painted_the_same_pairs(pairs: list[PairPaths], tmp_path: Path) -> None:
    whole, part = fill(tmp_path / "whole", pairs, 0), fill(tmp_path / "part", pairs[:-1], 0)
    photo, painting = pairs[-1]
    sentence = f"{part / 'manifest.csv'} lacks the pair {photo}, {painting}"
    for systems in ((whole, part), (part, whole)):
        with pytest.raises(ValueError, match=sentence):
            evaluate(config_of(tmp_path, *systems))


def test_what_cannot_be_scored_is_said_in_words(
    make_run: Run, pairs: list[PairPaths], tmp_path: Path
) -> None:
    run, other = make_run("mine"), make_run("other", photos=None)
    system, again = (fill(tmp_path / name, pairs, 0) for name in ("identity", "same"))
    for options, sentence in (
        (EvaluateConfig(), "nothing to score"),
        (EvaluateConfig((run, run)), "two rows would be called"),
        (EvaluateConfig((run,), strengths=(1.0, 0.5)), "they must rise"),
        (EvaluateConfig((run,), strengths=(0.0, 0.5)), "over 0"),
        (EvaluateConfig((run,), strengths=()), "they must rise"),
        (EvaluateConfig((run,), strengths=(0.5, 1.5)), "up to 1"),
        (EvaluateConfig((run, other)), "different pictures"),
        (config_of(tmp_path, system), "two rows would be called identity"),
        (config_of(tmp_path, again, again), "two folders of outputs are called same"),
        (config_of(tmp_path, again, manifest=()), "names 1 folders and --manifest 0 files"),
        (config_of(tmp_path, manifest=(again / "manifest.csv",)), "0 folders and --manifest 1"),
        (config_of(tmp_path, again, outputs=(tmp_path / "no",)), "there is no folder .*no"),
        (config_of(tmp_path, again, manifest=(tmp_path / "no",)), "there is no manifest .*no"),
    ):
        with pytest.raises(ValueError, match=sentence):
            evaluate(replace(options, device="cpu"))
    with pytest.raises(ValueError, match="name a run, or both --photos and --paintings"):
        command(["--write-manifest", str(tmp_path / "new.csv"), "--device", "cpu"])


def test_a_picture_turned_by_exif_is_as_large_as_it_looks(folders: Folders, tmp_path: Path) -> None:
    photo, painting = (sorted(folder.iterdir())[0] for folder in folders)
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(photo) as image:
        turned = image.transpose(Image.Transpose.ROTATE_90)
        turned.save(tmp_path / "turned.png", exif=exif)
    write_rows(tmp_path / "manifest.csv", [photo, painting, "turned.png"])
    found = evaluate(config_of(tmp_path, tmp_path))
    assert figures(found, tmp_path.name)["ssim"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("output", "same"),
    [
        ((640, 480), True),
        ((320, 240), True),
        ((2560, 1920), True),
        ((639, 480), True),  # rounded on the way
        ((341, 256), True),
        ((342, 257), True),
        ((345, 256), False),
        ((480, 480), False),
        ((480, 640), False),
        ((632, 480), False),  # cropped to a multiple of eight
    ],
)
def test_an_output_has_its_photos_proportions_to_a_pixel(
    output: tuple[int, int], same: bool
) -> None:
    assert is_same_view(output, (640, 480)) == same
