"""Clips: a film's frames as tensors with their times, and back, in parts that are then joined.

PyAV (extra ``video``) carries FFmpeg's codecs. Results are H.264: upright, in BT.709, with even
sides (its 4:2:0 colours ask for that; the last row or column is doubled), at the times of the
clip's own frames. Its sound is copied, not encoded again.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from heapq import merge
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from .files import aside

#: Suffix of a result -> FFmpeg's name of the container.
CONTAINERS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska"}
PART = "nut"  # keeps every time as it is
#: Without B-frames packets come in the order of the frames, and parts can be joined end to end.
#: CRF 18 is what is commonly taken for visually lossless.
ENCODING = {"crf": "18", "bf": "0"}
BT709, UNSPECIFIED, BT601, LIMITED = 1, 2, 5, 1  # matrices and a range, as in ITU-T H.273


class Frame(NamedTuple):
    """One picture of a clip."""

    image: Tensor  # (1,3,H,W) in [0,1], upright
    time: int  # in the clip's units; greater with each frame


@dataclass(frozen=True)
class Clip:
    """What is known of a clip before its frames are read."""

    path: Path
    width: int  # upright
    height: int
    frames: int | None  # as its file says, or about as many; None if it does not say
    unit: Fraction  # of times, in seconds
    rate: Fraction  # frames a second, on average
    turn: int  # degrees by which its frames are to be turned counterclockwise
    aspect: Fraction  # width of a pixel over its height, upright
    primaries: int  # of its colours, and their transfer curve, as in ITU-T H.273
    transfer: int
    sound: tuple[str, ...]  # codecs of its audio tracks

    @property
    def between(self) -> int:
        """Time between two frames, on average, in its units."""
        return max(1, round(1 / (self.rate * self.unit)))


def require_av() -> ModuleType:
    """PyAV.

    Raises:
        ValueError: the extra is not installed.
    """
    try:
        import av
    except ImportError:
        raise ValueError(
            "reading clips takes a package that is not installed: pip install 'underdrawing[video]'"
        ) from None
    av.logging.set_level(None)  # what it has to say is in its errors
    return av


def look_at(path: Path) -> Clip:
    """A clip's properties.

    Raises:
        ValueError: the extra is not installed; there is no such file, it is no clip, or none with
            frames that can be read.
    """
    with _opened(path) as container:
        video = _video(container, path)
        first = next(_decoded(container, video), None)
        if first is None:
            raise ValueError(f"{path} holds no frame that can be read")
        turn = first.rotation % 360
        aspect = video.sample_aspect_ratio or Fraction(1)
        width, height = video.codec_context.width, video.codec_context.height
        if turn in (90, 270):
            width, height, aspect = height, width, 1 / aspect
        rate = video.average_rate or video.guessed_rate or Fraction(25)
        frames = video.frames or round((container.duration or 0) / 1_000_000 * float(rate)) or None
        tracks = container.streams.audio
        sound = tuple(track.codec_context.codec.canonical_name for track in tracks)
        return Clip(
            path, width, height, frames, video.time_base, rate, turn, aspect,
            video.codec_context.color_primaries, video.codec_context.color_trc, sound,
        )  # fmt: skip


def read_frames(clip: Clip, after: int | None = None) -> Iterator[Frame]:
    """The frames of a clip in order, from the first whose time is greater than ``after``.

    What precedes it is decoded as well: that is quick beside painting, and exact in any format.
    Frames that are damaged are left out.

    Raises:
        ValueError: it cannot be opened any more.
    """
    with _opened(clip.path) as container:
        video = _video(container, clip.path)
        video.thread_type = "AUTO"
        time: int | None = None
        for frame in _decoded(container, video):
            expected = 0 if time is None else time + clip.between
            now = expected if frame.pts is None else frame.pts
            time = now if time is None else max(now, time + 1)
            if after is None or time > after:
                yield Frame(_to_tensor(frame, clip), time)


def write_part(path: Path, frames: Iterable[Frame], clip: Clip) -> int:
    """Encode some of a clip's frames (at least one), in order, into a file of their own, which is
    written whole or not at all.

    Returns:
        The time of the last of them.

    Raises:
        OSError: it cannot be written.
    """
    av = require_av()
    with aside(path) as file, av.open(file, "w", format=PART) as target:
        video = target.add_stream("libx264", rate=clip.rate, options=ENCODING)
        context = video.codec_context
        context.width, context.height = clip.width + clip.width % 2, clip.height + clip.height % 2
        context.pix_fmt, context.time_base = "yuv420p", clip.unit
        context.sample_aspect_ratio = clip.aspect
        context.colorspace, context.color_range = BT709, LIMITED
        context.color_primaries, context.color_trc = clip.primaries, clip.transfer
        for frame in frames:
            target.mux(video.encode(_to_frame(av, frame, clip)))
        target.mux(video.encode(None))
    return frame.time


def join_parts(clip: Clip, parts: Sequence[Path], out: Path) -> None:
    """Write the parts of a clip, end to end, and its sound beside them, as one file.

    Args:
        clip: the clip.
        parts: files of ``write_part``, in order.
        out: the result; its suffix is one of ``CONTAINERS``. It is written whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    av = require_av()
    with (
        aside(out) as file,
        av.open(file, "w", format=CONTAINERS[out.suffix.lower()]) as target,
        _opened(clip.path) as source,
        av.open(str(parts[0])) as first,
    ):
        video = target.add_stream_from_template(first.streams.video[0])
        video.codec_context.framerate = clip.rate
        tracks = {s.index: target.add_stream_from_template(s) for s in source.streams.audio}
        for stream in source.streams.audio:
            tracks[stream.index].metadata.update(stream.metadata)
        painted = ((packet, video) for part in parts for packet in _packets(part))
        sound = (
            (packet, tracks[packet.stream.index])
            for packet in (source.demux(*source.streams.audio) if tracks else ())
            if packet.dts is not None  # not the empty one at the end
        )
        # In the order of their times: the muxer would otherwise gather them all in memory.
        for packet, stream in merge(painted, sound, key=lambda p: p[0].dts * p[0].time_base):
            packet.stream = stream
            target.mux(packet)


