"""Samples show every trained row on the same pairs."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from underdrawing.experiments.report.samples import COUNT, SIZE, study_samples
from underdrawing.experiments.study.runs import StudyRun
from underdrawing.trainers.config import TrainConfig


def test_study_samples_stylize_pairs_with_every_finished_run(
    tiny: Callable[..., TrainConfig], write_model: Callable[..., Path],
    folders: tuple[Path, Path], tmp_path: Path,
) -> None:  # fmt: skip
    configs = [tiny(name, out=tmp_path / name) for name in ("multi-layer", "attention")]
    for config in configs:
        write_model(config, residual=0.1, attention=300)
    plain, attention = (StudyRun(config.recipe, 0, config, config) for config in configs)
    missing = StudyRun("missing", 0, replace(plain.config, out=tmp_path / "no"), plain.start)
    runs = {run.title: run for run in (plain, attention, missing)}
    photos, paintings = (sorted(folder.iterdir()) for folder in folders)
    manifest = list(zip(photos[:8], paintings[:8], strict=True))
    samples = study_samples(runs, manifest, torch.device("cpu"))
    assert len(samples) == COUNT
    for sample in samples:
        assert list(sample.outputs) == ["multi-layer", "attention"]
        assert list(sample.attention) == ["attention"]
        for image in (sample.content, sample.style, *sample.outputs.values()):
            assert image.shape == (3, SIZE, SIZE)
        assert abs(sample.attention["attention"].mean() - 1) < 1e-4
    assert not torch.equal(samples[0].content, samples[1].content)
