"""``underdrawing video``: a clip in, a repainted clip out, with its sound.

underdrawing video clip.mp4 --style painting.jpg
underdrawing video clip.mov --mix a.jpg:0.7,b.jpg:0.3 --keep-colors --out painted.mp4

All frames get one style code, and ``models/steady.py`` keeps them from flickering. The work is done
in parts, kept beside the result until they are joined, with what the next part needs to know: the
same command again goes on after the last whole part, and ends with the same clip.
"""

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, count, islice
from pathlib import Path
from typing import Annotated, Literal

import tyro
from torch import Tensor
from tqdm.auto import tqdm

from ... import __version__
from ...data.clips import (
    CONTAINERS,
    Clip,
    Frame,
    holds_sound,
    join_parts,
    look_at,
    read_frames,
    write_part,
)
from ...data.files import file_stamp, locked
from ...models.generator import MIN_SIDE
from ...models.steady import Steady
from ...trainers.runtime import free_memory
from ...trainers.stylizer import Stylizer, load
from ...trainers.tensor_files import read_tensors, write_tensors
from ..style_args import codes_and_title
from ..stylize import BYTES_PER_PIXEL

PART = 60  # frames; as many are lost at most when the work is interrupted
MAX_SIDE = 16_384  # pixels, of H.264


@dataclass(frozen=True)
class VideoConfig:
    """Repaint a clip in the manner of a painting, without flicker and with its sound. Interrupted?
    The same command again goes on. Results are H.264 and upright.
    """

    clip: Annotated[Path, tyro.conf.Positional]
    """The clip, in any common format."""
    style: str | None = None
    """The painting, or the name of a look stored beside the model (`underdrawing looks`)."""
    mix: str | None = None
    """Instead of --style, several with their weights: a.jpg:0.7,b.jpg:0.3."""
    model: Path | None = None
    """Run folder of the trained model; by default the model that is shipped."""
    out: Path | None = None
    """File for the result, .mp4, .mov or .mkv; by default in the folder `stylized`, in the clip's
    own container where that is one of them and can hold the sound."""
    strength: float = 1.0
    """0 keeps the clip, 1 paints it over."""
    keep_colors: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Paint lightness only; the colors (the chroma, in YCbCr) stay the clip's."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""


def video(config: VideoConfig) -> Path:
    """Write the repainted clip; returns its path.

    Raises:
        ValueError: the extra is not installed; no such clip, model or style; options that
            contradict each other or are out of range; frames too small or too large; a result that
            cannot hold the clip's sound; or another process is at work on it.
        OSError: the result cannot be written.
    """
    if not 0 <= config.strength <= 1:
        raise ValueError(f"--strength is {config.strength}; it goes from 0 to 1")
    clip = look_at(config.clip)
    stylizer = load(config.model, config.device)
    _require_fitting(clip, stylizer)
    code, title = codes_and_title(stylizer, config.style, config.mix, masked=False)
    assert isinstance(code, Tensor)
    out = _target(config.out, clip, title)
    work = out.with_name(f"{out.name}.{_key(stylizer, code, config)}.unfinished")
    with locked(work / "lock"):
        parts = list(paint_parts(stylizer, code, clip, config, work))
        join_parts(clip, parts, out)
    shutil.rmtree(work)
    return out


def paint_parts(
    stylizer: Stylizer, code: Tensor, clip: Clip, config: VideoConfig, work: Path
) -> Iterator[Path]:
    """Files of the repainted clip's parts, in order; those that lie in the folder are taken."""
    steady, (done, time) = Steady(), (0, None)
    state = work / "state.safetensors"
    with suppress(ValueError):  # there is none yet
        before, said = read_tensors(state, stylizer.device)
        steady.before = before["photo"], before["painted"]
        done, time = int(said["parts"]), int(said["time"])
    bar = tqdm(desc="painting", total=clip.frames, initial=done * PART, unit="frame")
    frames = read_frames(clip, time)
    with bar:
        for number in count():
            part = work / f"{number:06}.nut"
            if number >= done:
                first = next(frames, None)
                if first is None:
                    return
                some = chain([first], islice(frames, PART - 1))
                time = write_part(part, _paint(stylizer, code, some, steady, config, bar), clip)
                assert steady.before is not None
                photo, painted = steady.before
                write_tensors(
                    state, {"photo": photo, "painted": painted},
                    parts=str(number + 1), time=str(time),
                )  # fmt: skip
            yield part


def _paint(
    stylizer: Stylizer, code: Tensor, frames: Iterable[Frame], steady: Steady, config: VideoConfig,
    bar: "tqdm[None]",
) -> Iterator[Frame]:  # fmt: skip
    for image, time in frames:
        photo = image.to(stylizer.device)
        painted = stylizer.stylize(photo, code, config.strength, keep_colors=config.keep_colors)
        yield Frame(steady(photo, painted), time)
        bar.update()


def _require_fitting(clip: Clip, stylizer: Stylizer) -> None:
    """Raises a ValueError if the clip's frames cannot be painted, or not in the memory there is."""
    size = f"the frames of {clip.path} are {clip.width}x{clip.height} pixels"
    if min(clip.width, clip.height) < MIN_SIDE:
        raise ValueError(f"{size}; each side must be at least {MIN_SIDE}")
    if max(clip.width, clip.height) > MAX_SIDE:
        raise ValueError(f"{size}; each side can be {MAX_SIDE} at most")
    needed, free = clip.width * clip.height * BYTES_PER_PIXEL, free_memory(stylizer.device)
    if needed > free:
        raise ValueError(
            f"{size}; painting them takes {needed / 1e9:.1f} GB of memory, and {free / 1e9:.1f} "
            "are free: make the clip smaller"
        )


def _target(out: Path | None, clip: Clip, title: str) -> Path:
    """The file to write; one that can hold the clip's sound as it is."""
    sound = ", ".join(dict.fromkeys(clip.sound))
    if out is None:
        own = clip.path.suffix.lower()
        for suffix in (*([own] if own in CONTAINERS else []), ".mp4", ".mkv"):
            if holds_sound(suffix, clip):
                return Path("stylized") / f"{clip.path.stem}-{title}{suffix}"
        raise ValueError(f"no result can hold the sound of {clip.path} ({sound}): convert it first")
    if out.suffix.lower() not in CONTAINERS:
        raise ValueError(f"--out {out}: name a file that ends in {', '.join(CONTAINERS)}")
    if out.exists() and out.samefile(clip.path):
        raise ValueError(f"--out {out} is the clip itself: name another file")
    if not holds_sound(out.suffix.lower(), clip):
        raise ValueError(f"{out} cannot hold the clip's sound ({sound}): name a file .mkv")
    return out


def _key(stylizer: Stylizer, code: Tensor, config: VideoConfig) -> str:
    """Of all that the result depends on, as a name for the work on it."""
    said = [
        __version__, str(config.clip.absolute()), file_stamp(config.clip), config.strength,
        config.keep_colors,
    ]  # fmt: skip
    digest = hashlib.sha256(json.dumps(said).encode())
    for tensor in (code, *stylizer.generator.state_dict().values()):
        digest.update(tensor.cpu().numpy().tobytes())
    return digest.hexdigest()[:8]


def command(arguments: list[str]) -> None:
    """Run the command."""
    print(video(tyro.cli(VideoConfig, prog="underdrawing video", args=arguments)))
