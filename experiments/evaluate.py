"""``underdrawing evaluate``: score a trained run, beside the control rows.

Several GPUs: ``accelerate launch -m underdrawing.experiments.evaluate RUN``; the figures are the
same.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ..data.folders import find_pictures
from ..metrics.judges import Judges, Scores, make_cards
from ..trainers.model_files import load_model, own_folder
from ..trainers.processes import join_processes
from ..trainers.trainer import collections
from .evaluation import (
    CONTROLS,
    PairPaths,
    evaluate_methods,
    make_manifest,
    resolution,
    trained_method,
)
from .judges import make_judges
from .main import run_command
from .table import Table, make_columns, make_line, mark_unstylized, to_text, write_table


@dataclass(frozen=True)
class EvaluateConfig:
    """Score a run's generator on held-out (photo, painting) pairs, beside the control rows."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder of a trained model."""
    photos: Path | None = None
    """Folder of photos to score on, all of it; without it, the run's own test photos."""
    paintings: Path | None = None
    """Folder of paintings, all of it; without it, the run's own test paintings."""
    pairs: int = 256
    """Number of pairs, at most."""
    size: int | None = None
    """Side of the pictures; without it, the run's training size."""
    strength: float = 1.0
    """Strength of the style."""
    weights_dir: Path | None = None
    """Folder to look for the judges' weights in first."""
    out: Path | None = None
    """Folder for table.md, .csv and .json; without it, RUN/evaluation."""
    json: Path | None = None
    """Also write the figures to this file."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""


def evaluate(config: EvaluateConfig) -> Table:
    """Score the run; every process returns the table, the first one writes it.

    The run may be somebody else's: the folders of pictures that its configuration names are read,
    where ``photos`` and ``paintings`` name no others, and nothing outside ``out`` is written.

    Raises:
        ValueError: no such run, or no pictures to score on.
    """
    processes = join_processes(config.device)
    device, main = processes.device, processes.is_main_process
    model = load_model(config.run, device)
    trained, size = model.config, config.size or model.config.size
    out = config.out or own_folder(config.run, "evaluation")
    own = replace(
        trained,
        photos=config.photos or trained.photos,
        paintings=config.paintings or trained.paintings,
    )
    with processes.main_process_first():  # the first one fills the caches
        photos, paintings = collections(own, main)
        test_photos = find_pictures(config.photos) if config.photos else list(photos.test)
        test_paintings = (
            find_pictures(config.paintings) if config.paintings else list(paintings.test)
        )
        manifest = make_manifest(test_photos, test_paintings, config.pairs)
        method = trained_method(model, device, config.strength)
        judges = make_judges(device, config.weights_dir)
    methods = {str(config.run): method, **CONTROLS}
    scores = evaluate_methods(methods, manifest, test_paintings, judges, size, device)
    table = score_table(scores, judges, manifest, len(test_paintings), size)
    if main:
        write_table(table, out, config.json)
    return table


def score_table(
    scores: dict[str, Scores], judges: Judges, manifest: list[PairPaths], paintings: int, size: int
) -> Table:
    """A table without the paper's figures, one line per method."""
    columns = make_columns(judges)
    lines = [make_line(name, [s], None, columns, name in CONTROLS) for name, s in scores.items()]
    notes = [f"{len(manifest)} held-out pairs at {size} px; {paintings} reference paintings."]
    return Table(
        columns,
        mark_unstylized(lines, scores["colour only"].style_gap),
        make_cards(judges, len(manifest), paintings, resolution(size)),
        notes,
    )


def command(arguments: list[str]) -> None:
    """Run the command."""
    config = tyro.cli(EvaluateConfig, prog="underdrawing evaluate", args=arguments)
    table = evaluate(config)
    if join_processes(config.device).is_main_process:
        print(to_text(table))


if __name__ == "__main__":
    run_command("evaluate", sys.argv[1:])
