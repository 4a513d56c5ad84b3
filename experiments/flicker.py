"""How much less ``underdrawing video`` flickers than painting frame by frame, and what that costs.

    python -m underdrawing.experiments.flicker RUN PAINTING

Films whose motion is known are made of the sample photos (extra ``demo``), with a camera's noise
and without. Paint that sticks to things has no warping error (``metrics/flicker.py``).
"""

import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import torch
import torch.nn.functional as F
import tyro
from kornia.geometry.transform import warp_perspective
from torch import Tensor

from ..data.files import write_atomic
from ..data.images import read_image, to_tensor
from ..data.samples import PHOTOS, shipped
from ..metrics.flicker import detail, warping_error
from ..models.steady import Steady
from ..trainers.painter import load
from .main import run_command

FRAMES, HEIGHT, WIDTH = 12, 144, 192
NOISE = (0, 4)  # standard deviation of the camera's noise, in grey levels
RADIUS, SPEED = 24, 6  # of the disc that passes, in pixels, and pixels a frame

Camera = Callable[[int], Tensor]  # number of a frame -> (3,3) from its pixels to the photo's
Paint = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class FlickerConfig:
    """Measure the flicker of painted films whose motion is known."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder of the trained model."""
    style: Annotated[str, tyro.conf.Positional]
    """The painting, or the name of a look."""
    out: Path = Path("flicker.json")
    """File for the figures."""


class Film(NamedTuple):
    """Frames (1,3,H,W) and, for each but the first, the motion (3,3) from the one before."""

    frames: list[Tensor]
    motions: list[Tensor]


def shift(x: float, y: float) -> Tensor:
    """The homography of a shift."""
    return torch.tensor([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]])


def still(number: int) -> Tensor:
    """A camera on a stand."""
    return shift(50, 30)


def pan(number: int) -> Tensor:
    """A camera that turns: 2.5 pixels a frame."""
    return shift(10 + 2.3 * number, 10 + 1.1 * number)


def zoom(number: int) -> Tensor:
    """A camera that turns about its axis and comes nearer."""
    scale, angle = 0.8 * (1 - 0.006 * number), 0.004 * number
    c, s = scale * math.cos(angle), scale * math.sin(angle)
    turn = torch.tensor([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
    return shift(150, 105) @ turn @ shift(-WIDTH / 2, -HEIGHT / 2)


CAMERAS: dict[str, Camera] = {"still": still, "pan": pan, "zoom": zoom}


def make_film(photo: Tensor, camera: Camera, noise: float) -> Film:
    """A film of a photo (1,3,H,W); the noise is drawn from a seed."""
    random, frames = torch.Generator().manual_seed(0), []
    for number in range(FRAMES):
        seen = torch.linalg.inv(camera(number))[None]
        frame = warp_perspective(photo, seen, (HEIGHT, WIDTH), mode="bicubic")
        grain = torch.randn(frame.shape, generator=random)
        frames.append(((frame + noise / 255 * grain).clamp(0, 1) * 255).round() / 255)
    steps = range(1, FRAMES)
    return Film(frames, [torch.linalg.inv(camera(n)) @ camera(n - 1) for n in steps])


def steadied(photos: Sequence[Tensor], painted: Sequence[Tensor]) -> list[Tensor]:
    """Painted frames, as the command would give them."""
    steady = Steady()
    return [steady(*both) for both in zip(photos, painted, strict=True)]


def measure(film: Film, paint: Paint) -> dict[str, float]:
    """Warping error and detail of a film, painted frame by frame, and steadied."""
    alone = [paint(frame) for frame in film.frames]
    steady = steadied(film.frames, alone)
    return {
        "source": warping_error(film.frames, film.motions),
        "frame by frame": warping_error(alone, film.motions),
        "steady": warping_error(steady, film.motions),
        "detail frame by frame": detail(alone),
        "detail steady": detail(steady),
    }


def measure_ghost(film: Film, paint: Paint) -> dict[str, float]:
    """A bright disc passes before a still film: how far is what it uncovers from that frame painted
    alone, and how far is that frame from the one before? In grey levels, means.
    """
    rows, columns = torch.arange(HEIGHT)[:, None], torch.arange(WIDTH)
    discs = [
        ((columns - 40 - SPEED * n).square() + (rows - HEIGHT // 2).square() < RADIUS**2)[
            None, None
        ]
        for n in range(FRAMES)
    ]
    photos = [x.masked_fill(disc, 0.95) for x, disc in zip(film.frames, discs, strict=True)]
    alone = [paint(photo) for photo in photos]
    steady = steadied(photos, alone)
    ghost, change = [], []
    for n in range(1, FRAMES):
        uncovered = (discs[n - 1] & ~discs[n]).expand(1, 3, -1, -1)
        ghost.append((steady[n] - alone[n])[uncovered].abs().mean())
        change.append((alone[n] - alone[n - 1])[uncovered].abs().mean())
    return {
        "ghost": 255 * torch.stack(ghost).mean().item(),
        "change": 255 * torch.stack(change).mean().item(),
    }


def flicker(config: FlickerConfig) -> dict[str, dict[str, float]]:
    """Figures by film, means over the test photos; written to the file as well.

    Raises:
        ValueError: no such model or style, or the extra ``demo`` is not installed.
    """
    painter = load(config.run, "cpu")
    code = painter.code(config.style)
    figures: dict[str, list[dict[str, float]]] = {}
    for name in PHOTOS["test"]:
        whole = to_tensor(read_image(shipped(name)))[None]
        scale = 260 / min(whole.shape[-2:])
        photo = F.interpolate(whole, scale_factor=scale, mode="bilinear", antialias=True)
        for noise in NOISE:
            films = {label: make_film(photo, camera, noise) for label, camera in CAMERAS.items()}
            for label, film in films.items():
                found = measure(film, lambda x: painter.stylize(x, code))
                figures.setdefault(f"{label}, noise {noise}", []).append(found)
            found = measure_ghost(films["still"], lambda x: painter.stylize(x, code))
            figures.setdefault(f"passing disc, noise {noise}", []).append(found)
    means = {
        film: {key: sum(f[key] for f in found) / len(found) for key in found[0]}
        for film, found in figures.items()
    }
    write_atomic(config.out, json.dumps(means, indent=2) + "\n")
    return means


def command(arguments: list[str]) -> None:
    """Run the measurement."""
    name = "python -m underdrawing.experiments.flicker"
    config = tyro.cli(FlickerConfig, prog=name, args=arguments)
    for film, found in flicker(config).items():
        print(film + ": " + ", ".join(f"{name} {value:.2f}" for name, value in found.items()))


if __name__ == "__main__":
    run_command("flicker", sys.argv[1:])