def holds_sound(suffix: str, clip: Clip) -> bool:
    """Whether a result of this suffix can hold the clip's sound as it is."""
    with require_av().open(BytesIO(), "w", format=CONTAINERS[suffix]) as container:
        return set(clip.sound) <= container.supported_codecs


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """FFmpeg's view of a clip, which is closed at the end."""
    av = require_av()
    if not path.is_file():
        raise ValueError(f"there is no clip {path}")
    path.open("rb").close()  # what the system refuses is said as such
    try:
        # A clip can be a list of other addresses: none but files are followed.
        container = av.open(f"file:{path}", options={"protocol_whitelist": "file"})
    except av.FFmpegError as error:
        raise ValueError(f"{path} is not a clip that can be read: {error.strerror}") from None
    with container:
        yield container


def _video(container: Any, path: Path) -> Any:
    """The stream of its frames: not the cover of a record."""
    streams = [s for s in container.streams.video if not s.disposition & s.disposition.attached_pic]
    if container.format.name == "image2" or container.format.name.endswith("_pipe"):
        raise ValueError(f"{path} is a picture, not a clip: underdrawing stylize paints it")
    if not streams:
        raise ValueError(f"{path} has no video, sound alone")
    return streams[0]


def _decoded(container: Any, video: Any) -> Iterator[Any]:
    """FFmpeg's frames of a stream; those that are damaged are left out."""
    av = require_av()
    for packet in container.demux(video):
        with suppress(av.error.InvalidDataError):
            yield from packet.decode()


def _packets(part: Path) -> Iterator[Any]:
    with require_av().open(str(part)) as container:
        for packet in container.demux(video=0):
            if packet.dts is not None:
                yield packet


def _to_tensor(frame: Any, clip: Clip) -> Tensor:
    """(1,3,H,W) in [0,1], upright; of the clip's size even where a frame has another."""
    matrix = frame.colorspace
    if matrix == UNSPECIFIED:  # as players take it
        matrix = BT709 if frame.height >= 720 else BT601
    width, height = clip.width, clip.height
    if clip.turn in (90, 270):
        width, height = height, width
    rgb = frame.reformat(width, height, "rgb24", matrix, src_color_range=frame.color_range)
    upright = np.rot90(rgb.to_ndarray(), clip.turn // 90).copy()
    return rearrange(torch.from_numpy(upright), "h w c -> 1 c h w").float() / 255


def _to_frame(av: Any, frame: Frame, clip: Clip) -> Any:
    """FFmpeg's own frame."""
    rgb = rearrange((frame.image[0] * 255).round().byte().cpu(), "c h w -> h w c").numpy()
    rgb = np.pad(rgb, ((0, clip.height % 2), (0, clip.width % 2), (0, 0)), mode="edge")
    made = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24").reformat(
        format="yuv420p", dst_colorspace=BT709, dst_color_range=LIMITED
    )
    made.pts, made.duration, made.time_base = frame.time, clip.between, clip.unit
    return made
