"""What all rows of a study are scored with, and the scores that are kept."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..data.files import DAY, sweep, write_atomic
from ..metrics.cards import Card
from ..metrics.judges import Judges, Scores, make_cards
from ..trainers.config import TrainConfig, differences
from ..trainers.model_files import load_model
from ..trainers.processes import join_processes
from ..trainers.tracking import provenance
from ..trainers.trainer import collections
from .cells import Cell, cell_config, train_cell, warmup_config, work_off
from .comparison import Curve
from .evaluation import (
    CONTROLS,
    Painter,
    PairPaths,
    each,
    make_manifest,
    resolution,
    score_painter,
    trained_painter,
)
from .judges import make_judges
from .presets import Study


class Bench(NamedTuple):
    """Judges, pairs and paintings of a study."""

    study: Study
    judges: Judges
    manifest: list[PairPaths]
    paintings: Sequence[Path]  # the reference set
    pictures: list[object]  # sha256 of the listings of photos and paintings, sizes and all
    device: torch.device
    main: bool  # whether this process writes the files


def make_bench(study: Study, cell: Cell) -> Bench:
    """The bench of a study, with its manifest written down.

    Args:
        study: of which it is.
        cell: any of it, whose pictures are all cells'.

    Raises:
        ValueError: a mistake in the folders, nothing held out, or no weights to be had.
    """
    processes = join_processes(study.device)
    device, main = processes.device, processes.is_main_process
    with processes.main_process_first():  # the first one fills the caches
        photos, paintings = collections(warmup_config(study, cell), main)
        # Before the training: missing weights should not be discovered after it.
        judges = make_judges(device, study.weights_dir)
    held_out = [getattr(split, study.split) for split in (photos, paintings)]
    manifest = make_manifest(held_out[0], held_out[1], study.pairs)
    if main:
        pairs = [[photo.name, painting.name] for photo, painting in manifest]
        write_atomic(study.out / "manifest.json", json.dumps(pairs, indent=1))
    pictures = [collection.manifest()["sha256"] for collection in (photos, paintings)]
    return Bench(study, judges, manifest, held_out[1], pictures, device, main)


def study_notes(bench: Bench) -> list[str]:
    """Below a table: how it was made, and how to read it."""
    study = bench.study
    photos, paintings = (x or "the built-in samples" for x in (study.photos, study.paintings))
    return [
        f"Preset {study.preset}: {study.warmup} warm-up steps shared by the rows (multi-layer "
        f"content, uniform weights, no discriminator), then {study.steps} per row, batch "
        f"{study.batch_size}, {study.size} px, {study.seeds} seed(s). Photos: {photos}. Paintings: "
        f"{paintings}.",
        f"Scored on {len(bench.manifest)} held-out pairs ({study.split}) at {study.size} px. "
        "n/a: too few pictures for that figure, or no network.",
        "Rows in italics are controls. “did not stylise”: closed less of the style gap than colour "
        "matching + 0.15. Content scores can be bought with style: compare at matched style.",
    ]


def study_cards(bench: Bench) -> list[Card]:
    """The cards of all figures."""
    words = resolution(bench.study.size)
    return make_cards(bench.judges, len(bench.manifest), len(bench.paintings), words)


def train_and_score(bench: Bench, cells: Sequence[Cell]) -> dict[Cell, str]:
    """Work off what is not scored yet; returns why some cells could not be, if any."""
    study = bench.study

    def work(cell: Cell) -> None:
        config = cell_config(study, cell)
        if not is_scored(bench, config):  # meanwhile, by another process
            train_cell(study, cell)
            cell_scores(bench, config)

    pending = [cell for cell in cells if not is_scored(bench, cell_config(study, cell))]
    return work_off(study, pending, work)


def curves_of(bench: Bench, cells: Sequence[Cell], origin: Scores) -> list[Curve]:
    """The content/style curves of finished cells; ``origin`` are the photo's scores."""
    strengths = (0.0, *bench.study.strengths)
    scores = [cell_scores(bench, cell_config(bench.study, cell)) for cell in cells]
    return [Curve(strengths, (origin, *by_strength.values())) for by_strength in scores]


def control_scores(bench: Bench) -> dict[str, Scores]:
    """Scores of the control rows, kept or computed."""
    return _scores(bench, "controls", {}, lambda: each(CONTROLS))


def cell_scores(bench: Bench, config: TrainConfig) -> dict[str, Scores]:
    """A trained cell's scores at the study's strengths, in their order, kept or computed."""
    strengths = {f"{s:g}": s for s in bench.study.strengths}
    return _scores(
        bench,
        config.out.name,
        {"settings": differences(TrainConfig(), config)},
        lambda: trained_painter(load_model(config.out, bench.device), bench.device, strengths),
    )


def is_scored(bench: Bench, config: TrainConfig) -> bool:
    """Whether a cell's scores are kept, so that nothing is left to do for it."""
    return _kept(bench, config.out.name) is not None


def _scores(
    bench: Bench, name: str, about: dict[str, Any], load: Callable[[], Painter]
) -> dict[str, Scores]:
    """Scores from their file; those of other pairs or judges are computed anew."""
    if kept := _kept(bench, name):
        return kept
    study = bench.study
    scores = score_painter(
        load(), bench.manifest, bench.paintings, bench.judges, study.size, bench.device
    )
    if bench.main:
        path = _file(bench, name)
        sweep(path.parent, older_than=DAY)  # other processes write here, too
        content = {
            "of": _identity(bench), **about, "provenance": provenance(),
            "scores": {key: asdict(value) for key, value in scores.items()},
        }  # fmt: skip
        write_atomic(path, json.dumps(content))
    # Else another process of the launch might not find the file, and score again, all alone.
    join_processes(study.device).wait_for_everyone()
    return scores


def _file(bench: Bench, name: str) -> Path:
    return bench.study.out / "scores" / bench.study.split / f"{name}.json"


def _kept(bench: Bench, name: str) -> dict[str, Scores] | None:
    try:
        kept = json.loads(_file(bench, name).read_text())
        if kept["of"] != _identity(bench):
            return None
        return {key: Scores(**scores) for key, scores in kept["scores"].items()}
    except (FileNotFoundError, ValueError, LookupError, TypeError, AttributeError):
        return None  # none yet, or a damaged one


def _identity(bench: Bench) -> dict[str, object]:
    """What scores depend on beside the model."""
    study, judges = bench.study, bench.judges
    return {
        "size": study.size,
        "strengths": list(study.strengths),
        "pictures": bench.pictures,
        "pairs": [f"{photo.name} {painting.name}" for photo, painting in bench.manifest],
        "judges": [list(judge.words) for judge in judges.all],
    }
