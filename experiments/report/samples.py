"""Pictures for a report: a few held-out pairs, and what every row makes of them."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from ...models.style_code import style_code
from ...trainers.model_files import build_encoder, load_model
from ..scoring.protocol import read_squares
from ..study.runs import StudyRun, cell_config
from ..study.scores import StudyScorer

PAIRS, SIZE = 6, 256  # pictures worth looking at, whatever the training size


class ImageLike(NamedTuple):
    """A held-out pair and what every row makes of it; images are (3,H,W) in [0,1]."""

    content: Tensor
    style: Tensor
    outputs: dict[str, Tensor]  # row -> output
    attention: dict[str, Tensor]  # row -> A (1,h,w), mean one, of rows that predict one


@torch.no_grad()
def cell_pictures(scorer: StudyScorer, cells: Mapping[str, StudyRun]) -> list[ImageLike]:
    """What cells, by row, make of a few pairs; those whose model is elsewhere are left out."""
    chosen = scorer.manifest[:: max(1, len(scorer.manifest) // PAIRS)][:PAIRS]
    photos, paintings = zip(*chosen, strict=True)
    content, style = (read_squares(paths, SIZE, scorer.device) for paths in (photos, paintings))
    results = {}
    for row, cell in cells.items():
        run = cell_config(scorer.study, cell).out
        if not (run / "model.safetensors").is_file():
            continue
        generator, trained = load_model(run, scorer.device)
        encoder = build_encoder(trained, list(trained.style.layers))[0].to(scorer.device)
        # The code is taken at the scale at which the model met paintings.
        small = read_squares(paintings, trained.size, scorer.device)
        code = style_code(small, encoder(small, trained.style.layers))
        results[row] = generator(content, code)
    maps = {row: r.attention for row, r in results.items() if bool((r.attention != 1).any())}
    return [
        ImageLike(
            content[i], style[i],
            {row: r.image[i] for row, r in results.items()},
            {row: attention[i] for row, attention in maps.items()},
        )
        for i in range(len(chosen))
    ]  # fmt: skip
