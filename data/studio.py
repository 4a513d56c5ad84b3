"""The studio: paints any motif procedurally, in one of several hands.

Brushes, nibs and stones keep their size in pixels, whatever the canvas. Every hand works at `FINE`
times the final resolution, which is where the smooth edges come from.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFilter

from .scenes import smooth_noise

Array = np.ndarray
Hand = Callable[[Array, np.random.Generator], Array]

FINE = 2


def _palette(codes: str) -> Array:
    """Colours (K,3) from hexadecimal codes."""
    return np.frombuffer(bytes.fromhex(codes), np.uint8).reshape(-1, 3).astype(np.float32) / 255


_OILS = _palette("1d3f8f 2f7fc0 f2c21f e07b1c b5341f 2f6b3a f3ead2 231a2e")
_PURE = _palette("e8452c f59a1e f7d93a 5fae3f 2a7fd0 5b49b0 d9528f 2fa8a0")
_INKS = _palette("22304f 3f6a8c 9fb8b4 c8503a e0a868 7c8a52 efe0bc 8a5a50")
_STONES = _palette("1f3f86 2f86a8 d9a531 f2e3b0 a83a28 2f6f58 6b3a2a 1c1e2c e8e0d0")
_PAPERS = _palette("d9c4a0 b9b8a8 c9b48c a8b0b0")
_PENS = _palette("2a1a12 1c1c24 4a1e14")


def paint(hand: str, motif: Array, seed: int) -> Array:
    """Paint a motif in a hand, the same canvas every time for the same seed.

    Args:
        hand: a name in `HANDS`.
        motif: RGB (H,W,3) in [0,1].
        seed: not negative; another seed is another session before the same motif.

    Returns:
        RGB (H,W,3) float32 in [0,1].

    Raises:
        ValueError: no such hand.
    """
    if hand not in HANDS:
        raise ValueError(f"the studio knows no hand {hand!r}; its hands are {', '.join(HANDS)}")
    rng = np.random.default_rng([seed, *hand.encode()])
    canvas = HANDS[hand](motif.astype(np.float32), rng)
    return np.clip(canvas, 0, 1).astype(np.float32)


def impasto(motif: Array, rng: np.random.Generator) -> Array:
    """Thick curved strokes along the forms, coarse to fine, lit from the upper left.

    After Hertzmann, *Painterly rendering with curved brush strokes of multiple sizes* (SIGGRAPH
    1998): a finer brush returns only where the canvas still differs from the motif, and a stroke
    ends where the motif leaves its colour.
    """
    colours = _tilted(_saturated(motif, 1.3), _OILS, 0.4)
    flow, canvas = _flow(motif, rng), _Canvas(motif.shape, ground=_palette("6b4a2a"))
    for width, length, tolerance in ((13, 48, 0.0), (8, 34, 0.09), (5, 20, 0.16)):
        target = _blurred(colours, width / 5)
        unlike = np.linalg.norm(_blurred(_reduced(canvas.rgb), width / 5) - target, axis=-1)
        starts = _scattered(unlike >= tolerance, 0.9 * width, rng)
        mixed = _at(target, starts) + rng.normal(0, 0.04, (len(starts), 3))
        mixed += rng.normal(0, 0.04, (len(starts), 1))
        canvas.stroke(_traced(starts, flow, length, target, rng), mixed, width, rng)
    return canvas.lit(0.5)


def pointillism(motif: Array, rng: np.random.Generator) -> Array:
    """Round dabs of pure colour on a pale ground; the mixing is left to the eye."""
    colours = _blurred(_tilted(0.1 + 0.85 * _saturated(motif, 1.4), _PURE, 0.25), 1.5)
    flow, canvas = _flow(motif, rng), _Canvas(motif.shape, ground=_palette("efe6cf"))
    for width, spacing, contrast in ((10, 5.5, 0.1), (7.5, 6, 0.3), (6.5, 8, 0.5)):
        starts = _scattered(np.ones(motif.shape[:2], bool), spacing, rng)
        pure = _PURE[rng.integers(len(_PURE), size=len(starts))]
        dabs = _at(colours, starts) + contrast * (pure - _luma(pure)[:, None])
        canvas.stroke(_traced(starts, flow, width, colours, rng), dabs, width, rng)
    return canvas.lit(0.25)


def woodblock(motif: Array, rng: np.random.Generator) -> Array:
    """A print: flat inks that show the grain of the plank, dark key lines, fibrous paper."""
    blocks, means = _blocks(motif, 7)
    height, width = blocks.shape
    y = np.mgrid[:height, :width][0] / FINE
    fibres = smooth_noise(rng, height, width, 3 * FINE)[..., None]
    plank = smooth_noise(rng, height, width // 4, 60 * FINE).repeat(4, 1)
    grain = 0.5 + 0.5 * np.sin(2 * np.pi * (y / 4 + 5 * plank))[..., None]
    coverage = 1.0 - 0.28 * grain**4 - 0.25 * fibres**2
    bokashi = 0.45 * np.clip(1 - y / (0.3 * height / FINE), 0, 1)[..., None]
    inks = _tilted(_saturated(_stretched(means), 1.2), _INKS, 0.9, sharpness=80)[blocks]
    inks = inks + bokashi * (_INKS[0] - inks)
    paper = _palette("f1e4c3") * (0.94 + 0.1 * fibres)
    sheet = paper + coverage * (inks - paper)
    key = _key_lines(motif, _luma(means)[blocks])[..., None]
    return _reduced(sheet + key * (_palette("1a1e30") - sheet))


def hatching(motif: Array, rng: np.random.Generator) -> Array:
    """Pen hatching, crossed and crossed again into the dark, and chalk lights, on toned paper."""
    luma = _stretched(_enlarged(_luma(_blurred(motif, 0.7))))
    dark = 1 - luma ** (np.log(0.6) / np.log(luma.mean()))  # as much paper as ink on the whole
    height, width = dark.shape
    fibres = smooth_noise(rng, height, width, 2.5 * FINE)[..., None]
    sheet = rng.choice(_PAPERS) * (0.92 + 0.16 * fibres)
    ink, slant = rng.choice(_PENS), rng.uniform(0.6, 1.0)
    chalk = _hatch(1 - dark, slant + 0.3, 0.72, rng)[..., None]
    sheet += 0.75 * chalk * (_palette("f6f0e2") - sheet)
    for turn, threshold in ((0.0, 0.22), (1.2, 0.48), (-0.5, 0.66), (0.6, 0.84)):
        lines = _hatch(dark, slant + turn, threshold, rng)[..., None]
        sheet += (0.85 - 0.2 * fibres) * lines * (ink - sheet)
    contour = _key_lines(motif, luma)[..., None]
    return _reduced(sheet + 0.8 * contour * (ink - sheet))


def mosaic(motif: Array, rng: np.random.Generator) -> Array:
    """Cut stones set along the forms in dark mortar.

    After Hausner, *Simulating decorative mosaics* (SIGGRAPH 2001): each stone owns the pixels that
    are nearest in the square (Chebyshev) metric of its own orientation.
    """
    height, width = motif.shape[0] * FINE, motif.shape[1] * FINE
    centres, owner, slack = _stones(motif.shape, _flow(motif, rng), 8.0, rng)
    colours = _at(_saturated(_blurred(motif, 2), 1.3), centres)
    colours = _tilted(colours, _STONES, 0.6) * rng.normal(1, 0.1, (len(centres), 1))
    down, right = np.gradient(_blurred(np.minimum(slack, 2.5), 1))
    glaze = 0.92 + 0.16 * smooth_noise(rng, height, width, 3 * FINE) + 0.5 * (down + right)
    stones = colours[owner] * glaze[..., None]
    mortar = _palette("4a4238") * (0.8 + 0.4 * smooth_noise(rng, height, width, FINE))[..., None]
    set_ = np.clip(2 * slack - 0.6, 0, 1)[..., None]
    return _reduced(mortar + set_ * (stones - mortar))


HANDS: dict[str, Hand] = {
    "impasto": impasto,
    "pointillism": pointillism,
    "woodblock": woodblock,
    "hatching": hatching,
    "mosaic": mosaic,
}


class _Canvas:
    """Wet paint: its colours `rgb` (FINE·H, FINE·W, 3) and its thickness (FINE·H, FINE·W)."""

    def __init__(self, shape: tuple[int, ...], ground: Array) -> None:
        y, x = np.mgrid[: shape[0] * FINE, : shape[1] * FINE].astype(np.float32)
        self.relief = 0.3 * np.sin(1.6 * x) * np.sin(1.6 * y)  # the weave
        self.rgb = np.broadcast_to(ground, (*x.shape, 3)).copy()

    def stroke(self, paths: Array, colours: Array, width: float, rng: np.random.Generator) -> None:
        """Lay strokes along paths (N,L,2) of (y,x), in colours (N,3), later ones on top.

        A stroke is a ribbon of points, one row of them per bristle. All points of all strokes are
        scattered at once, and the last to arrive at a pixel owns it.
        """
        points, shape = _ribbons(paths * FINE, width * FINE), self.relief.shape
        hairs = rng.normal(0, 1, (len(paths), points.shape[2])).astype(np.float32)
        rows, cols = points[..., 0], points[..., 1]
        dry = hairs[:, None] + np.linspace(0, 2.2, paths.shape[1])[:, None] > 2.8
        on = ~dry & (rows >= 0) & (rows < shape[0]) & (cols >= 0) & (cols < shape[1])
        owner = np.full(self.relief.size, -1)
        np.maximum.at(owner, (rows * shape[1] + cols)[on], np.flatnonzero(on))
        where = np.flatnonzero(owner >= 0)
        stroke, step, hair = np.unravel_index(owner[where], on.shape)
        across = np.linspace(-1, 1, hairs.shape[1])[hair]
        bristle = hairs[stroke, hair]
        self.relief.flat[where] = 1.5 * np.sqrt(1.01 - across**2) + 0.35 * bristle
        tint = (1 + 0.05 * bristle)[:, None]
        self.rgb.reshape(-1, 3)[where] = colours[stroke] * tint

    def lit(self, depth: float) -> Array:
        """The picture (H,W,3), its relief lit from the upper left and glossy on steep slopes."""
        down, right = np.gradient(_blurred(self.relief, 0.7))
        slope = np.tanh(down + right)[..., None]
        return _reduced(self.rgb * (1 + depth * slope) + 0.3 * depth * np.clip(slope - 0.3, 0, 1))


def _ribbons(paths: Array, width: float) -> Array:
    """Points (N,L,M,2) of the ribbons of one width around paths (N,L,2), as integer (row, col)."""
    along = np.linspace(-1, 1, paths.shape[1], dtype=np.float32)
    across = np.linspace(-1, 1, round(1.2 * width) + 1, dtype=np.float32)
    tangent = np.gradient(paths, axis=1)
    length = np.linalg.norm(tangent, axis=-1, keepdims=True) + 1e-6
    normal = tangent[..., ::-1] / length * np.array([1, -1], np.float32)
    taper = 0.5 * width * np.sqrt(1.01 - np.abs(along) ** (0.15 * len(along) ** 0.8 + 2))
    offset = (taper[:, None] * across)[..., None] * normal[:, :, None]
    return (paths[:, :, None] + offset).astype(np.int32)


def _traced(
    starts: Array, flow: Array, length: float, colours: Array, rng: np.random.Generator
) -> Array:
    """Follow the flow from each start: paths (N,L,2), shorter where the colour changes."""
    stride, position = 2.0, starts
    heading = _at(flow, starts) * rng.choice(np.array([-1, 1], np.float32), (len(starts), 1))
    places, alive = [starts], np.ones(len(starts), bool)
    home, reach = _at(colours, starts), np.zeros(len(starts), np.float32)
    for _ in range(round(length / stride)):
        turn = _at(flow, position)
        heading = turn * np.sign((turn * heading).sum(-1, keepdims=True) + 1e-6)
        position = position + stride * heading
        places.append(position)
        alive &= np.linalg.norm(_at(colours, position) - home, axis=-1) < 0.3
        reach += alive
    reach = np.maximum(reach, min(2.0, length / stride))
    steps = np.linspace(0, 1, round(1.2 * FINE * length) + 1, dtype=np.float32) * reach[:, None]
    path, before = np.stack(places, 1), np.minimum(steps.astype(int), len(places) - 2)
    strokes, part = np.arange(len(starts))[:, None], (steps - before)[..., None]
    return (1 - part) * path[strokes, before] + part * path[strokes, before + 1]


def _scattered(wanted: Array, spacing: float, rng: np.random.Generator) -> Array:
    """Places (N,2) on a jittered grid, only where `wanted` (H,W), in random order."""
    height, width = wanted.shape
    grid = np.mgrid[0 : height + spacing : spacing, 0 : width + spacing : spacing]
    places = grid.reshape(2, -1).T + rng.uniform(-0.6, 0.6, (grid[0].size, 2)) * spacing
    places = rng.permutation(places.astype(np.float32))
    return places[_at(wanted, places)]


def _flow(motif: Array, rng: np.random.Generator) -> Array:
    """Unit vectors (H,W,2) along the forms, where there are none along slow swirls.

    Directions without a sign are averaged as doubled angles (the structure tensor).
    """
    down, right = np.gradient(_blurred(_luma(motif), 2))
    tensor = _blurred(np.stack([down**2 - right**2, -2 * down * right], -1), 4)
    rise, run = np.gradient(_blurred(smooth_noise(rng, *motif.shape[:2], 150), 10))
    swirl = 2 * np.arctan2(-run, rise)
    strength = np.linalg.norm(tensor, axis=-1)
    ambient = np.stack([np.cos(swirl), np.sin(swirl)], -1) * 0.3 * np.sqrt(strength.mean()) ** 2
    angle = 0.5 * np.arctan2(*np.moveaxis(tensor + ambient, -1, 0)[::-1])
    return np.stack([np.sin(angle), np.cos(angle)], -1).astype(np.float32)


def _at(field: Array, places: Array) -> Array:
    """Values of a field (H,W,...) at places (...,2) of (y,x), the nearest ones beyond its edge."""
    rows, cols = (np.clip(places[..., k], 0, field.shape[k] - 1).astype(int) for k in (0, 1))
    return field[rows, cols]


def _luma(rgb: Array) -> Array:
    return rgb @ np.array([0.299, 0.587, 0.114], np.float32)


def _saturated(rgb: Array, factor: float) -> Array:
    grey = _luma(rgb)[..., None]
    return np.clip(grey + factor * (rgb - grey), 0, 1)


def _stretched(tones: Array) -> Array:
    """Darkest to 0, lightest to 1."""
    low, high = np.quantile(tones, (0.02, 0.98))
    return np.clip((tones - low) / (high - low + 0.1), 0, 1).astype(np.float32)


def _tilted(rgb: Array, palette: Array, amount: float, sharpness: float = 12) -> Array:
    """Colours (...,3) drawn by `amount` towards their nearest ones in a palette (K,3)."""
    nearness = -sharpness * ((rgb[..., None, :] - palette) ** 2).sum(-1)
    weights = np.exp(nearness - nearness.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return rgb + amount * (weights @ palette - rgb)


def _blurred(field: Array, sigma: float) -> Array:
    """Gaussian blur over the first two axes."""
    radius = int(3 * sigma) + 1
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1, dtype=np.float32) / sigma) ** 2)
    kernel /= kernel.sum()
    for axis in (0, 1):
        pad = [(radius, radius) if k == axis else (0, 0) for k in range(field.ndim)]
        padded, size = np.pad(field, pad, mode="edge"), field.shape[axis]
        field = np.zeros_like(field)
        for k, weight in enumerate(kernel):
            field += weight * (padded[k : k + size] if axis == 0 else padded[:, k : k + size])
    return field


def _reduced(rgb: Array) -> Array:
    """Average FINE×FINE pixels into one."""
    height, width = rgb.shape[0] // FINE, rgb.shape[1] // FINE
    return rgb.reshape(height, FINE, width, FINE, -1).mean((1, 3))


def _enlarged(field: Array) -> Array:
    """One channel (H,W) at FINE times the resolution, smoothly."""
    size = (field.shape[1] * FINE, field.shape[0] * FINE)
    return np.asarray(Image.fromarray(field).resize(size, Image.Resampling.BICUBIC))


def _blocks(motif: Array, count: int) -> tuple[Array, Array]:
    """Cut the motif into printing blocks: their numbers (FINE·H, FINE·W) and colours (count,3)."""
    image = Image.fromarray((motif.clip(0, 1) * 255).astype(np.uint8))
    for _ in range(2):
        image = image.filter(ImageFilter.MedianFilter(5))
    palette = image.quantize(count, kmeans=1)
    image = image.resize((image.width * FINE, image.height * FINE), Image.Resampling.BICUBIC)
    image = image.quantize(palette=palette, dither=Image.Dither.NONE)
    colours = np.array(palette.getpalette(), np.float32).reshape(-1, 3)[:count] / 255
    return np.asarray(image.filter(ImageFilter.ModeFilter(7))), colours


def _key_lines(motif: Array, tone: Array) -> Array:
    """Line drawing (FINE·H, FINE·W) in [0,1]: dark sides of edges, and where `tone` steps.

    The former is the extended difference of Gaussians of Winnemöller et al. (2012).
    """
    luma = _luma(motif)
    crease = _enlarged(_blurred(luma, 0.8) - 0.98 * _blurred(luma, 1.6))
    down, right = np.gradient(_blurred(tone, 1.0))
    steps = np.clip(12 * np.hypot(down, right) - 0.5, 0, 1)
    return np.maximum(steps, np.clip(0.5 - 100 * crease, 0, 1))


def _hatch(dark: Array, slant: float, threshold: float, rng: np.random.Generator) -> Array:
    """Strokes (H,W) in [0,1] of one slant where `dark` is over the threshold, swelling with it."""
    height, width = dark.shape
    y, x = np.mgrid[:height, :width].astype(np.float32) / FINE
    sway = 22 * smooth_noise(rng, height, width, 150 * FINE) - 9 * _blurred(dark, 5)
    across = (np.cos(slant) * y - np.sin(slant) * x + sway) / 4.5
    begin = rng.random(512)[np.floor(across).astype(int) % 512]
    along = (np.cos(slant) * x + np.sin(slant) * y) / 40 + begin
    lift = np.clip(5 * np.sin(np.pi * (along % 1)), 0, 1)  # the pen leaves the paper
    weight = np.clip(1.5 * (dark - threshold) + 0.12, 0, 0.6) * lift * (dark > threshold)
    edge = (weight - np.abs(2 * (across % 1) - 1)) * 4.5 * FINE / 2
    return np.clip(edge + 0.5, 0, 1) * (weight > 0)


def _stones(
    shape: tuple[int, ...], flow: Array, size: float, rng: np.random.Generator
) -> tuple[Array, Array, Array]:
    """Lay stones: centres (N,2) as (y,x), which stone owns a pixel (FINE·H, FINE·W), and `slack`,
    by how much (in pixels) that stone is nearer than the next one.
    """
    rows, cols = int(shape[0] / size) + 3, int(shape[1] / size) + 3
    cells = np.stack(np.mgrid[:rows, :cols], -1) - 0.5
    centres = ((cells + rng.uniform(-0.3, 0.3, cells.shape)) * size).astype(np.float32)
    facing = _at(flow, centres)
    place = (np.stack(np.mgrid[: shape[0] * FINE, : shape[1] * FINE], -1) / FINE).astype(np.float32)
    cell = (place / size + 1).astype(int)
    nearest = np.full(place.shape[:2], np.inf, np.float32)
    second, owner = nearest.copy(), np.zeros(place.shape[:2], int)
    for dy, dx in np.ndindex(3, 3):
        row, col = cell[..., 0] + dy - 1, cell[..., 1] + dx - 1
        away, (sin, cos) = place - centres[row, col], np.moveaxis(facing[row, col], -1, 0)
        forward, aside = (
            away[..., 0] * sin + away[..., 1] * cos,
            away[..., 0] * cos - away[..., 1] * sin,
        )
        distance = np.maximum(np.abs(forward), np.abs(aside))
        second = np.minimum(second, np.maximum(nearest, distance))
        owner = np.where(distance < nearest, row * cols + col, owner)
        nearest = np.minimum(nearest, distance)
    return centres.reshape(-1, 2), owner, second - nearest
