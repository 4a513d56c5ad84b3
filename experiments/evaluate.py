"""``underdrawing evaluate``: score runs, and anybody's pictures, beside the control rows.

Several GPUs: ``accelerate launch -m underdrawing.experiments.evaluate RUN``; the figures are the
same.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import tyro

from ..data.folders import read_collection
from ..metrics.scores import MetricNetworks, Scores, make_cards
from ..models.pretrained import cache_dir
from ..trainers.config import TrainConfig
from ..trainers.model_files import load_config, load_model, own_folder
from ..trainers.runtime import join_processes
from .analysis.curves import Curve, check_rising
from .analysis.results import (
    FULL,
    MATCHED,
    Section,
    StudyResult,
    make_study_result,
    section_text,
    write_result,
)
from .analysis.tables import Column, Table, make_columns, make_table_row, to_text
from .main import run_command
from .scoring.external import Outputs, read_systems, saved_painter, write_manifest
from .scoring.networks import make_networks
from .scoring.protocol import (
    CONTROLS,
    PairPaths,
    each,
    every_picture,
    make_manifest,
    pictures_to_score,
    resolution,
    score_painter,
    together,
    trained_painter,
)

SIZE = 256  # pixels, where no run says otherwise


@dataclass(frozen=True)
class EvaluateConfig:
    """Score runs on held-out (photo, painting) pairs, each at several strengths, beside the control
    rows; and, with --outputs and --manifest, pictures that other systems made of the same pairs.
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    """Run folders of trained models; the first one's held-out pictures are scored on."""
    outputs: tuple[Path, ...] = ()
    """Folders of pictures that other systems made; a row each, by the folder's name."""
    manifest: tuple[Path, ...] = ()
    """For each of these folders a CSV file photo,painting,output. Outputs are relative to the
    folder, photos and paintings to --photos and --paintings or else to the file. All name the same
    pairs, and these are scored, by the runs too."""
    write_manifest: Path | None = None
    """Write the pairs that would be scored to this CSV file, for another system to paint; nothing
    is scored then."""
    photos: Path | None = None
    """Folder of photos to score on, all of it; without it, the run's own held-out photos."""
    paintings: Path | None = None
    """Folder of paintings, all of it, also what KID compares with; without it, the run's own
    held-out paintings, or those of the manifest."""
    split: Literal["test", "validation"] = "test"
    """Which of the run's own pictures: choose on validation, touch test once."""
    pairs: int = 256
    """Number of pairs, at most; of a manifest all count."""
    strengths: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)
    """Strengths at which runs are scored: the points of their content/style curves."""
    size: int | None = None
    """Side of the pictures; without it, the first run's training size, or 256."""
    weights_dir: Path | None = None
    """Folder to look for the judges' weights in first."""
    out: Path | None = None
    """Folder for table.md, .tex, .csv and .json; without it, RUN/evaluation of the first run, or
    runs/evaluation."""
    json: Path | None = None
    """Also write the figures to this file."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""


class Job(NamedTuple):
    """What is scored on."""

    pairs: list[PairPaths]
    paintings: Sequence[Path]  # the reference set
    systems: dict[str, Outputs]
    note: str  # which they are


def evaluate(config: EvaluateConfig) -> StudyResult:
    """Score runs and outputs; every process returns what was found, the first one writes it.

    Runs may be somebody else's: the folders of pictures that the first one's configuration names
    are read, where the options name no others, and nothing outside ``out`` is written.

    Raises:
        ValueError: no such run, nothing to score or to score on, or a mistake in a manifest.
    """
    if not (config.runs or config.outputs or config.manifest):
        raise ValueError("nothing to score: name a run, or --outputs with its --manifest")
    check_rising(config.strengths)
    processes, out = join_processes(config.device), out_folder(config)
    device = processes.device
    models = {str(run): load_model(run, device) for run in config.runs}
    trained = [model.config for model in models.values()]
    size = config.size or (trained[0].size if trained else SIZE)
    job = make_job(config, trained)
    check_names([*map(str, config.runs), *job.systems, *CONTROLS])
    names = {run: {f"{run}/{s:g}": s for s in config.strengths} for run in models}
    with processes.main_process_first():  # the first one fills the caches
        networks = make_networks(device, config.weights_dir)
        painters = [trained_painter(model, device, names[run]) for run, model in models.items()]
    stylizer = together(each(CONTROLS), saved_painter(job.systems), *painters)
    scores = score_painter(stylizer, job.pairs, job.paintings, networks, size, device)
    controls, points = (pick(scores, chosen) for chosen in (CONTROLS, job.systems))
    curves = {
        run: Curve((0.0, *config.strengths),
                   (controls["identity"], *pick(scores, at).values()))
        for run, at in names.items()
    }  # fmt: skip
    result = evaluation_findings(config, job, networks, size, curves, controls, points)
    if processes.is_main_process:
        write_result(result, out, config.json)
    return result


def make_job(config: EvaluateConfig, trained: Sequence[TrainConfig]) -> Job:
    """Which pairs, from the options and the runs' configurations.

    Raises:
        ValueError: no pictures to score on, runs of different pictures, a mistake in a manifest.
    """
    if config.outputs or config.manifest:
        return _job_of_manifests(config)
    if not trained and not (config.photos and config.paintings):
        raise ValueError("no pairs: name a run, or both --photos and --paintings")
    own = [
        replace(t, photos=config.photos or t.photos, paintings=config.paintings or t.paintings)
        for t in trained or [TrainConfig()]
    ]
    if len({(t.photos, t.paintings) for t in own}) > 1:
        raise ValueError(
            "the runs were trained on different pictures, so they hold out different ones: "
            "name --photos and --paintings that none of them has seen"
        )
    processes, named = join_processes(config.device), (config.photos, config.paintings)
    with processes.main_process_first():  # the first one fills the caches
        main = processes.is_main_process
        photos, paintings = pictures_to_score(own[0], *named, config.split, main)
    pairs = make_manifest(photos, paintings, config.pairs)
    held_out = "" if any(named) else "held-out "
    note = f"{len(pairs)} {held_out}pairs, KID against {len(paintings)} paintings"
    return Job(pairs, paintings, {}, note)


def _job_of_manifests(config: EvaluateConfig) -> Job:
    systems = read_systems(config.outputs, config.manifest, config.photos, config.paintings)
    pairs = list(next(iter(systems.values())))
    paintings, whose = list(dict.fromkeys(painting for _, painting in pairs)), "the manifest"
    if config.paintings:
        whose = str(config.paintings)
        paintings = every_picture(read_collection(config.paintings, cache_dir()))
    note = f"{len(pairs)} pairs of the manifest, KID against the {len(paintings)} paintings of "
    return Job(pairs, paintings, systems, note + whose)


def check_names(names: Sequence[str]) -> None:
    """Refuse rows that could not be told apart."""
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two rows would be called {name}: rename a folder, or name it once")


def pick(scores: Mapping[str, Scores], names: Mapping[str, object]) -> dict[str, Scores]:
    """Those of some names, in their order."""
    return {name: scores[name] for name in names}


def out_folder(config: EvaluateConfig) -> Path:
    """Where the tables go."""
    if config.out or not config.runs:
        return config.out or Path("runs/evaluation")
    return own_folder(config.runs[0], "evaluation")


def evaluation_findings(
    config: EvaluateConfig, job: Job, networks: MetricNetworks, size: int,
    curves: dict[str, Curve], controls: dict[str, Scores], points: dict[str, Scores],
) -> StudyResult:  # fmt: skip
    """The tables: full strength, matched style, each system's gap, each run's curve."""
    columns = [column._replace(paper=None) for column in make_columns(networks)]
    runs = list(curves)
    notes = [f"{job.note}, at {size} px."]
    if curves:
        listed = ", ".join(f"{strength:g}" for strength in config.strengths)
        notes.append(f"Runs at strengths {listed}, the last of them in the first table.")
    result = make_study_result(
        "Evaluation", {run: [curve] for run, curve in curves.items()}, controls, columns,
        make_cards(networks, len(job.pairs), len(job.paintings), resolution(size)),
        compare=[(run, runs[0]) for run in runs[1:]], points=points, notes=notes,
    )  # fmt: skip
    more = [curve_section(run, curve, columns) for run, curve in curves.items()]
    return replace(result, more=[*result.more, *more])


def curve_section(run: str, curve: Curve, columns: Sequence[Column]) -> Section:
    """A run's figures at each strength."""
    lines = [
        make_table_row(f"{strength:g}", [scores], None, columns, control=False)
        for strength, scores in zip(curve.strengths, curve.scores, strict=True)
    ]
    return Section(f"{run} by strength", Table(list(columns), lines, [], []), [])


def evaluation_text(result: StudyResult) -> str:
    """The tables for a terminal."""
    sections = result.more
    if len(result.curves) > 1:
        sections = [Section(MATCHED, result.matched, result.differences), *sections]
    columns = result.full.columns
    parts = [f"{FULL}:\n{to_text(result.full)}"]
    return "\n\n".join([*parts, *(section_text(section, columns) for section in sections)])


def command(arguments: list[str]) -> None:
    """Run the command."""
    config = tyro.cli(EvaluateConfig, prog="underdrawing evaluate", args=arguments)
    processes = join_processes(config.device)
    if config.write_manifest:
        job = make_job(config, [load_config(run) for run in config.runs])
        if processes.is_main_process:
            write_manifest(config.write_manifest, job.pairs)
            print(f"{len(job.pairs)} pairs: {config.write_manifest}")
        return
    result = evaluate(config)
    if processes.is_main_process:
        print(evaluation_text(result))
        print(f"\ntables: {out_folder(config) / 'table.md'} (.tex, .csv, .json)")


if __name__ == "__main__":
    run_command("evaluate", sys.argv[1:])
