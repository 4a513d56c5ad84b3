"""``underdrawing evaluate``: score trained models, or images from other methods, on held-out pairs.

Several GPUs: ``accelerate launch -m underdrawing.experiments.evaluate RUN``, with equal results.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import tyro
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from ..data.files import one_line, write_atomic
from ..data.folders import read_collection
from ..data.record import check_images, read_record
from ..metrics.distribution import MIN_IMAGES
from ..metrics.scores import MetricNetworks, Scores, make_cards
from ..models.pretrained import cache_dir
from ..trainers.config import TrainConfig
from ..trainers.model_files import (
    PRETRAINED,
    SHIPPED,
    load_config,
    load_model,
    model_folder,
)
from ..trainers.runtime import Device, join_processes
from ..trainers.trainer import collections
from .analysis.curves import Curve
from .analysis.results import (
    Section,
    StudyResult,
    make_study_result,
    result_latex,
    result_text,
    write_result,
)
from .analysis.tables import Column, Table, make_columns, make_table_row
from .main import parse_options, run_command
from .paths import check_output, results_folder
from .presets import check_rising
from .scoring.external import Outputs, read_methods, saved_outputs, write_manifest
from .scoring.networks import make_networks
from .scoring.protocol import (
    CONTROLS,
    PairPaths,
    each,
    find_boundaries,
    make_manifest,
    reference_features,
    reference_paintings,
    resolution,
    score_methods,
    together,
    trained_method,
)

SIZE = 256  # pixels, without a run


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class EvaluateConfig:
    """Evaluate trained models, or images from other methods, on held-out pairs, with controls."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN ...")] = ()
    """Run directories of trained models, or pretrained; pairs are held-out images of the first."""
    outputs: tuple[Path, ...] = ()
    """Folders of images from other methods; one row each, named after the folder."""
    manifest: tuple[Path, ...] = ()
    """One CSV (photo,painting,output) per --outputs folder; its pairs are used for every row."""
    write_manifest: Path | None = None
    """Only write the pairs to this CSV file, for another method to stylize."""
    photos: Path | None = None
    """Folder of photos, used as a whole unless the run is trained on them; default: its own."""
    paintings: Path | None = None
    """Folder of paintings: styles and, apart from them, the reference set; likewise."""
    split: Literal["test", "validation"] = "test"
    """Held-out images of the run: choose on validation, evaluate on test once."""
    pairs: Annotated[int, Field(ge=1)] = 256
    """Maximum number of pairs; a manifest is used as a whole."""
    all_pairs: bool = False
    """Pair every photo with every painting of two folders, as StyleID does; ignores --pairs."""
    published_metrics: bool = False
    """Also ArtFID, CFSD and DISTS, as papers print them; slow, and each needs its own weights."""
    strengths: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)
    """Strengths at which runs are evaluated: the points of their content/style curves."""
    size: Annotated[int, Field(ge=32, le=4096)] | None = None
    """Side of the images in pixels; default: training size of the first run, or 256."""
    boundaries: Path | None = None
    """Folder of human-drawn boundaries, PNGs named after the photos, for “boundaries kept”."""
    weights_dir: Path | None = None
    """Folder to search first for the weights of the metric networks."""
    out: Path | None = None
    """Folder for the tables; default: RUN/evaluation of the first run, else runs/evaluation."""
    device: Device = "auto"
    """Device to compute on."""


class EvaluationSet(NamedTuple):
    """Pairs to evaluate on."""

    pairs: list[PairPaths]
    references: Sequence[Path]  # reference set of FID and KID
    methods: dict[str, Outputs]  # other methods, by name
    note: str  # description for the table


def evaluate(config: EvaluateConfig) -> StudyResult:
    """Score runs and outputs of other methods.

    Runs may come from other people: nothing is written.

    Raises:
        ValueError: nothing to evaluate or to evaluate on, or an invalid run or manifest.
    """
    if not (config.runs or config.outputs or config.manifest):
        raise ValueError("nothing to evaluate: give a run directory, or --outputs and --manifest")
    check_rising(config.strengths)
    processes = join_processes(config.device)
    device = processes.device
    models = {row_name(run): load_model(run, device) for run in config.runs}
    trained = [models[row_name(run)].config for run in config.runs]
    size = config.size or (trained[0].size if trained else SIZE)
    data = choose_pairs(config, trained)
    boundaries = find_boundaries(config.boundaries, data.pairs)
    titles = [*map(row_name, config.runs), *data.methods, *CONTROLS]
    if repeated := [title for title in titles if titles.count(title) > 1]:
        raise ValueError(f"two rows are named {repeated[0]}; rename a folder or give it once")
    names = {run: {f"{run}/{s:g}": s for s in config.strengths} for run in models}
    with processes.main_process_first():  # the main process fills the weight cache
        networks = make_networks(device, config.weights_dir, config.published_metrics)
        generators = [trained_method(model, device, names[run]) for run, model in models.items()]
    stylize = together(each(CONTROLS), saved_outputs(data.methods), *generators)
    features = reference_features(data.references, networks, size, device)
    scores = score_methods(
        stylize, data.pairs, features, networks, size, device, boundaries=boundaries
    )
    curves = {
        run: Curve((0.0, *config.strengths), (scores["identity"], *(scores[name] for name in at)))
        for run, at in names.items()
    }
    return make_result(config, data, networks, size, curves, scores)


