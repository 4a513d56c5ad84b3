"""Scoring of a study's runs on its held-out pairs, with a cache of the scores."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...data.files import DAY, content_hash, one_line, remove_stale_parts, write_atomic
from ...data.folders import Collection
from ...data.record import check_images
from ...metrics.cards import Card
from ...metrics.scores import MetricNetworks, Scores, make_cards
from ...trainers.config import TrainConfig, differences
from ...trainers.model_files import SHIPPED, load_model
from ...trainers.runtime import join_processes
from ...trainers.tracking import initial_model, provenance
from ...trainers.trainer import collections
from ..analysis.curves import Curve
from ..analysis.results import MARGIN
from ..analysis.tables import Column, make_columns
from ..presets import StudyConfig
from ..scoring.networks import make_networks
from ..scoring.protocol import (
    CONTROLS,
    Boundaries,
    PairPaths,
    StylizeFn,
    each,
    find_boundaries,
    make_manifest,
    reference_features,
    reference_paintings,
    resolution,
    score_methods,
    trained_method,
)
from .runs import StudyRun

RunScores = dict[str, Scores]  # by strength, in rising order

SCORES_VERSION = 2  # increase when a code change alters the scores of a trained model


@dataclass(frozen=True)
class StudyScorer:
    """Scores runs on the held-out pairs of a study, with the same metric networks."""

    study: StudyConfig
    networks: MetricNetworks
    manifest: list[PairPaths]
    images: dict[str, Collection]  # photos and paintings
    boundaries: Boundaries  # those that people drew in the photos; may be empty
    device: torch.device
    is_main: bool  # whether this process writes files

    @cached_property
    def data(self) -> list[str]:
        """Content hashes of photos and paintings."""
        return [collection.sha256 for collection in self.images.values()]

    @cached_property
    def references(self) -> list[Path]:
        """The reference set of FID and KID."""
        return reference_paintings(self.images["paintings"], self.manifest)

    @cached_property
    def reference_features(self) -> list[Tensor]:
        """Its features, for all runs."""
        return reference_features(self.references, self.networks, self.study.size, self.device)

    def score_run(self, run: StudyRun) -> RunScores:
        """Score a trained run at the strengths of the study, and cache the scores."""
        strengths = {str(strength): strength for strength in self.study.strengths}
        method = trained_method(load_model(run.dir, self.device), self.device, strengths)
        return self._compute(run.key, method, differences(TrainConfig(), run.config))

    def score_controls(self) -> dict[str, Scores]:
        """Return the scores of the control rows, from the cache or computed.

        This is the first work of a study, so the images, which must stay the same from now on, are
        recorded in ``OUT/images.json``, and the pairs in ``OUT/manifest.json``.
        """
        if self.is_main:
            pairs = [[photo.name, painting.name] for photo, painting in self.manifest]
            images = {name: collection.manifest() for name, collection in self.images.items()}
            write_atomic(self.study.out / "manifest.json", json.dumps(pairs, indent=1))
            write_atomic(self.study.out / "images.json", json.dumps(images))
        return self.cached("controls") or self._compute("controls", each(CONTROLS), [])

    def cached(self, name: str) -> dict[str, Scores] | None:
        """Return scores from the cache; None if absent, damaged, or of other pairs or networks."""
        try:
            cached = json.loads(self._path(name).read_text())
            if cached["of"] != self._identity:
                return None
            return {key: Scores(**scores) for key, scores in cached["scores"].items()}
        except (FileNotFoundError, ValueError, LookupError, TypeError, AttributeError):
            return None

    def _compute(self, name: str, method: StylizeFn, settings: list[str]) -> dict[str, Scores]:
        scores = score_methods(
            method, self.manifest, self.reference_features, self.networks, self.study.size,
            self.device, boundaries=self.boundaries,
        )  # fmt: skip
        if self.is_main:
            # Younger parts may belong to another process.
            remove_stale_parts(self._path(name).parent, older_than=DAY)
            content = {
                "of": self._identity, "settings": settings, "provenance": provenance(),
                "scores": {key: asdict(value) for key, value in scores.items()},
            }  # fmt: skip
            write_atomic(self._path(name), json.dumps(content))
        # Otherwise another process of the launch might miss the file and score again, alone.
        join_processes(self.study.device).wait_for_everyone()
        return scores

    def _path(self, name: str) -> Path:
        return self.study.out / "scores" / self.study.split / f"{name}.json"

    @cached_property
    def _identity(self) -> dict[str, Any]:
        """Everything that scores depend on besides the model."""
        networks = [*self.networks.all, *filter(None, [self.networks.saliency])]
        drawn = [
            content_hash(self.boundaries[photo]) if photo in self.boundaries else None
            for photo, _ in self.manifest
        ]
        return {
            "version": SCORES_VERSION,
            "size": self.study.size,
            "strengths": list(self.study.strengths),
            "data": self.data,
            "pairs": len(self.manifest),  # which the data determine, with their number
            "networks": [[e.name, e.weights_sha256] for e in networks],
        } | ({"boundaries": drawn} if self.boundaries else {})

    def sha256(self, runs: Sequence[StudyRun]) -> dict[str, str | None]:
        """Return the hashes of all inputs: images, initial model, weights of all networks."""
        init = self.study.init if any(run.start.init for run in runs) else None
        inputs = dict(zip(self.images, self.data, strict=True)) | {
            "initial model": initial_model(replace(TrainConfig(), init=init))
        }
        descriptions = [run.dir / "run.json" for run in runs]
        for encoder in [json.loads(p.read_text())["encoder"] for p in descriptions if p.is_file()]:
            inputs[f"encoder {encoder['name']}"] = encoder["sha256"]
        return inputs | {f"metric network {name}": h for name, h in self._identity["networks"]}

    def columns(self) -> list[Column]:
        """Return the columns of tables."""
        return make_columns(self.networks, boundaries=bool(self.boundaries))

    def cards(self, scores: Mapping[str, Scores]) -> list[Card]:
        """Return the cards of all metrics, given the scores of methods by name."""
        size = resolution(self.study.size)
        return make_cards(self.networks, scores, len(self.references), size)

    def notes(self, study: StudyConfig) -> list[str]:
        """Return how a table of this study, or of it with another start, was made and is read."""
        start = f"the model in {study.init}"
        if study.init in (None, SHIPPED):
            start = "the shipped model" if study.init else "random weights"
        photos, paintings = (
            one_line(str(x or "built-in samples")) for x in (study.photos, study.paintings)
        )
        return [
            f"Preset {study.preset}: {study.warmup} warm-up steps shared by the rows, from "
            f"{start} (multi-layer content, uniform weights, no discriminator), "
            f"then {study.steps} per row, batch "
            f"{study.batch_size}, {study.size} px, {study.seeds} seed(s). Photos: {photos}. "
            f"Paintings: {paintings}. Evaluated on {len(self.manifest)} held-out pairs "
            f"({study.split}) at {study.size} px.",
            "Controls are in italics. n/a: too few images for the metric, or no weights of its "
            "network. Below minimum stylization: style gap closed is less than that of color "
            f"transfer + {MARGIN:g}. Content metrics can be improved by stylizing less: compare at "
            "matched style.",
        ]


def make_scorer(study: StudyConfig) -> StudyScorer:
    """Load the metric networks and choose the pairs; nothing is written to ``OUT``.

    Raises:
        ValueError: unusable folders, other images than before, no held-out images, or no weights
            for a metric network.
    """
    processes = join_processes(study.device)
    data = TrainConfig(photos=study.photos, paintings=study.paintings)
    with processes.main_process_first():  # which fills the caches
        photos, paintings = collections(data, processes.is_main_process)
        networks = make_networks(processes.device, study.weights_dir)
    images = {"photos": photos, "paintings": paintings}
    advice = "restore them to continue it, or choose another --out"
    check_images(study.out / "images.json", images, advice)
    manifest = make_manifest(
        photos.distinct(study.split), paintings.distinct(study.split), study.pairs
    )
    boundaries = find_boundaries(study.boundaries, manifest)
    return StudyScorer(
        study, networks, manifest, images, boundaries, processes.device, processes.is_main_process
    )


def make_curves(
    rows: Mapping[str, Sequence[StudyRun]],
    scores: Mapping[str, RunScores],
    reasons: Mapping[str, str],
    photo: Scores,
) -> tuple[dict[str, list[Curve]], dict[str, str]]:
    """Return the rows' curves, one per seed, and the rows without one with the reason.

    Scores and reasons are by the key of the run; ``photo``, the scores of the photo itself, is the
    point of all curves at strength 0.
    """
    curves, skipped = dict[str, list[Curve]](), dict[str, str]()
    for title, runs in rows.items():
        if missing := [reasons[run.key] for run in runs if run.key in reasons]:
            skipped[title] = missing[0]
            continue
        by_seed = [{"0": photo} | scores[run.key] for run in runs]
        curves[title] = [Curve(tuple(map(float, s)), tuple(s.values())) for s in by_seed]
    return curves, skipped
