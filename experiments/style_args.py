"""Styles named on the command line: one, a mixture, or one per region of a mask."""

from collections.abc import Iterable
from pathlib import Path

from torch import Tensor

from ..trainers.stylizer import Stylizer


def parse_mix(words: str) -> dict[str, float]:
    """``a.jpg:0.7,b.jpg:0.3`` -> style and weight.

    Raises:
        ValueError: it is written otherwise.
    """
    parts = [part.rpartition(":") for part in words.split(",")]
    try:
        mix = {style: float(weight) for style, _, weight in parts}
    except ValueError:
        mix = {}
    if len(mix) < len(parts) or "" in mix:
        raise ValueError(f"--mix {words}: write STYLE:WEIGHT,STYLE:WEIGHT, each style once")
    return mix


def parse_pairs(words: str) -> dict[str, str]:
    """``black=a.jpg,white=b.jpg`` -> color (or name) and style.

    Raises:
        ValueError: it is written otherwise.
    """
    parts = [part.partition("=") for part in words.split(",")]
    pairs = {key: style for key, _, style in parts}
    if len(pairs) < len(parts) or not all(pairs) or not all(pairs.values()):
        raise ValueError(f"{words}: write KEY=STYLE,KEY=STYLE, each key (color or name) once")
    return pairs


def title(styles: Iterable[str]) -> str:
    """For the names of results: paintings without their folders and suffixes."""
    return "+".join(Path(style).stem for style in styles)


def codes_and_title(
    stylizer: Stylizer, style: str | None, mix: str | None, masked: bool
) -> tuple[Tensor | dict[str, Tensor], str]:
    """What to give to ``painter.stylize``, made once for all photos, and a name for it.

    Raises:
        ValueError: the options contradict each other, or there is no such style.
    """
    if (style is None) == (mix is None):
        raise ValueError("name one style with --style, or several with --mix")
    if masked:
        if style is None:
            raise ValueError("--mask goes with --style COLOR=STYLE,COLOR=STYLE, not with --mix")
        regions = parse_pairs(style)
        codes = {color: stylizer.code(one) for color, one in regions.items()}
        return codes, title(regions.values())
    if mix is not None:
        weights = parse_mix(mix)
        return stylizer.code(weights), title(weights)
    assert style is not None
    return stylizer.code(style), title([style])