def choose_pairs(config: EvaluateConfig, trained: Sequence[TrainConfig]) -> EvaluationSet:
    """Choose pairs by the options and the configurations of the runs.

    A given folder with the content that the first run was trained on is that run's own, moved:
    only its held-out images are used.

    Raises:
        ValueError: no images, runs with different images, images that have changed since, or an
            invalid manifest.
    """
    if config.outputs or config.manifest:
        return listed_pairs(config, trained)
    if config.runs[:1] in ((), (PRETRAINED,)) and not (config.photos and config.paintings):
        raise ValueError(
            "no pairs: give a run directory of your own first, or both --photos and --paintings"
        )
    given = {"photos": config.photos, "paintings": config.paintings}
    records = [read_record(run / "manifest.json") for run in config.runs]
    for kind in (kind for kind, folder in given.items() if not folder):
        sources = {
            record[kind]["sha256"] if record else getattr(run, kind)
            for record, run in zip(records, trained, strict=True)
        }
        if len(sources) > 1:
            raise ValueError(
                "the runs were trained on different images, so their held-out images differ; "
                "give --photos and --paintings that no run was trained on"
            )
    processes, first = join_processes(config.device), trained[0] if trained else TrainConfig()
    with processes.main_process_first():  # the main process checks the folders
        folders: dict[str, Any] = {
            kind: folder or getattr(first, kind) for kind, folder in given.items()
        }
        data = replace(first, **folders)
        images = dict(zip(given, collections(data, processes.is_main_process), strict=True))
    record = records[0] if records else None
    own = {
        kind: collection
        for kind, collection in images.items()
        if not given[kind] or (record and record[kind]["sha256"] == collection.sha256)
    }
    if config.runs:
        advice = "restore them, or give --photos and --paintings of other images"
        check_images(config.runs[0] / "manifest.json", own, advice)
    photos, paintings = (
        c.distinct(config.split) if kind in own else c.distinct() for kind, c in images.items()
    )
    halve = not config.all_pairs and len(paintings) >= 2 * MIN_IMAGES
    if "paintings" not in own and halve:
        paintings = paintings[: len(paintings) // 2]  # the others are the reference set
    count = len(photos) * len(paintings) if config.all_pairs else config.pairs
    pairs = make_manifest(photos, paintings, count)
    references = reference_paintings(images["paintings"], pairs)
    held_out = "held-out " if record and len(own) == len(images) else ""
    note = f"{len(pairs)} {held_out}pairs, KID against {len(references)} other paintings"
    return EvaluationSet(pairs, references, {}, note)


def listed_pairs(config: EvaluateConfig, trained: Sequence[TrainConfig]) -> EvaluationSet:
    """Read the pairs of manifests; raises what ``read_methods`` raises."""
    methods = read_methods(config.outputs, config.manifest, config.photos, config.paintings)
    pairs = list(next(iter(methods.values())))
    own = trained[0].paintings if trained and config.runs[0] != PRETRAINED else None
    folder, references = config.paintings or own, []
    if folder and (config.paintings or folder.is_dir()):
        with join_processes(config.device).main_process_first():
            references = reference_paintings(read_collection(folder, cache_dir()), pairs)
    against = one_line(f"KID against {len(references)} other paintings of {folder}")
    note = f"{len(pairs)} pairs of the manifest, {against if references else 'no set for KID'}"
    return EvaluationSet(pairs, references, methods, note)


def make_result(
    config: EvaluateConfig, data: EvaluationSet, networks: MetricNetworks, size: int,
    curves: Mapping[str, Curve], scores: Mapping[str, Scores],
) -> StudyResult:  # fmt: skip
    """Make the tables: full strength, matched style, each method's style gap, each run's curve."""
    columns = make_columns(networks, boundaries=config.boundaries is not None)
    columns = [column._replace(paper=None) for column in columns]
    runs, notes = list(curves), [f"{data.note}, at {size} px.", *networks.missing]
    if curves:
        strengths = ", ".join(f"{strength:g}" for strength in config.strengths)
        notes.append(f"Runs at strengths {strengths}, the last of them in the first table.")
    return make_study_result(
        "Evaluation", {run: [curve] for run, curve in curves.items()},
        {name: scores[name] for name in CONTROLS}, columns,
        make_cards(networks, scores, len(data.references), resolution(size)),
        compare=[(run, runs[0]) for run in runs[1:]],
        points={name: scores[name] for name in data.methods}, notes=notes,
        sections=[curve_section(run, curve, columns) for run, curve in curves.items()],
    )  # fmt: skip


def curve_section(run: str, curve: Curve, columns: Sequence[Column]) -> Section:
    """Tabulate a run's metrics at each strength."""
    rows = [
        make_table_row(f"{strength:g}", [scores], None, columns)
        for strength, scores in zip(curve.strengths, curve.scores, strict=True)
    ]
    return Section(f"{run} by strength", Table(list(columns), rows, [], []), [])


def row_name(run: Path) -> str:
    """Return the title of a run's row, without the path of the installation."""
    return one_line(str(SHIPPED if run == PRETRAINED else run))


def command(arguments: list[str]) -> None:
    """Run the command."""
    config = parse_options(EvaluateConfig, prog="underdrawing evaluate", args=arguments)
    config = replace(config, runs=tuple(map(model_folder, config.runs)))
    main = join_processes(config.device).is_main_process
    if config.write_manifest:
        check_output(config.write_manifest, [".csv"], config.manifest)
        pairs = choose_pairs(config, [load_config(run) for run in config.runs]).pairs
        if main:
            write_manifest(config.write_manifest, pairs)
            print(one_line(f"{len(pairs)} pairs: {config.write_manifest}"))
        return
    out = results_folder(config.out, config.runs, "evaluation")
    check_output(out / "table.csv", [".csv"], config.manifest)
    result = evaluate(config)
    if main:
        write_result(result, out)
        write_atomic(out / "table.tex", result_latex(result))
        print(result_text(result))
        print("\n" + one_line(f"tables: {out / 'table.md'} (.tex, .csv, .json)"))


if __name__ == "__main__":
    run_command("evaluate", sys.argv[1:])
