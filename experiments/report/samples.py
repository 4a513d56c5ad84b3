"""Samples for a report: a few held-out pairs, stylized by every row."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ...models.style_code import style_code
from ...trainers.model_files import build_encoder, load_model
from ..scoring.protocol import PairPaths, read_squares
from ..study.runs import StudyRun

COUNT, SIZE = 6, 256  # pairs, pixels: large enough to see brush strokes, whatever the training size


class Sample(NamedTuple):
    """A held-out pair and the outputs of all rows; images are (3,H,W) in [0,1]."""

    content: Tensor
    style: Tensor
    outputs: dict[str, Tensor]  # row -> output
    attention: dict[str, Tensor]  # row -> A (1,h,w), only of rows that predict one


@torch.no_grad()
def study_samples(
    runs: Mapping[str, StudyRun], manifest: Sequence[PairPaths], device: torch.device
) -> list[Sample]:
    """Stylize pairs spread evenly over the manifest with one run per row.

    Rows whose model is not on this machine are left out.
    """
    pairs = manifest[:: max(1, len(manifest) // COUNT)][:COUNT]
    photos, paintings = zip(*pairs, strict=True)
    content, style = (read_squares(paths, SIZE, device) for paths in (photos, paintings))
    samples = [Sample(*pair, {}, {}) for pair in zip(content, style, strict=True)]
    for row, run in runs.items():
        if not (run.dir / "model.safetensors").is_file():
            continue
        generator, config = load_model(run.dir, device)
        encoder, _ = build_encoder(config, list(config.style.layers))
        # Style codes are computed at the resolution that the model was trained with.
        small = read_squares(paintings, config.size, device)
        code = style_code(small, encoder.to(device)(small, config.style.layers))
        stylized = generator(content, code)
        for i, sample in enumerate(samples):
            sample.outputs[row] = stylized.image[i]
            if (stylized.attention != 1).any():
                sample.attention[row] = stylized.attention[i]
    return samples
