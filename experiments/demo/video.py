"""``underdrawing video``: stylize a clip, with temporal smoothing, and keep its sound.

underdrawing video clip.mp4 --style painting.jpg
underdrawing video clip.mov --mix a.jpg:0.7,b.jpg:0.3 --keep-colors --out stylized.mp4

All frames get one style code. The work is done in parts, stored beside the result until they are
joined: after an interruption the same command continues after the last complete part, and ends
with the same file.
"""

import hashlib
import shutil
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from torch import Tensor
from tqdm.auto import tqdm

from ... import __version__
from ...data.convert import as_given, to_batch
from ...data.files import file_stamp, locked, one_line
from ...models.color import keep_chroma
from ...models.generator import MIN_SIDE
from ...trainers.stylizer import Stylizer, load
from ...trainers.tensor_files import read_tensors, write_tensors
from ..main import parse_options
from ..paths import check_output
from ..stylize import StyleOptions, check_memory, codes_and_styles, title

try:
    import cv2

    from .clips import CONTAINERS, Clip, join_parts, probe, read_frames, write_part
except ModuleNotFoundError:
    raise ValueError("video needs PyAV and OpenCV: pip install 'underdrawing[video]'") from None

PART = 60  # frames per part: the most that an interruption can lose
MAX_SIDE = 16_384  # pixels, of H.264
KEEP = 0.8  # share of the previous stylized frame where the photos agree; more blurs the strokes
TOLERANCE = 0.2  # residual, in standard deviations of the photo, at which that drops to 1/e
CUT = 0.1  # mean share below which the frame starts a new scene


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class VideoConfig(StyleOptions):
    """Stylize a video clip. After an interruption the same command continues. Results are H.264."""

    clip: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="CLIP")]
    """Clip in any common format; HDR and transparency are not supported."""
    out: Path | None = None
    """Result, .mp4, .mov or .mkv; default: in the folder `stylized`."""


def video(config: VideoConfig) -> Path:
    """Write the stylized clip and return its path.

    Raises:
        ValueError: no such clip, model or style; contradictory options; a clip that cannot be
            stylized correctly; or another process works on the same result.
        OSError: the result cannot be written.
    """
    if config.out:
        check_output(config.out, CONTAINERS, [config.clip])
    clip, stylizer = probe(config.clip), load(config.model, config.device)
    size = clip.width, clip.height
    if not MIN_SIDE <= min(size) <= max(size) <= MAX_SIDE:
        raise ValueError(
            f"{clip.path} has frames of {clip.width}x{clip.height} pixels; each side must be from "
            f"{MIN_SIDE} to {MAX_SIDE}"
        )
    check_memory(clip.path, size, config.stroke_size, stylizer.device)
    code, styles = codes_and_styles(stylizer, config.style, config.mix, masked=False)
    assert isinstance(code, Tensor)
    suffix = clip.path.suffix.lower()
    suffix = suffix if suffix in CONTAINERS else ".mp4"
    out = config.out or Path("stylized") / f"{clip.path.stem}-{title(styles)}{suffix}"

    settings = (
        clip.path.absolute(), file_stamp(clip.path), config.strength, config.keep_colors,
        config.stroke_size,
    )  # fmt: skip
    digest = hashlib.sha256(repr((__version__, settings)).encode())
    for tensor in (code, *stylizer.generator.state_dict().values()):
        digest.update(tensor.cpu().numpy().tobytes())
    work = out.with_name(f"{out.name}.{digest.hexdigest()[:8]}.unfinished")
    with locked(work / "lock"):
        join_parts(clip, stylize_parts(stylizer, code, clip, config, work), out)
    shutil.rmtree(work)
    return out


def stylize_parts(
    stylizer: Stylizer, code: Tensor, clip: Clip, config: VideoConfig, work: Path
) -> list[Path]:
    """Write the parts of the stylized clip that are missing in a folder; return all, in order."""
    state, smoothing, done = work / "state.safetensors", TemporalSmoothing(), 0
    with suppress(ValueError):  # no state: the first run
        previous, metadata = read_tensors(state)
        smoothing.previous = previous["photo"].numpy(), previous["stylized"].numpy()
        done = int(metadata["parts"])
    frames = tqdm(read_frames(clip.path), "stylizing", len(clip.times), unit="frame")
    rest = islice(frames, done * PART, None)

    def stylize(photo: np.ndarray) -> np.ndarray:
        image = stylizer.stylize(
            photo, code, config.strength, keep_colors=config.keep_colors,
            stroke_size=config.stroke_size,
        )  # fmt: skip
        smoothed = smoothing(photo, image)
        if config.keep_colors:
            smoothed = np.asarray(as_given(keep_chroma(to_batch(smoothed), to_batch(photo)), photo))
        return smoothed if config.strength > 0 else image

    parts = [work / f"{first:09}.mp4" for first in range(0, len(clip.times), PART)]
    for number, part in enumerate(parts[done:], done):
        write_part(part, map(stylize, islice(rest, PART)), clip, number * PART)
        assert smoothing.previous is not None
        photo, image = map(torch.from_numpy, smoothing.previous)
        write_tensors(state, {"photo": photo, "stylized": image}, parts=str(number + 1))
    return parts


class TemporalSmoothing:
    """Blend each stylized frame with the previous one, warped by optical flow (DIS, Kroeger 2016).

    Frame-by-frame results flicker. The blend weight falls with the residual between the photo and
    the warped previous photo, so disocclusions, wrong flow and fades leave no ghosts. The residual
    is relative to the photo's contrast because the generator normalizes it.

    Attributes:
        previous: photo (H,W,3) uint8 and smoothed result (H,W,3) float32 of the last frame.
    """

    def __init__(self) -> None:
        self.flow: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        self.previous: tuple[np.ndarray, np.ndarray] | None = None

    def __call__(self, photo: np.ndarray, stylized: np.ndarray) -> np.ndarray:
        """Smooth a stylized frame; both (H,W,3) uint8."""
        image = stylized.astype(np.float32)
        if self.previous is not None:
            now, before = (cv2.cvtColor(x, cv2.COLOR_RGB2GRAY) for x in (photo, self.previous[0]))
            flow, (y, x) = self.flow.calc(now, before, None), np.indices(now.shape, np.float32)
            x, y = x + flow[..., 0], y + flow[..., 1]
            last_photo, last = (  # bicubic, since frame after frame is warped again
                cv2.remap(frame, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
                for frame in self.previous
            )
            residual = cv2.blur(cv2.absdiff(photo, last_photo).mean(axis=2), (5, 5))
            share = KEEP * np.exp(-np.square(residual / (TOLERANCE * photo.std() + 1e-3)))
            if share.mean() >= CUT:
                image += share[..., None].astype(np.float32) * (last - image)
        self.previous = photo, image
        return image.round().clip(0, 255).astype(np.uint8)


def command(arguments: list[str]) -> None:
    """Run the command."""
    out = video(parse_options(VideoConfig, prog="underdrawing video", args=arguments))
    print(one_line(str(out)))
