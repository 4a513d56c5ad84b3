"""Samples show every trained row on the same pairs."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from underdrawing.experiments.report.samples import COUNT, SIZE, study_samples
from underdrawing.experiments.study.runs import StudyRun
from underdrawing.trainers.config import TrainConfig, to_json
from underdrawing.trainers.model_files import build_generator, save_model


def make_run(config: TrainConfig, title: str) -> StudyRun:
    """A run with random weights, also where an untrained model has zeros."""
    torch.manual_seed(0)
    state = build_generator(config).state_dict()
    config.out.mkdir()
    (config.out / "config.json").write_text(to_json(config))
    save_model({name: x + 0.1 * torch.randn_like(x) for name, x in state.items()}, config.out)
    return StudyRun(title, 0, config, config)


def test_study_samples_stylize_pairs_with_every_finished_run(
    tiny: Callable[..., TrainConfig], folders: tuple[Path, Path], tmp_path: Path
) -> None:
    plain, attention = (
        make_run(tiny(recipe, out=tmp_path / recipe), recipe)
        for recipe in ("multi-layer", "attention")
    )
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
