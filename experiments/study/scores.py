"""What all rows of a study are scored with, and the scores that are kept."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ...data.files import DAY, remove_stale_parts, write_atomic
from ...metrics.cards import Card
from ...metrics.scores import MetricNetworks, Scores, make_cards
from ...trainers.config import TrainConfig, differences
from ...trainers.model_files import load_model
from ...trainers.runtime import join_processes
from ...trainers.tracking import provenance
from ...trainers.trainer import collections
from ..analysis.curves import Curve
from ..presets import StudyConfig
from ..scoring.networks import make_networks
from ..scoring.protocol import (
    CONTROLS,
    PairPaths,
    Stylizer,
    each,
    make_manifest,
    resolution,
    score_painter,
    trained_painter,
)
from .runs import StudyRun, cell_config, run_pending, train_cell, warmup_config


class StudyScorer(NamedTuple):
    """Judges, pairs and paintings of a study."""

    study: StudyConfig
    networks: MetricNetworks
    manifest: list[PairPaths]
    paintings: Sequence[Path]  # the reference set
    pictures: list[object]  # sha256 of the listings of photos and paintings, sizes and all
    device: torch.device
    main: bool  # whether this process writes the files


def make_scorer(study: StudyConfig, cell: StudyRun) -> StudyScorer:
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
        networks = make_networks(device, study.weights_dir)
    held_out = [getattr(split, study.split) for split in (photos, paintings)]
    manifest = make_manifest(held_out[0], held_out[1], study.pairs)
    if main:
        pairs = [[photo.name, painting.name] for photo, painting in manifest]
        write_atomic(study.out / "manifest.json", json.dumps(pairs, indent=1))
    pictures = [collection.manifest()["sha256"] for collection in (photos, paintings)]
    return StudyScorer(study, networks, manifest, held_out[1], pictures, device, main)


def study_notes(scorer: StudyScorer) -> list[str]:
    """Below a table: how it was made, and how to read it."""
    study = scorer.study
    photos, paintings = (x or "the built-in samples" for x in (study.photos, study.paintings))
    return [
        f"Preset {study.preset}: {study.warmup} warm-up steps shared by the rows (multi-layer "
        f"content, uniform weights, no discriminator), then {study.steps} per row, batch "
        f"{study.batch_size}, {study.size} px, {study.seeds} seed(s). Photos: {photos}. Paintings: "
        f"{paintings}.",
        f"Scored on {len(scorer.manifest)} held-out pairs ({study.split}) at {study.size} px. "
        "n/a: too few pictures for that figure, or no network.",
        "Rows in italics are controls. “did not stylize”: closed less of the style gap than color "
        "matching + 0.15. Content scores can be bought with style: compare at matched style.",
    ]


def study_cards(scorer: StudyScorer) -> list[Card]:
    """The cards of all figures."""
    words = resolution(scorer.study.size)
    return make_cards(scorer.networks, len(scorer.manifest), len(scorer.paintings), words)


def train_and_score(scorer: StudyScorer, cells: Sequence[StudyRun]) -> dict[StudyRun, str]:
    """Work off what is not scored yet; returns why some cells could not be, if any."""
    study = scorer.study

    def work(cell: StudyRun) -> None:
        config = cell_config(study, cell)
        if not is_scored(scorer, config):  # meanwhile, by another process
            train_cell(study, cell)
            cell_scores(scorer, config)

    pending = [cell for cell in cells if not is_scored(scorer, cell_config(study, cell))]
    return run_pending(study, pending, work)


def curves_of(scorer: StudyScorer, cells: Sequence[StudyRun], origin: Scores) -> list[Curve]:
    """The content/style curves of finished cells; ``origin`` are the photo's scores."""
    strengths = (0.0, *scorer.study.strengths)
    scores = [cell_scores(scorer, cell_config(scorer.study, cell)) for cell in cells]
    return [Curve(strengths, (origin, *by_strength.values())) for by_strength in scores]


def control_scores(scorer: StudyScorer) -> dict[str, Scores]:
    """Scores of the control rows, kept or computed."""
    return _scores(scorer, "controls", {}, lambda: each(CONTROLS))


def cell_scores(scorer: StudyScorer, config: TrainConfig) -> dict[str, Scores]:
    """A trained cell's scores at the study's strengths, in their order, kept or computed."""
    strengths = {f"{s:g}": s for s in scorer.study.strengths}
    return _scores(
        scorer,
        config.out.name,
        {"settings": differences(TrainConfig(), config)},
        lambda: trained_painter(load_model(config.out, scorer.device), scorer.device, strengths),
    )


def is_scored(scorer: StudyScorer, config: TrainConfig) -> bool:
    """Whether a cell's scores are kept, so that nothing is left to do for it."""
    return _kept(scorer, config.out.name) is not None


def _scores(
    scorer: StudyScorer, name: str, about: dict[str, Any], load: Callable[[], Stylizer]
) -> dict[str, Scores]:
    """Scores from their file; those of other pairs or judges are computed anew."""
    if kept := _kept(scorer, name):
        return kept
    study = scorer.study
    scores = score_painter(
        load(), scorer.manifest, scorer.paintings, scorer.networks, study.size, scorer.device
    )
    if scorer.main:
        path = _file(scorer, name)
        remove_stale_parts(path.parent, older_than=DAY)  # other processes write here, too
        content = {
            "of": _identity(scorer), **about, "provenance": provenance(),
            "scores": {key: asdict(value) for key, value in scores.items()},
        }  # fmt: skip
        write_atomic(path, json.dumps(content))
    # Else another process of the launch might not find the file, and score again, all alone.
    join_processes(study.device).wait_for_everyone()
    return scores


def _file(scorer: StudyScorer, name: str) -> Path:
    return scorer.study.out / "scores" / scorer.study.split / f"{name}.json"


def _kept(scorer: StudyScorer, name: str) -> dict[str, Scores] | None:
    try:
        kept = json.loads(_file(scorer, name).read_text())
        if kept["of"] != _identity(scorer):
            return None
        return {key: Scores(**scores) for key, scores in kept["scores"].items()}
    except (FileNotFoundError, ValueError, LookupError, TypeError, AttributeError):
        return None  # none yet, or a damaged one


def _identity(scorer: StudyScorer) -> dict[str, object]:
    """What scores depend on beside the model."""
    study, networks = scorer.study, scorer.networks
    return {
        "size": study.size,
        "strengths": list(study.strengths),
        "pictures": scorer.pictures,
        "pairs": [f"{photo.name} {painting.name}" for photo, painting in scorer.manifest],
        "judges": [list(extractor.words) for extractor in networks.all],
    }
