"""Procedural scenes, the source images of the sample paintings.

Coordinates are in units of the image height: y runs from 0 (top) to 1, x from 0 to the aspect
ratio. Shapes are signed distances (negative inside), converted to antialiased masks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from PIL import Image

Array = np.ndarray


class Palette(NamedTuple):
    """The colors of one weather and time of day; each is RGB (3,) in [0,1]."""

    sky: Array
    horizon: Array
    far: Array
    near: Array
    light: Array
    accent: Array


_PALETTES = (
    "2f6fb3 cfe6f2 8fb0c4 5a8a3c fff2c4 c9472b",  # summer noon
    "4a4e8c f4a56a 8a6f8f 3d4a3a ffd27a b8323c",  # sunset
    "0e1a3a 35507c 24365c 16241f f6efc8 e0a030",  # moonlit night
    "8fa3b0 e9e2d0 a9b3b5 7c7a52 fdf6e3 9c4a2c",  # overcast
    "5b8fb8 fbe3b0 c79a62 b5702a fff0b8 8c2f1c",  # autumn
    "7f9cc4 f3e4ea b9c6dc dfe6ee fff6e8 35507a",  # snow
    "2b8c9e f7e9c0 6fb0a0 8a9a3c ffe9a0 d8602e",  # southern light
    "6b4f7a f0c9b8 9a7f9c 4f5d3c ffe0c0 d0824a",  # heather dusk
)
_BRIGHTS = "c8281e e8862a f2c230 6f9a2c 8a2a55 d85a7a 3f5fa8 f0e2c0 7a4aa0"
_SKINS, _HAIRS = "e8b894 c98a62 8a5a3c f0cbb0", "2a1a14 6a3f1e b8863c 8c8880 a03c1e"


def scene(seed: int, height: int, width: int) -> Array:
    """Draw the scene of a seed: RGB (height,width,3) float32, in [0,1] up to a few percent.

    Successive seeds cycle through five subjects: hills, sea, still life, portrait and flowers.
    """
    rng = np.random.default_rng([0x5CE7E, seed])
    y, x = (np.mgrid[:height, :width].astype(np.float32) + 0.5) / height
    palette = Palette(*map(_hex, rng.choice(_PALETTES).split()))
    rgb = np.zeros((height, width, 3), np.float32)
    canvas = Canvas(rgb, x, y, height, width / height, palette, rng)
    _SUBJECTS[seed % len(_SUBJECTS)](canvas)
    return np.ascontiguousarray(canvas.rgb[:, ::-1] if rng.random() < 0.5 else canvas.rgb)


def smooth_noise(rng: np.random.Generator, shape: tuple[int, ...], cell: float) -> Array:
    """Return fractal value noise (H,W) float32 in [0,1] for a shape (H,W,...), with features of
    `cell` pixels.
    """
    height, width = shape[:2]
    total = np.zeros((height, width), np.float32)
    for octave in range(3):
        rows, cols = (max(2, round(side * 2**octave / cell)) for side in (height, width))
        grid = Image.fromarray(rng.random((rows, cols), np.float32))
        total += np.asarray(grid.resize((width, height), Image.Resampling.BICUBIC)) / 2**octave
    low, high = float(total.min()), float(total.max())
    return (total - low) / (high - low)


@dataclass(frozen=True)
class Canvas:
    """An image to draw on, or a part of it: colors `rgb` (H,W,3), pixel coordinates (H,W)."""

    rgb: Array
    x: Array
    y: Array
    scale: int  # pixels per unit
    aspect: float  # width of the whole image in units
    palette: Palette
    rng: np.random.Generator

    def around(self, x: float, y: float, reach: float) -> Canvas:
        """Return the part within `reach` of a point, which shares memory; drawing there is fast."""
        sides = (y - reach, y + reach, x - reach, x + reach)
        top, bottom, left, right = (max(0, round(side * self.scale)) for side in sides)
        part = np.s_[top:bottom, left:right]
        return replace(self, rgb=self.rgb[part], x=self.x[part], y=self.y[part])

    def lay(self, where: Array, color: Array) -> None:
        """Composite a color (3,), or colors (H,W,3), with an opacity `where` (H,W)."""
        self.rgb[:] += where[..., None] * (np.clip(color, 0, 1) - self.rgb)

    def vary(self, color: Array, spread: float = 0.08) -> Array:
        """Return a similar color at random."""
        return np.clip(color + self.rng.normal(0, spread, 3).astype(np.float32), 0, 1)

    def pick(self, codes: str = _BRIGHTS) -> Array:
        """Return one of some colors at random; by default those of fruit, petals and cloth."""
        return self.vary(_hex(self.rng.choice(codes.split())), 0.04)

    def noise(self, cell: float, stretch: float = 1.0) -> Array:
        """Return smooth noise (H,W) with features `cell` units high and `stretch` times as wide."""
        rows, cols = self.x.shape
        narrow = smooth_noise(self.rng, (rows, max(2, round(cols / stretch))), cell * self.scale)
        return np.asarray(Image.fromarray(narrow).resize((cols, rows), Image.Resampling.BICUBIC))

    def inside(self, distance: Array) -> Array:
        """Return the antialiased mask (H,W) of a signed distance."""
        return np.clip(0.5 - distance * self.scale, 0, 1)

    def ellipse(self, cx: float, cy: float, rx: float, ry: float) -> Array:
        radius = np.hypot((self.x - cx) / rx, (self.y - cy) / ry)
        return self.inside((radius - 1) * min(rx, ry))

    def polygon(self, *corners: tuple[float, float]) -> Array:
        """Return the mask of a convex polygon, corners clockwise on the screen."""
        distance = np.full(self.x.shape, -np.inf, np.float32)
        for (ax, ay), (bx, by) in zip(corners, corners[1:] + corners[:1], strict=True):
            length = np.hypot(bx - ax, by - ay)
            edge = ((self.x - ax) * (by - ay) - (self.y - ay) * (bx - ax)) / length
            distance = np.maximum(distance, edge)
        return self.inside(distance)

    def box(self, left: float, top: float, right: float, bottom: float) -> Array:
        return self.polygon((left, top), (right, top), (right, bottom), (left, bottom))


def _hex(code: str) -> Array:
    return np.frombuffer(bytes.fromhex(code), np.uint8).astype(np.float32) / 255


def _ball(
    canvas: Canvas, cx: float, cy: float, rx: float, ry: float, color: Array, gloss: float = 0.0
) -> None:
    """Draw a rounded body lit from the upper left, with a highlight of strength `gloss`."""
    part = canvas.around(cx, cy, 1.1 * max(rx, ry))
    u, v = (part.x - cx) / rx, (part.y - cy) / ry
    shade = np.clip(0.75 - 0.35 * u - 0.45 * v, 0.25, 1.25)[..., None]
    shine = gloss * np.exp(-((u + 0.4) ** 2 + (v + 0.45) ** 2) / 0.05)[..., None]
    part.lay(part.ellipse(cx, cy, rx, ry), color * shade + shine)


def _cast_shadow(canvas: Canvas, x: float, y: float, r: float) -> None:
    part = canvas.around(x, y, 2.5 * r)
    part.lay(0.6 * part.ellipse(x + 0.7 * r, y, 1.5 * r, 0.35 * r), _hex("1c1420"))


def _sky(canvas: Canvas, horizon: float) -> None:
    """Draw the sky, with sun or moon and clouds."""
    palette, rng = canvas.palette, canvas.rng
    depth = np.clip(canvas.y / horizon, 0, 1)[..., None] ** 1.3
    canvas.rgb[:] = palette.sky + depth * (palette.horizon - palette.sky)
    cx, cy = rng.uniform(0.15, 0.85) * canvas.aspect, rng.uniform(0.15, 0.75) * horizon
    radius = rng.uniform(0.035, 0.08)
    canvas.lay(0.6 * np.exp(-np.hypot(canvas.x - cx, canvas.y - cy) / (3 * radius)), palette.light)
    canvas.lay(canvas.ellipse(cx, cy, radius, radius), palette.light)
    clouds = np.clip(3 * (canvas.noise(0.16, 2.5) - rng.uniform(0.5, 0.7)), 0, 0.85)
    canvas.lay(clouds * (canvas.y < horizon), 0.5 * (palette.light + palette.horizon))


def _hills(canvas: Canvas) -> None:
    """Draw four ridges, all but the farthest with trees and houses."""
    palette, rng, horizon = canvas.palette, canvas.rng, canvas.rng.uniform(0.35, 0.55)
    village = rng.random() ** 2
    _sky(canvas, horizon)
    for depth in np.linspace(0, 1, 4):
        ridge = horizon + depth * (0.85 - horizon)
        ridge = ridge + rng.uniform(-0.12, 0.12) * (canvas.x - canvas.aspect / 2) * depth
        for k, amplitude in enumerate((0.07, 0.035, 0.015)):
            phase = rng.uniform(0, 2 * np.pi)
            ridge -= amplitude * np.sin(canvas.x * (2.5 + depth) * 2**k + phase)
        ground = canvas.vary(palette.far + depth * (palette.near - palette.far), 0.04)
        light = 1 - 1.2 * np.clip(canvas.y - ridge, 0, 0.3) + 0.3 * canvas.noise(0.08, 4)
        canvas.lay(canvas.inside(ridge - canvas.y), ground * light[..., None])
        feet = np.sort(
            rng.uniform(0.03, 0.97, rng.integers(2, 5 + round(6 * village))) * canvas.aspect
        )
        for x in feet if depth else ():
            foot = float(ridge[0, int(x * canvas.scale)]) + 0.03
            place = _house if rng.random() < 0.1 + 0.7 * village else _tree
            place(canvas, float(x), foot, rng.uniform(0.1, 0.22) * (0.5 + depth))


def _tree(canvas: Canvas, x: float, y: float, h: float) -> None:
    """Draw a tree that stands at (x, y): a cypress, or a crown of overlapping clumps."""
    part, rng = canvas.around(x, y - 0.5 * h, h), canvas.rng
    leaf = canvas.vary(0.55 * canvas.palette.near + 0.1 * canvas.palette.accent, 0.05)
    part.lay(part.box(x - 0.04 * h, y - 0.5 * h, x + 0.04 * h, y), 0.3 * canvas.palette.accent)
    if rng.random() < 0.4:
        _ball(canvas, x, y - 0.55 * h, 0.13 * h, 0.5 * h, leaf)
        return
    for dx, dy in rng.normal(0, (0.17, 0.13), (7, 2)):
        clump = part.ellipse(x + dx * h, y + (dy - 0.68) * h, 0.19 * h, 0.16 * h)
        part.lay(clump, leaf * (1 - 1.6 * (dx + dy)))


def _house(canvas: Canvas, x: float, y: float, w: float) -> None:
    part, h = canvas.around(x, y - 0.5 * w, 1.2 * w), canvas.rng.uniform(0.5, 0.9) * w
    wall, left, right = canvas.vary(0.9 * canvas.palette.light), x - w / 2, x + w / 2
    part.lay(part.box(left, y - h, right, y), wall)
    part.lay(part.box(x + 0.18 * w, y - h, right, y), 0.65 * wall)
    roof = part.polygon((left - 0.08 * w, y - h), (x - 0.2 * w, y - 1.6 * h), (right, y - h))
    part.lay(roof, canvas.vary(canvas.palette.accent))
    for window in (x - 0.38 * w, x - 0.08 * w):
        part.lay(part.box(window, y - 0.7 * h, window + 0.15 * w, y - 0.35 * h), 0.3 * wall)


def _sea(canvas: Canvas) -> None:
    """Draw water with sunlight, a headland and boats."""
    palette, rng, horizon = canvas.palette, canvas.rng, canvas.rng.uniform(0.35, 0.55)
    _sky(canvas, horizon)
    below = np.clip((canvas.y - horizon) / (1 - horizon), 0, 1)
    water = 0.5 * (palette.sky + palette.horizon) * (1 - 0.5 * below[..., None])
    coarse, fine = canvas.noise(0.07, 7), canvas.noise(0.03, 6)
    swell = 0.7 * np.where(below > 0.35, coarse, fine) - 0.35
    canvas.lay(canvas.inside(horizon - canvas.y), water + swell[..., None])
    aside = (canvas.x - rng.uniform(0.2, 0.8) * canvas.aspect) / (0.06 + 0.2 * below)
    canvas.lay(np.exp(-(aside**2)) * (below > 0) * np.clip(6 * fine - 2.8, 0, 0.9), palette.light)
    top = horizon - 0.16 * np.clip(1 - canvas.x / rng.uniform(0.3, 0.9), 0, 1) ** 0.6
    headland = canvas.inside(top - canvas.y) * canvas.inside(canvas.y - horizon)
    canvas.lay(headland, palette.far * (0.7 + 0.5 * canvas.noise(0.05))[..., None])
    for y in np.sort(rng.uniform(horizon + 0.04, 0.88, rng.integers(2, 5))):
        _boat(canvas, rng.uniform(0.12, 0.88) * canvas.aspect, y, 0.03 + 0.2 * (y - horizon))


def _boat(canvas: Canvas, x: float, y: float, s: float) -> None:
    part, rng = canvas.around(x, y - s, 3 * s), canvas.rng
    mast = (x + rng.uniform(-0.1, 0.1) * s, y - 2.4 * s)
    sail = canvas.pick() if rng.random() < 0.5 else canvas.palette.light
    shadow = np.exp(-(((part.x - x) / s) ** 2) - np.clip(part.y - y, 0, 1) / (0.5 * s))
    part.lay(0.55 * shadow * (part.y > y), 0.4 * canvas.palette.accent)
    bow, stern = (x + s, y - 0.3 * s), (x - s, y - 0.22 * s)
    hull = part.polygon(stern, bow, (x + 0.7 * s, y + 0.1 * s), (x - 0.7 * s, y + 0.1 * s))
    part.lay(hull, 0.45 * canvas.vary(canvas.palette.accent))
    part.lay(part.polygon(mast, (x + 0.85 * s, y - 0.45 * s), (x, y - 0.4 * s)), sail)
    part.lay(part.polygon(mast, (x, y - 0.4 * s), (x - 0.7 * s, y - 0.35 * s)), 0.75 * sail)


def _interior(canvas: Canvas, edge: float) -> None:
    """Draw a wall, and a table with a cloth, whose top begins at `edge`."""
    palette, x, y = canvas.palette, canvas.x, canvas.y
    wall = canvas.vary(0.45 * palette.far + 0.3 * palette.sky)
    glow = 1.2 - 0.6 * x / canvas.aspect + 0.15 * canvas.noise(0.3)
    canvas.lay(np.ones_like(x), wall * glow[..., None])
    wood = (1.1 - 0.4 * (y - edge) + 0.25 * canvas.noise(0.02, 12))[..., None]
    canvas.lay(canvas.inside(edge - y), canvas.vary(_hex("8a5a32")) * wood)
    folds = (0.8 + 0.25 * np.sin(14 * x + 5 * y))[..., None]
    hem = edge + 0.1 + 0.3 * x / canvas.aspect + 0.02 * np.sin(20 * x)
    cloth = canvas.inside(edge + 0.03 - y) * canvas.inside(y - hem)
    canvas.lay(cloth, canvas.vary(palette.light) * folds)


def _still_life(canvas: Canvas) -> None:
    rng, edge = canvas.rng, canvas.rng.uniform(0.5, 0.62)
    _interior(canvas, edge)
    for x in rng.permuted([0.22, 0.5, 0.8])[: rng.integers(1, 3)] * canvas.aspect:
        _vase(canvas, x, edge + 0.13, rng.uniform(0.38, 0.58))
    fruit = canvas.pick()
    for y in np.sort(rng.uniform(edge + 0.12, 0.86, rng.integers(5, 9))):
        color = canvas.vary(fruit) if rng.random() < 0.5 else canvas.pick()
        x, radius = rng.uniform(0.12, 0.88) * canvas.aspect, rng.uniform(0.055, 0.09)
        _cast_shadow(canvas, x, y + 0.7 * radius, radius)
        _ball(canvas, x, y, radius * rng.uniform(0.95, 1.25), radius, color, gloss=0.5)


def _vase(canvas: Canvas, x: float, foot: float, h: float) -> None:
    """Draw a vessel whose half width is a smooth profile of the height."""
    _cast_shadow(canvas, x, foot, 0.25 * h)
    part, rng, color = canvas.around(x, foot - h / 2, 0.6 * h), canvas.rng, canvas.pick()
    belly, neck = rng.uniform(0.2, 0.32) * h, rng.uniform(0.35, 0.55)
    v = (foot - part.y) / h
    profile = np.sin(np.pi * np.clip(v, 0, 1) ** rng.uniform(0.6, 1.4)) ** 2
    half = belly * (neck + (1 - neck) * profile)
    across = (part.x - x) / half
    body = part.inside((np.abs(across) - 1) * half) * part.inside(np.abs(v - 0.5) * h - h / 2)
    shade = np.clip(0.85 - 0.45 * across + 0.6 * np.exp(-((across + 0.45) ** 2) / 0.03), 0.25, 1.5)
    band = 1 - 0.35 * (np.abs(v - rng.uniform(0.4, 0.7)) < 0.04)
    part.lay(body, color * (shade * band)[..., None])
    part.lay(part.ellipse(x, foot - h, neck * belly, 0.08 * belly), 0.25 * color)


def _portrait(canvas: Canvas) -> None:
    """Draw head and shoulders, lit from one side, on a clouded background."""
    palette, rng, ground = canvas.palette, canvas.rng, canvas.noise(0.35)[..., None]
    canvas.rgb[:] = palette.far * (0.5 + 0.4 * ground) + 0.25 * ground * palette.horizon
    skin, hair = canvas.pick(_SKINS), canvas.pick(_HAIRS)
    x, y = rng.uniform(0.4, 0.6) * canvas.aspect, rng.uniform(0.36, 0.46)
    length = rng.uniform(0.23, 0.4)
    canvas.lay(canvas.ellipse(x, y - 0.29 + length, rng.uniform(0.19, 0.25), length), hair)
    _ball(canvas, x, 1.05, rng.uniform(0.36, 0.48), 0.59 - 0.5 * y, canvas.pick())
    canvas.lay(canvas.box(x - 0.075, y + 0.1, x + 0.075, y + 0.3), 0.7 * skin)
    collar = canvas.polygon((x - 0.13, y + 0.28), (x + 0.13, y + 0.28), (x, y + 0.5))
    canvas.lay(collar, canvas.vary(palette.light))
    canvas.lay(canvas.ellipse(x, y + 0.3, 0.085, 0.05), 0.75 * skin)
    _face(canvas, x, y, skin, hair)
    parting = canvas.inside(canvas.y - y + 0.12 - rng.uniform(-0.3, 0.3) * (canvas.x - x))
    canvas.lay(canvas.ellipse(x, y - 0.16, 0.19, 0.13) * parting, 1.2 * hair)
    if rng.random() < 0.45:
        hat = canvas.pick()
        _ball(canvas, x, y - 0.22, 0.19, rng.uniform(0.12, 0.2), hat)
        _ball(canvas, x, y - 0.14, rng.uniform(0.2, 0.34), 0.05, 0.85 * hat)


def _face(canvas: Canvas, x: float, y: float, skin: Array, hair: Array) -> None:
    part = canvas.around(x, y, 0.25)
    u = (part.x - x) / 0.17
    light = np.clip(1.02 - 0.3 * u - 0.25 * u**2, 0.4, 1.1)[..., None]
    part.lay(part.ellipse(x, y, 0.17, 0.235), skin * light)
    for side in (-1, 1):
        eye = x + side * 0.068
        part.lay(0.35 * part.ellipse(eye, y - 0.03, 0.048, 0.032), 0.4 * skin)
        part.lay(part.ellipse(eye, y - 0.025, 0.032, 0.015), _hex("efe8dc"))
        part.lay(part.ellipse(eye, y - 0.025, 0.014, 0.015), _hex("1c1814"))
        part.lay(part.ellipse(eye, y - 0.068, 0.042, 0.009), 0.8 * hair)
        part.lay(0.3 * part.ellipse(eye, y + 0.07, 0.045, 0.035), _hex("c8483c"))
    part.lay(0.45 * part.polygon((x, y - 0.02), (x + 0.04, y + 0.07), (x, y + 0.08)), 0.5 * skin)
    part.lay(part.ellipse(x, y + 0.13, 0.055, 0.014), _hex("9c3a36"))
    part.lay(0.4 * part.ellipse(x, y + 0.155, 0.045, 0.01), 0.5 * skin)


def _flowers(canvas: Canvas) -> None:
    """Draw a bouquet in a vase."""
    rng, edge, x = canvas.rng, canvas.rng.uniform(0.72, 0.8), canvas.aspect / 2
    _interior(canvas, edge)
    leaf, reach = canvas.vary(_hex("4f7a34")), min(0.36, 0.4 * canvas.aspect)
    spots = rng.normal(0, (0.5, 0.42), (32, 2)).clip(-1, 1) * (reach, 0.3) + (x, 0.36)
    for px, py in spots[:16]:
        mouth, stem = edge - 0.2, ((px - 0.006, py), (px + 0.006, py))
        canvas.lay(canvas.polygon(*stem, (x + 0.012, mouth), (x - 0.012, mouth)), 0.7 * leaf)
        _ball(canvas, px, py + 0.06, 0.09, 0.04, canvas.vary(leaf))
    _vase(canvas, x, edge + 0.1, 0.36)
    petals = [canvas.pick() for _ in range(3)]
    for px, py in spots[4:]:
        _blossom(canvas, px, py, petals[rng.integers(3)])


def _blossom(canvas: Canvas, x: float, y: float, color: Array) -> None:
    rng, part, size = canvas.rng, canvas.around(x, y, 0.11), canvas.rng.uniform(0.055, 0.1)
    radius, angle = np.hypot(part.x - x, part.y - y), np.arctan2(part.y - y, part.x - x)
    lobe = 0.7 + 0.3 * np.abs(np.cos(angle * rng.integers(5, 9) / 2))
    tone = np.clip(0.5 + 0.7 * radius / size - 2 * (part.y - y), 0.35, 1.15)[..., None]
    part.lay(part.inside(radius - size * lobe), canvas.vary(color, 0.04) * tone)
    part.lay(part.ellipse(x, y, 0.25 * size, 0.25 * size), _hex("d8a020"))


_SUBJECTS: tuple[Callable[[Canvas], None], ...] = (_hills, _sea, _still_life, _portrait, _flowers)
