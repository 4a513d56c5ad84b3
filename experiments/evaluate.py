"""``underdrawing evaluate``: score a trained run, beside the control rows."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ..data.folders import find_pictures
from ..metrics.judges import Judges, Scores, make_cards
from ..trainers.model_files import load_model
from ..trainers.networks import pick_device
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
    """Score the run; writes and returns the table.

    Raises:
        ValueError: no such run, or no pictures to score on.
    """
    device = pick_device(config.device)
    model = load_model(config.run, device)
    trained = model.config
    own = replace(
        trained,
        photos=config.photos or trained.photos,
        paintings=config.paintings or trained.paintings,
    )
    photos, paintings = collections(own)
    test_photos = find_pictures(config.photos) if config.photos else list(photos.test)
    test_paintings = find_pictures(config.paintings) if config.paintings else list(paintings.test)
    manifest = make_manifest(test_photos, test_paintings, config.pairs)
    method = trained_method(model, device, config.strength)
    judges, size = make_judges(device, config.weights_dir), config.size or trained.size
    methods = {str(config.run): method, **CONTROLS}
    scores = evaluate_methods(methods, manifest, test_paintings, judges, size, device)
    table = score_table(scores, judges, manifest, len(test_paintings), size)
    write_table(table, config.out or config.run / "evaluation", config.json)
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
    print(to_text(evaluate(config)))
