"""Procedural paintings: draw scenes, and render any image in one of several painting techniques.

Brushes have a fixed size in pixels. Every technique works at `FINE` times the
final resolution, which makes edges smooth.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

Array = np.ndarray
Rng = np.random.Generator

FINE = 2


def _colors(codes: str) -> Array:
    """Parse hexadecimal codes into colors (K,3)."""
    return np.frombuffer(bytes.fromhex(codes), np.uint8).reshape(-1, 3).astype(np.float32) / 255


_OILS = _colors("1d3f8f 2f7fc0 f2c21f e07b1c b5341f 2f6b3a f3ead2 231a2e")
_PURE = _colors("e8452c f59a1e f7d93a 5fae3f 2a7fd0 5b49b0 d9528f 2fa8a0")
_INKS = _colors("22304f 3f6a8c 9fb8b4 c8503a e0a868 7c8a52 efe0bc 8a5a50")
_BRIGHTS = _colors("c8281e e8862a f2c230 6f9a2c 8a2a55 d85a7a 3f5fa8 f0e2c0")
# Sky, horizon, far, near, light, accent.
_WEATHERS = (
    "2f6fb3 cfe6f2 8fb0c4 5a8a3c fff2c4 c9472b",  # summer noon
    "4a4e8c f4a56a 8a6f8f 3d4a3a ffd27a b8323c",  # sunset
    "0e1a3a 35507c 24365c 16241f f6efc8 e0a030",  # moonlit night
    "5b8fb8 fbe3b0 c79a62 b5702a fff0b8 8c2f1c",  # autumn
    "7f9cc4 f3e4ea b9c6dc dfe6ee fff6e8 35507a",  # snow
    "2b8c9e f7e9c0 6fb0a0 8a9a3c ffe9a0 d8602e",  # southern light
)


def paint_canvas(technique: str, source: Array, seed: int) -> Array:
    """Render an image (H,W,3) in [0,1] in a technique; deterministic for a seed >= 0.

    Returns:
        RGB (H,W,3) float32 in [0,1].

    Raises:
        ValueError: no such technique.
    """
    if technique not in TECHNIQUES:
        raise ValueError(f"no technique {technique!r}; choose one of {', '.join(TECHNIQUES)}")
    rng, (height, width) = np.random.default_rng([seed, *technique.encode()]), source.shape[:2]
    fine = source.astype(np.float32).repeat(FINE, 0).repeat(FINE, 1)
    painted = TECHNIQUES[technique](_blur(fine, FINE / 2), rng)
    return painted.reshape(height, FINE, width, FINE, 3).mean((1, 3)).clip(0, 1).astype(np.float32)


def impasto(source: Array, rng: Rng) -> Array:
    """Paint thick curved strokes along the edges, coarse to fine, lit from the upper left.

    After Hertzmann, *Painterly rendering with curved brush strokes of multiple sizes* (SIGGRAPH
    1998): finer brushes are used only where the canvas still differs from the source.
    """
    colors, flow = _attract(_saturate(source, 1.3), _OILS, 0.4), _flow(source, rng)
    canvas = _image(np.broadcast_to(_colors("6b4a2a"), source.shape))
    for width, length, tolerance in ((22, 70, 0.0), (14, 50, 0.1), (8, 30, 0.16)):
        target, pen = _blur(colors, width / 4), ImageDraw.Draw(canvas)
        error = np.linalg.norm(_blur(_array(canvas), width / 4) - target, axis=-1)
        starts = _scatter(source.shape, 0.8 * width, rng)
        starts = starts[_at(error, starts) >= tolerance]
        paths = _trace(starts, flow, length // 4, 4.0)
        mixed = _at(target, starts) + rng.normal(0, 0.06, (len(starts), 3))
        tangent = np.gradient(paths, axis=1)
        normal = tangent[..., ::-1] / np.linalg.norm(tangent, axis=-1, keepdims=True) * (1, -1)
        for path, across, color in zip(paths, normal, mixed, strict=True):
            for offset in np.linspace(-0.5, 0.5, width // 3):
                # A ridge is lit where it faces the upper left.
                light = 1 - 0.5 * across[len(path) // 2].sum() * offset * abs(offset)
                bristle = (path + offset * width * across)[:, ::-1].ravel().tolist()
                pen.line(bristle, _fill(color * (light + rng.normal(0, 0.07))), 4)
    return _array(canvas)


def pointillism(source: Array, rng: Rng) -> Array:
    """Paint round dabs of pure color on a pale ground."""
    colors = _blur(_attract(0.1 + 0.85 * _saturate(source, 1.4), _PURE, 0.25), 3)
    canvas = _image(np.broadcast_to(_colors("efe6cf"), source.shape))
    pen = ImageDraw.Draw(canvas)
    for radius, spacing, contrast in ((9, 10, 0.1), (7, 11, 0.3), (6, 16, 0.5)):
        starts = _scatter(source.shape, spacing, rng)
        pure = _PURE[rng.integers(len(_PURE), size=len(starts))]
        dabs = _at(colors, starts) + contrast * (pure - _luma(pure)[:, None])
        dabs += rng.normal(0, 0.06, (len(dabs), 1))
        for (y, x), color in zip(starts, dabs, strict=True):
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), _fill(color))
    return _array(canvas) * (0.92 + 0.16 * _noise(rng, source.shape, 5)[..., None])


def woodblock(source: Array, rng: Rng) -> Array:
    """Print flat inks with wood grain and dark outlines on fibrous paper."""
    image = _image(source).filter(ImageFilter.MedianFilter(9))
    blocks = image.quantize(7, kmeans=1, dither=Image.Dither.NONE).filter(ImageFilter.ModeFilter(9))
    means = np.array(blocks.getpalette(), np.float32).reshape(-1, 3)[:7] / 255
    inks = _attract(_saturate(_stretch(means), 1.2), _INKS, 0.9, sharpness=80)
    y = np.arange(len(source))[:, None]
    fibers, plank = _noise(rng, source.shape, 6), _noise(rng, source.shape, 320)
    grain = 0.5 + 0.5 * np.sin(2 * np.pi * (y / 8 + 6 * plank))
    paper = _colors("f1e4c3") * (0.94 + 0.1 * fibers[..., None])
    print_ = _over(paper, 1 - 0.28 * grain**4 - 0.25 * fibers**2, inks[np.asarray(blocks)])
    return _over(print_, _outlines(source, _luma(means)[np.asarray(blocks)]), _colors("1a1e30"))


TECHNIQUES: dict[str, Callable[[Array, Rng], Array]] = {
    "impasto": impasto,
    "pointillism": pointillism,
    "woodblock": woodblock,
}


def scene(seed: int, height: int, width: int) -> Array:
    """Draw the scene of a seed, a landscape or a still life: RGB (height,width,3) in [0,1]."""
    rng = np.random.default_rng([0x5CE7E, seed])
    y, x = (np.mgrid[:height, :width] + 0.5) / height
    weather = _colors(rng.choice(_WEATHERS))
    view = _Scene(np.zeros((height, width, 3)), x, y, width / height, rng)
    (_still_life if seed % 2 else _landscape)(view, weather)
    return view.rgb.clip(0, 1).astype(np.float32)


@dataclass(frozen=True)
class _Scene:
    """An image (H,W,3), and its coordinates in units of the height: y from 0 (top) to 1."""

    rgb: Array
    x: Array
    y: Array
    aspect: float
    rng: Rng

    def lay(self, distance: Array, color: Array) -> None:
        """Paint a color, (3,) or (H,W,3), where a signed distance is negative."""
        self.rgb[:] = _over(self.rgb, np.clip(0.5 - distance * len(self.rgb), 0, 1), color)

    def ball(self, cx: float, cy: float, rx: float, ry: float, color: Array) -> None:
        """Paint a rounded body, lit from the upper left."""
        u, v = (self.x - cx) / rx, (self.y - cy) / ry
        shine = np.exp(-((u + 0.4) ** 2 + (v + 0.45) ** 2) / 0.05)
        light = np.clip(0.75 - 0.35 * u - 0.45 * v, 0.25, 1.25) + 0.3 * shine
        self.lay((np.hypot(u, v) - 1) * min(rx, ry), color * light[..., None])


def _landscape(view: _Scene, weather: Array) -> None:
    """Paint sun and clouds above ridges with trees."""
    rng, x, y, (sky, horizon, far, near, light, accent) = view.rng, view.x, view.y, weather
    edge = rng.uniform(0.35, 0.55)
    view.rgb[:] = _over(np.broadcast_to(sky, view.rgb.shape), np.clip(y / edge, 0, 1), horizon)
    sun = np.hypot(x - rng.uniform(0.2, 0.8) * view.aspect, y - rng.uniform(0.15, 0.8) * edge)
    clouds = np.clip(3 * (_noise(rng, x.shape, 60, 2.5) - rng.uniform(0.5, 0.7)), 0, 0.8)
    view.rgb[:] = _over(view.rgb, clouds, 0.5 * (light + horizon))
    view.rgb[:] = _over(view.rgb, 0.6 * np.exp(-7 * sun), light)
    view.lay(sun - rng.uniform(0.04, 0.08), light)
    for depth in np.linspace(0, 1, 4):
        waves = [0.07 / k * np.sin(x * (2 + depth) * k + rng.uniform(0, 6)) for k in (1, 2, 4)]
        ridge = edge + depth * (0.85 - edge) - sum(waves)
        shade = 1.1 - 1.2 * np.clip(y - ridge, 0, 0.4) + 0.3 * _noise(rng, x.shape, 20, 4)
        view.lay(ridge - y, (far + depth * (near - far)) * shade[..., None])
        for cx in np.sort(rng.uniform(0.05, 0.95, 5 if depth else 0)) * view.aspect:
            foot, size = ridge[0, int(cx * len(x))] + 0.03, rng.uniform(0.05, 0.11) * (1 + depth)
            if rng.random() < 0.5:
                view.ball(cx, foot - size, size / 4, size, 0.5 * near)
                continue
            view.lay(np.maximum(np.abs(x - cx) - 0.01, np.abs(y - foot) - size), 0.3 * accent)
            for dx, dy in rng.normal((0, -1.2), 0.3, (6, 2)) * size:
                view.ball(cx + dx, foot + dy, 0.4 * size, 0.35 * size, 0.6 * near)


def _still_life(view: _Scene, weather: Array) -> None:
    """Paint a vase with flowers, and fruit, on a table."""
    rng, x, y, (sky, horizon, far, _, _, accent) = view.rng, view.x, view.y, weather
    edge = rng.uniform(0.6, 0.72)
    glow = 1.2 - 0.6 * x / view.aspect + 0.2 * _noise(rng, x.shape, 80)
    view.rgb[:] = (0.5 * far + 0.4 * sky) * glow[..., None]
    folds = 0.9 + 0.2 * np.sin(14 * x + 9 * y) - 0.4 * (y - edge)
    view.lay(edge - y, (0.5 * horizon + 0.5 * accent) * folds[..., None])
    middle, foot = rng.uniform(0.3, 0.7) * view.aspect, edge + 0.15
    view.lay(np.hypot((x - middle - 0.15) / 4, y - foot) - 0.05, 0.5 * accent)
    heads = rng.normal((middle, foot - 0.5), (0.12, 0.07), (9, 2))
    for cx, cy in heads:
        view.ball(cx + 0.03, cy + 0.09, 0.08, 0.03, _colors("4f7a34"))
    depth = (foot - y) / 0.4
    half = 0.1 * (0.75 + 0.35 * np.sin(5 * depth - 0.4))
    across = (x - middle) / half
    shade = np.clip(0.9 - 0.45 * across + 0.5 * np.exp(-20 * (across + 0.45) ** 2), 0.3, 1.4)
    body = np.maximum(np.abs(x - middle) - half, np.abs(depth - 0.5) / 2.5 - 0.2)
    view.lay(body, rng.choice(_BRIGHTS) * shade[..., None])
    petals = rng.choice(_BRIGHTS, 2)
    for cx, cy in heads:
        radius, angle = np.hypot(x - cx, y - cy), np.arctan2(y - cy, x - cx)
        size = rng.uniform(0.05, 0.08) * (0.75 + 0.25 * np.abs(np.cos(2.5 * angle)))
        view.lay(radius - size, rng.choice(petals) * (0.6 + 6 * radius.clip(0, 0.08))[..., None])
        view.lay(radius - 0.015, _colors("d8a020"))
    for cy in np.sort(rng.uniform(edge + 0.1, 0.9, 5)):
        cx, size = rng.uniform(0.1, 0.9) * view.aspect, rng.uniform(0.06, 0.09)
        view.lay(np.hypot((x - cx - 0.03) / 3, y - cy - 0.8 * size) - 0.025, 0.5 * accent)
        view.ball(cx, cy, size, size, rng.choice(_BRIGHTS))


def _noise(rng: Rng, shape: tuple[int, ...], cell: float, stretch: float = 1.0) -> Array:
    """Return fractal noise (H,W) in [0,1] with features `cell` pixels high, `stretch` as wide."""
    height, width = shape[:2]
    total = np.zeros((height, width), np.float32)
    for octave in (1, 2, 4):
        rows, cols = (max(2, round(octave * n / cell)) for n in (height, width / stretch))
        grid = Image.fromarray(rng.random((rows, cols), np.float32))
        total += np.asarray(grid.resize((width, height), Image.Resampling.BICUBIC)) / octave
    return (total - total.min()) / np.ptp(total)


def _flow(source: Array, rng: Rng) -> Array:
    """Return unit vectors (H,W,2) along the edges; in flat areas along random swirls."""
    edges = _blur(_tangents(_blur(_luma(source), 4)), 8)
    swirls = _tangents(_blur(_noise(rng, source.shape, 300), 20))
    swirls *= (0.3 * np.abs(edges).mean() + 1e-6) / (np.abs(swirls) + 1e-12)
    angle = 0.5 * np.angle(edges + swirls)
    return np.stack([np.sin(angle), np.cos(angle)], -1)


def _tangents(field: Array) -> Array:
    """Return the level lines of a field (H,W) as complex numbers of twice their angle.

    Lines have no sign; doubled angles can be averaged nevertheless (the structure tensor).
    """
    down, right = np.gradient(field)
    return -((right + 1j * down) ** 2)


def _trace(starts: Array, flow: Array, steps: int, stride: float) -> Array:
    """Follow the flow from points (N,2): paths (N,steps+1,2)."""
    points, heading = [starts], _at(flow, starts)
    for _ in range(steps):
        turn = _at(flow, points[-1])
        heading = turn * np.where((turn * heading).sum(-1, keepdims=True) < 0, -1, 1)
        points.append(points[-1] + stride * heading)
    return np.stack(points, 1)


def _scatter(shape: tuple[int, ...], spacing: float, rng: Rng) -> Array:
    """Return points (N,2) of a jittered grid that covers (H,W), in random order."""
    grid = np.mgrid[0 : shape[0] + spacing : spacing, 0 : shape[1] + spacing : spacing]
    jitter = spacing * rng.uniform(-0.6, 0.6, (grid[0].size, 2))
    return rng.permutation(grid.reshape(2, -1).T + jitter)


def _outlines(source: Array, tone: Array) -> Array:
    """Draw lines (H,W) in [0,1] at the dark sides of edges and at steps of `tone`.

    Edges are found by the extended difference of Gaussians of Winnemöller et al. (2012).
    """
    luma = _luma(source)
    crease = _blur(luma, 1.6) - 0.98 * _blur(luma, 3.2)
    step = np.hypot(*np.gradient(_blur(tone, 1.0)))
    return np.clip(np.maximum(0.5 - 100 * crease, 12 * step - 0.5), 0, 1)


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
    return np.clip((tones - low) / (high - low + 0.1), 0, 1)


def _attract(rgb: Array, palette: Array, amount: float, sharpness: float = 12) -> Array:
    """Move colors (...,3) by `amount` towards their nearest ones in a palette (K,3)."""
    nearness = np.exp(-sharpness * ((rgb[..., None, :] - palette) ** 2).sum(-1))
    return rgb + amount * (nearness / nearness.sum(-1, keepdims=True) @ palette - rgb)


def _blur(field: Array, sigma: float) -> Array:
    """Apply a Gaussian blur over the first two axes."""
    from scipy.ndimage import gaussian_filter  # comes with scikit-image, of the extra `demo`

    return gaussian_filter(field, sigma, mode="nearest", axes=(0, 1))


def _over(canvas: Array, opacity: Array, color: Array) -> Array:
    """Composite a color (...,3) of an opacity (H,W) over a canvas (H,W,3)."""
    return canvas + opacity[..., None] * (color - canvas)


def _image(rgb: Array) -> Image.Image:
    return Image.fromarray((rgb.clip(0, 1) * 255).round().astype(np.uint8))


def _array(image: Image.Image) -> Array:
    return np.asarray(image, np.float32) / 255


def _fill(color: Array) -> tuple[int, ...]:
    """Convert a color to what `ImageDraw` takes."""
    return tuple((color.clip(0, 1) * 255).round().astype(int).tolist())
