"""Procedural paintings: render any image in one of several painting techniques.

Brushes, pens and stones have a fixed size in pixels. Every technique renders at `FINE` times the
final resolution, which makes edges smooth.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFilter

from .scenes import smooth_noise

Array = np.ndarray
Rng = np.random.Generator

FINE = 2


def _palette(codes: str) -> Array:
    """Parse hexadecimal codes into colors (K,3)."""
    return np.frombuffer(bytes.fromhex(codes), np.uint8).reshape(-1, 3).astype(np.float32) / 255


_OILS = _palette("1d3f8f 2f7fc0 f2c21f e07b1c b5341f 2f6b3a f3ead2 231a2e")
_PURE = _palette("e8452c f59a1e f7d93a 5fae3f 2a7fd0 5b49b0 d9528f 2fa8a0")
_INKS = _palette("22304f 3f6a8c 9fb8b4 c8503a e0a868 7c8a52 efe0bc 8a5a50")
_STONES = _palette("1f3f86 2f86a8 d9a531 f2e3b0 a83a28 2f6f58 6b3a2a 1c1e2c e8e0d0")
_PAPERS = _palette("d9c4a0 b9b8a8 c9b48c a8b0b0")
_PENS = _palette("2a1a12 1c1c24 4a1e14")


def paint_canvas(technique: str, source: Array, seed: int) -> Array:
    """Render an image (H,W,3) in [0,1] in a technique; deterministic for a seed >= 0.

    Returns:
        RGB (H,W,3) float32 in [0,1].

    Raises:
        ValueError: no such technique.
    """
    if technique not in TECHNIQUES:
        raise ValueError(f"no technique {technique!r}; choose one of {', '.join(TECHNIQUES)}")
    rng = np.random.default_rng([seed, *technique.encode()])
    return np.clip(TECHNIQUES[technique](source.astype(np.float32), rng), 0, 1).astype(np.float32)


def impasto(source: Array, rng: Rng) -> Array:
    """Paint thick curved strokes along the edges, coarse to fine, lit from the upper left.

    After Hertzmann, *Painterly rendering with curved brush strokes of multiple sizes* (SIGGRAPH
    1998): finer brushes are used only where the canvas still differs from the source, and a stroke
    ends where the source's color changes.
    """
    colors = _attract(_saturate(source, 1.3), _OILS, 0.4)
    flow, canvas = _flow(source, rng), _Canvas(source.shape, ground=_palette("6b4a2a"))
    for width, length, tolerance in ((13, 48, 0.0), (8, 34, 0.09), (5, 20, 0.16)):
        target = _blur(colors, width / 5)
        error = np.linalg.norm(_blur(_downsample(canvas.rgb), width / 5) - target, axis=-1)
        starts = _scatter(error >= tolerance, 0.9 * width, rng)
        mixed = _at(target, starts) + rng.normal(0, 0.05, (len(starts), 3))
        canvas.stroke(_trace(starts, flow, length, target, rng), mixed, width, rng)
    return canvas.lit(0.5)


def pointillism(source: Array, rng: Rng) -> Array:
    """Paint round dabs of pure color on a pale ground."""
    colors = _blur(_attract(0.1 + 0.85 * _saturate(source, 1.4), _PURE, 0.25), 1.5)
    flow, canvas = _flow(source, rng), _Canvas(source.shape, ground=_palette("efe6cf"))
    for width, spacing, contrast in ((10, 5.5, 0.1), (7.5, 6, 0.3), (6.5, 8, 0.5)):
        starts = _scatter(np.ones(source.shape[:2], bool), spacing, rng)
        pure = _PURE[rng.integers(len(_PURE), size=len(starts))]
        dabs = _at(colors, starts) + contrast * (pure - _luma(pure)[:, None])
        canvas.stroke(_trace(starts, flow, width, colors, rng), dabs, width, rng)
    return canvas.lit(0.25)


def woodblock(source: Array, rng: Rng) -> Array:
    """Print flat inks with wood grain and dark outlines on fibrous paper."""
    blocks, means = _blocks(source, 7)
    y = np.arange(len(blocks))[:, None] / FINE
    fibers = smooth_noise(rng, blocks.shape, 3 * FINE)
    plank = smooth_noise(rng, blocks.shape, 160 * FINE)
    grain = 0.5 + 0.5 * np.sin(2 * np.pi * (y / 4 + 6 * plank))
    gradient = 0.45 * np.clip(1 - y / (0.3 * len(source)), 0, 1)  # wiped ink at the top
    inks = _attract(_saturate(_stretch(means), 1.2), _INKS, 0.9, sharpness=80)[blocks]
    paper = _palette("f1e4c3") * (0.94 + 0.1 * fibers[..., None])
    print_ = _over(paper, 1 - 0.28 * grain**4 - 0.25 * fibers**2, _over(inks, gradient, _INKS[0]))
    return _downsample(_over(print_, _outlines(source, _luma(means)[blocks]), _palette("1a1e30")))


def hatching(source: Array, rng: Rng) -> Array:
    """Draw pen hatching, crossed in dark areas, and chalk highlights on toned paper."""
    luma = _stretch(_upsample(_luma(_blur(source, 0.7))))
    gamma = np.log(0.6) / np.log(0.98 * luma.mean() + 0.01)  # moves the mean to 0.6
    dark = 1 - luma**gamma
    form = _blur(dark, 5)
    fibers = smooth_noise(rng, dark.shape, 2.5 * FINE)
    canvas = rng.choice(_PAPERS) * (0.92 + 0.16 * fibers[..., None])
    ink, slant = rng.choice(_PENS), rng.uniform(0.6, 1.0)
    chalk = _hatch(1 - dark, form, slant + 0.3, 0.72, rng)
    canvas = _over(canvas, 0.75 * chalk, _palette("f6f0e2"))
    for turn, threshold in ((0.0, 0.22), (1.2, 0.48), (-0.5, 0.66), (0.6, 0.84)):
        lines = _hatch(dark, form, slant + turn, threshold, rng)
        canvas = _over(canvas, (0.85 - 0.2 * fibers) * lines, ink)
    return _downsample(_over(canvas, 0.8 * _outlines(source, luma), ink))


def mosaic(source: Array, rng: Rng) -> Array:
    """Set cut stones along the edges in dark mortar.

    After Hausner, *Simulating decorative mosaics* (SIGGRAPH 2001): each stone owns the pixels that
    are nearest in the Chebyshev metric of its own orientation.
    """
    centers, owner, margin = _stones(_flow(source, rng), 8.0, rng)
    colors = _at(_saturate(_blur(source, 2), 1.3), centers)
    colors = _attract(colors, _STONES, 0.6) * rng.normal(1, 0.1, (len(centers), 1))
    bevel = np.add(*np.gradient(_blur(np.minimum(margin, 2.5), 1)))
    glaze = 0.92 + 0.16 * smooth_noise(rng, owner.shape, 3 * FINE) + 0.5 * bevel
    mortar = _palette("4a4238") * (0.8 + 0.4 * smooth_noise(rng, owner.shape, FINE))[..., None]
    stones = colors[owner] * glaze[..., None]
    return _downsample(_over(mortar, np.clip(2 * margin - 0.6, 0, 1), stones))


TECHNIQUES: dict[str, Callable[[Array, Rng], Array]] = {
    technique.__name__: technique
    for technique in (impasto, pointillism, woodblock, hatching, mosaic)
}


class _Canvas:
    """Wet paint: colors `rgb` (FINE·H,FINE·W,3) and thickness `relief` (FINE·H,FINE·W)."""

    def __init__(self, shape: tuple[int, ...], ground: Array) -> None:
        y, x = np.mgrid[: shape[0] * FINE, : shape[1] * FINE].astype(np.float32)
        self.relief = 0.3 * np.sin(1.6 * x) * np.sin(1.6 * y)  # the weave
        self.rgb = np.broadcast_to(ground, (*x.shape, 3)).copy()

    def stroke(self, paths: Array, colors: Array, width: float, rng: Rng) -> None:
        """Paint strokes along paths (N,L,2) of (y,x) in colors (N,3), later ones on top.

        A stroke is a ribbon of points with one row per bristle. The points of all strokes are
        scattered at once, and a pixel takes the last point that falls on it.
        """
        points, shape = _ribbons(paths * FINE, width * FINE), self.relief.shape
        hairs = rng.normal(0, 1, (len(paths), points.shape[2])).astype(np.float32)
        rows, cols = points[..., 0], points[..., 1]
        # Some bristles run dry along the stroke and leave gaps.
        dry = hairs[:, None] + np.linspace(0, 2.2, paths.shape[1])[:, None] > 2.8
        on = ~dry & (rows >= 0) & (rows < shape[0]) & (cols >= 0) & (cols < shape[1])
        owner = np.full(self.relief.size, -1)
        np.maximum.at(owner, (rows * shape[1] + cols)[on], np.flatnonzero(on))
        where = np.flatnonzero(owner >= 0)
        stroke, _, hair = np.unravel_index(owner[where], on.shape)
        across = np.linspace(-1, 1, hairs.shape[1])[hair]
        bristle = hairs[stroke, hair]
        self.relief.flat[where] = 1.5 * np.sqrt(1.01 - across**2) + 0.35 * bristle
        self.rgb.reshape(-1, 3)[where] = colors[stroke] * (1 + 0.05 * bristle)[:, None]

    def lit(self, depth: float) -> Array:
        """Return the image (H,W,3) with its relief lit from the upper left."""
        slope = np.tanh(np.add(*np.gradient(_blur(self.relief, 0.7))))[..., None]
        gloss = 0.3 * depth * np.clip(slope - 0.3, 0, 1)
        return _downsample(self.rgb * (1 + depth * slope) + gloss)


def _ribbons(paths: Array, width: float) -> Array:
    """Return points (N,L,M,2) of ribbons around paths (N,L,2), as integer (row, col)."""
    along = np.linspace(-1, 1, paths.shape[1], dtype=np.float32)
    across = np.linspace(-1, 1, round(1.2 * width) + 1, dtype=np.float32)
    tangent = np.gradient(paths, axis=1)
    length = np.linalg.norm(tangent, axis=-1, keepdims=True) + 1e-6
    normal = tangent[..., ::-1] / length * np.array([1, -1], np.float32)
    # A superellipse: a disc for a path as long as wide, round ends for a longer one.
    half = 0.5 * width * np.sqrt(1.01 - np.abs(along) ** (2 * len(along) / len(across)))
    offset = (half[:, None] * across)[..., None] * normal[:, :, None]
    return (paths[:, :, None] + offset).astype(np.int32)


def _trace(starts: Array, flow: Array, length: float, colors: Array, rng: Rng) -> Array:
    """Follow the flow from each start: paths (N,L,2), shorter where the color changes."""
    stride, position = 2.0, starts
    heading = _at(flow, starts) * rng.choice(np.array([-1, 1], np.float32), (len(starts), 1))
    points, alive = [starts], np.ones(len(starts), bool)
    first, reach = _at(colors, starts), np.zeros(len(starts), np.float32)
    for _ in range(round(length / stride)):
        alive &= np.linalg.norm(_at(colors, position) - first, axis=-1) < 0.3
        reach += alive
        turn = _at(flow, position)
        heading = turn * np.sign((turn * heading).sum(-1, keepdims=True) + 1e-6)
        position = position + stride * heading
        points.append(position)
    steps = np.linspace(0, 1, round(1.2 * FINE * length) + 1, dtype=np.float32) * reach[:, None]
    path, before = np.stack(points, 1), np.minimum(steps.astype(int), len(points) - 2)
    strokes, part = np.arange(len(starts))[:, None], (steps - before)[..., None]
    return (1 - part) * path[strokes, before] + part * path[strokes, before + 1]


def _scatter(mask: Array, spacing: float, rng: Rng) -> Array:
    """Return points (N,2) of a jittered grid inside a mask (H,W), in random order."""
    height, width = mask.shape
    grid = np.mgrid[0 : height + spacing : spacing, 0 : width + spacing : spacing]
    points = grid.reshape(2, -1).T + rng.uniform(-0.6, 0.6, (grid[0].size, 2)) * spacing
    points = rng.permutation(points.astype(np.float32))
    return points[_at(mask, points)]


def _flow(source: Array, rng: Rng) -> Array:
    """Return unit vectors (H,W,2) along the edges; in flat areas along random swirls."""
    edges = _blur(_tangents(_blur(_luma(source), 2)), 4)
    swirls = _tangents(_blur(smooth_noise(rng, source.shape, 150), 10))
    swirls *= (0.3 * np.abs(edges).mean() + 1e-6) / (np.abs(swirls) + 1e-12)
    angle = 0.5 * np.angle(edges + swirls)
    return np.stack([np.sin(angle), np.cos(angle)], -1).astype(np.float32)


def _tangents(field: Array) -> Array:
    """Return the level lines of a field (H,W) as complex numbers of twice their angle.

    Lines have no sign; doubled angles can be averaged nevertheless (the structure tensor).
    """
    down, right = np.gradient(field)
    return -((right + 1j * down) ** 2)


def _at(field: Array, points: Array) -> Array:
    """Sample a field (H,W,...) at points (...,2) of (y,x), which are clamped to its area."""
    rows, cols = (np.clip(points[..., k], 0, field.shape[k] - 1).astype(int) for k in (0, 1))
    return field[rows, cols]


def _luma(rgb: Array) -> Array:
    return rgb @ np.array([0.299, 0.587, 0.114], np.float32)


def _saturate(rgb: Array, factor: float) -> Array:
    gray = _luma(rgb)[..., None]
    return np.clip(gray + factor * (rgb - gray), 0, 1)


def _stretch(tones: Array) -> Array:
    """Stretch the contrast to [0,1]."""
    low, high = np.quantile(tones, (0.02, 0.98))
    return np.clip((tones - low) / (high - low + 0.1), 0, 1).astype(np.float32)


def _attract(rgb: Array, palette: Array, amount: float, sharpness: float = 12) -> Array:
    """Move colors (...,3) by `amount` towards their nearest ones in a palette (K,3)."""
    nearness = -sharpness * ((rgb[..., None, :] - palette) ** 2).sum(-1)
    weights = np.exp(nearness - nearness.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return rgb + amount * (weights @ palette - rgb)


def _blur(field: Array, sigma: float) -> Array:
    """Apply a Gaussian blur over the first two axes."""
    radius = int(3 * sigma) + 1
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1, dtype=np.float32) / sigma) ** 2)
    kernel /= kernel.sum()
    for _ in range(2):
        padded = np.concatenate([field[:1].repeat(radius, 0), field, field[-1:].repeat(radius, 0)])
        blurred = np.zeros_like(field)
        for k, weight in enumerate(kernel):
            blurred += weight * padded[k : k + len(field)]
        field = np.ascontiguousarray(blurred.swapaxes(0, 1))
    return field


def _over(canvas: Array, opacity: Array, color: Array) -> Array:
    """Composite a color (...,3) of an opacity (H,W) over a canvas (H,W,3)."""
    return canvas + opacity[..., None] * (color - canvas)


def _downsample(rgb: Array) -> Array:
    """Average FINE×FINE pixels into one."""
    height, width = rgb.shape[0] // FINE, rgb.shape[1] // FINE
    return rgb.reshape(height, FINE, width, FINE, -1).mean((1, 3))


def _upsample(field: Array) -> Array:
    """Upsample one channel (H,W) FINE times, bicubically."""
    size = (field.shape[1] * FINE, field.shape[0] * FINE)
    return np.asarray(Image.fromarray(field).resize(size, Image.Resampling.BICUBIC))


def _blocks(source: Array, count: int) -> tuple[Array, Array]:
    """Quantize an image: color indices (FINE·H,FINE·W) and colors (count,3)."""
    image = Image.fromarray((source * 255).astype(np.uint8)).filter(ImageFilter.MedianFilter(7))
    palette = image.quantize(count, kmeans=1)
    image = image.resize((image.width * FINE, image.height * FINE), Image.Resampling.BICUBIC)
    image = image.quantize(palette=palette, dither=Image.Dither.NONE)
    colors = np.array(palette.getpalette(), np.float32).reshape(-1, 3)[:count] / 255
    return np.asarray(image.filter(ImageFilter.ModeFilter(7))), colors


def _outlines(source: Array, tone: Array) -> Array:
    """Draw lines (FINE·H,FINE·W) in [0,1] at the dark sides of edges and at steps of `tone`.

    Edges are found by the extended difference of Gaussians of Winnemöller et al. (2012).
    """
    luma = _luma(source)
    crease = _upsample(_blur(luma, 0.8) - 0.98 * _blur(luma, 1.6))
    step = np.hypot(*np.gradient(_blur(tone, 1.0)))
    return np.clip(np.maximum(0.5 - 100 * crease, 12 * step - 0.5), 0, 1)


def _hatch(dark: Array, form: Array, slant: float, threshold: float, rng: Rng) -> Array:
    """Draw strokes (H,W) that swell where `dark` exceeds the threshold and bend around `form`."""
    pitch = 4.5
    y, x = np.indices(dark.shape, np.float32) / FINE
    sway = 22 * smooth_noise(rng, dark.shape, 150 * FINE) - 9 * form
    across = (np.cos(slant) * y - np.sin(slant) * x + sway) / pitch
    # Each line has its own phase, and the pen is lifted between the strokes of a line.
    phase = rng.random(512)[np.floor(across).astype(int) % 512]
    along = (np.cos(slant) * x + np.sin(slant) * y) / 40 + phase
    lift = np.clip(5 * np.sin(np.pi * (along % 1)), 0, 1)
    weight = np.clip(1.5 * (dark - threshold) + 0.12, 0, 0.6) * lift * (dark > threshold)
    edge = (weight - np.abs(2 * (across % 1) - 1)) * pitch * FINE / 2
    return np.clip(edge + 0.5, 0, 1) * (weight > 0)


def _stones(flow: Array, size: float, rng: Rng) -> tuple[Array, Array, Array]:
    """Place stones about `size` pixels wide on a jittered grid, rotated along the flow (H,W,2).

    Returns:
        Centers (N,2) as (y,x); the index of the stone that owns a pixel (FINE·H,FINE·W); and by how
        many pixels that stone is nearer than the next one (FINE·H,FINE·W).
    """
    height, width = flow.shape[:2]
    rows, cols = np.mgrid[: height // size + 3, : width // size + 3]
    jitter = rng.uniform(-0.3, 0.3, (2, *rows.shape)) - 0.5
    centers = (np.stack([rows, cols], -1) + np.moveaxis(jitter, 0, -1)) * size
    facing = _at(flow, centers) @ (1j, 1)  # points are complex from here on: x + iy
    y, x = np.mgrid[: height * FINE, : width * FINE] / FINE
    row, col, here = (y / size).astype(int), (x / size).astype(int), x + 1j * y
    nearest = second = np.full(x.shape, np.inf)
    owner = np.zeros(x.shape, int)
    for cell in ((row + down, col + right) for down, right in np.ndindex(3, 3)):
        away = (here - (centers @ (1j, 1))[cell]) * facing[cell].conj()
        distance = np.maximum(np.abs(away.real), np.abs(away.imag))
        owner = np.where(distance < nearest, cell[0] * rows.shape[1] + cell[1], owner)
        second = np.minimum(second, np.maximum(nearest, distance))
        nearest = np.minimum(nearest, distance)
    return centers.reshape(-1, 2), owner, second - nearest
