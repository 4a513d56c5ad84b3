"""Decode clips into RGB frames and encode them as H.264 with PyAV: upright, in BT.709, at the times
of the source's frames, with even sides (4:2:0 needs them; the last row or column is repeated).
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from heapq import merge
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.sidedata.sidedata import Type as SideData

from ...data.files import temporary_path

CONTAINERS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska"}  # suffix -> FFmpeg's name
#: Without B-frames packets are in the order of frames, so parts can be concatenated. CRF 18 is
#: commonly taken for visually lossless.
ENCODING = {"crf": "18", "bf": "0"}
# ITU-T H.273: color matrices, a range, and transfer characteristics.
BT709, UNSPECIFIED, BT601, LIMITED, HDR = 1, 2, 5, 1, {16: "PQ", 18: "HLG"}


@dataclass(frozen=True)
class Clip:
    """Properties of a clip, found by decoding it once."""

    path: Path
    width: int  # upright, in pixels
    height: int
    times: tuple[int, ...]  # of the frames, in units from the start; strictly increasing
    end: int  # of the last frame
    unit: Fraction  # of times, in seconds
    rate: Fraction  # average frames per second
    aspect: Fraction  # width of a pixel over its height, upright
    primaries: int  # ITU-T H.273
    transfer: int


def probe(path: Path) -> Clip:
    """Decode a clip once, and check that it can be converted correctly.

    Raises:
        ValueError: not a clip, no decodable frame, an unknown sound codec, or frames that are HDR,
            transparent or of several sizes.
    """
    times: list[int] = []
    shape = None
    with _open(path) as (container, video):
        if any(stream.codec_context is None for stream in container.streams.audio):
            raise ValueError(f"the sound of {path} has an unknown codec: convert or remove it")
        rate, unit = video.average_rate or video.guessed_rate or Fraction(25), video.time_base
        start, step = _start(container, unit), max(1, round(1 / (rate * unit)))
        for frame in _decode(container, video):
            if frame.color_trc in HDR:
                raise ValueError(f"{path} is HDR ({HDR[frame.color_trc]}): convert it to SDR first")
            alpha = any(component.is_alpha for component in frame.format.components)
            alpha = alpha and frame.to_ndarray(format="rgba")[..., 3].min() < 255
            if alpha or video.metadata.get("alpha_mode") == "1":  # of VP9, beside the frames
                raise ValueError(f"{path} has transparent pixels: give it a background first")
            if shape not in (None, (frame.width, frame.height)):
                raise ValueError(f"{path} has frames of several sizes: scale them to one first")
            shape = frame.width, frame.height
            least, guess = (times[-1] + 1, times[-1] + step) if times else (0, 0)
            times.append(guess if frame.pts is None else max(frame.pts - start, least))
        # Here, while the container is open: its streams must not be read after it is closed.
        if shape is None:
            raise ValueError(f"{path} has no frame that can be decoded")
        height, width = _upright(np.empty(shape[::-1]), frame).shape
        aspect = video.sample_aspect_ratio or Fraction(1)
        return Clip(
            path, width, height, tuple(times), times[-1] + (frame.duration or step), unit, rate,
            aspect if (width, height) == shape else 1 / aspect,
            frame.color_primaries, frame.color_trc,
        )  # fmt: skip


def read_frames(path: Path) -> Iterator[np.ndarray]:
    """Yield the frames (H,W,3) uint8 RGB, upright. Damaged frames are left out."""
    with _open(path) as (container, video):
        for frame in _decode(container, video):
            matrix = frame.colorspace
            if matrix == UNSPECIFIED:  # the convention of players
                matrix = BT709 if frame.height >= 720 else BT601
            rgb = frame.reformat(None, None, "rgb24", matrix, src_color_range=frame.color_range)
            yield np.ascontiguousarray(_upright(rgb.to_ndarray(), frame))


def write_part(path: Path, frames: Iterable[np.ndarray], clip: Clip, first: int) -> None:
    """Encode consecutive frames (H,W,3) uint8 of a clip, the first of which has index ``first``."""
    with temporary_path(path) as file, av.open(file, "w", format="mp4") as target:
        video: Any = target.add_stream("libx264", rate=clip.rate, options=ENCODING)
        context = video.codec_context
        context.width, context.height = clip.width + clip.width % 2, clip.height + clip.height % 2
        context.pix_fmt, context.time_base = "yuv420p", clip.unit
        context.sample_aspect_ratio = clip.aspect
        context.colorspace, context.color_range = BT709, LIMITED
        context.color_primaries, context.color_trc = clip.primaries, clip.transfer
        for number, rgb in enumerate(frames, first):
            even = np.pad(rgb, ((0, clip.height % 2), (0, clip.width % 2), (0, 0)), mode="edge")
            frame = av.VideoFrame.from_ndarray(even, "rgb24").reformat(
                format="yuv420p", dst_colorspace=BT709, dst_color_range=LIMITED
            )
            frame.pts, frame.time_base = clip.times[number] - clip.times[first], clip.unit
            target.mux(video.encode(frame))
        target.mux(video.encode(None))


def join_parts(clip: Clip, parts: Sequence[Path], out: Path) -> None:
    """Concatenate the parts of a clip, and add its sound; write ``out`` whole or not at all.

    Raises:
        ValueError: the result does not hold every frame of the clip.
    """
    with temporary_path(out) as file:
        with (
            av.open(file, "w", format=CONTAINERS[out.suffix.lower()]) as target,
            av.open(str(parts[0])) as first,
            _open(clip.path) as (source, _),
        ):
            video: Any = target.add_stream_from_template(first.streams.video[0])
            video.codec_context.framerate = clip.rate
            tracks = {s.index: _add_sound(target, clip.path, s) for s in source.streams.audio}
            # Merged by time, or the muxer would hold all of one stream in memory.
            streams = _video_packets(clip, parts, video), _sound_packets(source, tracks)
            for packet in merge(*streams, key=lambda packet: packet.dts * packet.time_base):
                target.mux(packet)
        file.flush()
        with av.open(file.name) as result:
            written = sum(1 for _ in result.decode(video=0))
        if written != len(clip.times):
            raise ValueError(
                f"{out} would hold {written} of the {len(clip.times)} frames of {clip.path}: "
                f"delete {parts[0].parent} and run the same command again"
            )


def _video_packets(clip: Clip, parts: Sequence[Path], track: Any) -> Iterator[Any]:
    spans = pairwise((*clip.times, clip.end))
    for part in parts:
        with av.open(str(part)) as container:
            for packet in container.demux(video=0):
                if packet.size:  # not the end marker
                    packet.pts, end = next(spans)
                    packet.dts, packet.duration = packet.pts, end - packet.pts
                    packet.time_base, packet.stream = clip.unit, track
                    yield packet


def _add_sound(target: Any, path: Path, stream: Any) -> tuple[Any, bool]:
    """Add a track for a sound stream, a copy if the container can hold it, else stereo AAC.

    The first packet is tried: FFmpeg refuses some streams only when the file is finished.
    """
    try:
        with (
            av.open(BytesIO(), "w", format=target.format.name) as trial,
            _open(path) as (source, _),
        ):
            packet = next(source.demux(stream.index))
            packet.stream = trial.add_stream_from_template(source.streams[stream.index])
            trial.mux(packet)
        track, is_copy = target.add_stream_from_template(stream), True
    except (av.FFmpegError, ValueError):
        layout = "mono" if stream.codec_context.layout.nb_channels == 1 else "stereo"
        track, is_copy = target.add_stream("aac", rate=48000, layout=layout), False
    track.metadata.update(stream.metadata)
    return track, is_copy


def _sound_packets(source: Any, tracks: dict[int, tuple[Any, bool]]) -> Iterator[Any]:
    for packet in source.demux(*source.streams.audio) if tracks else ():
        track, is_copy = tracks[packet.stream.index]
        start = _start(source, packet.stream.time_base)
        if is_copy and packet.size:
            packet.pts = packet.dts = packet.dts - start
            packet.stream = track
            yield packet
        elif not is_copy:
            with suppress(av.error.InvalidDataError):
                for frame in packet.decode():
                    if frame.pts is not None:
                        frame.pts -= start
                    yield from track.encode(frame)
    for track, is_copy in tracks.values():
        yield from () if is_copy else track.encode(None)


@contextmanager
def _open(path: Path) -> Iterator[tuple[Any, Any]]:
    """The container and its video stream, which is not the cover of a sound file."""
    try:
        # A clip can be a playlist of addresses: only files are followed.
        opened = av.open(f"file:{path}", options={"protocol_whitelist": "file"})
    except av.FFmpegError as error:
        raise ValueError(f"{path} is not a readable video: {error.strerror}") from None
    with opened as container:
        if container.format.name == "image2" or container.format.name.endswith("_pipe"):
            raise ValueError(f"{path} is an image, not a video: use `underdrawing stylize`")
        video = container.streams.best("video")
        if video is None or video.disposition & video.disposition.attached_pic:
            raise ValueError(f"{path} has no video stream")
        yield container, video


def _decode(container: Any, video: Any) -> Iterator[Any]:
    for packet in container.demux(video):
        with suppress(av.error.InvalidDataError):
            yield from packet.decode()


def _start(container: Any, unit: Fraction) -> int:
    """The time at which a container starts: not 0 in a transport stream."""
    return round(Fraction(container.start_time or 0, av.time_base) / unit)


def _upright(image: np.ndarray, frame: Any) -> np.ndarray:
    """Apply the display matrix (quarter turns, mirrors): (x, y) -> (ax + cy, bx + dy)."""
    matrix = frame.side_data.get(SideData.DISPLAYMATRIX)
    if matrix is None:
        return image
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5]
    if abs(a) < abs(b):
        image, a, d = image.swapaxes(0, 1), c, b
    return image[:: 1 if d >= 0 else -1, :: 1 if a >= 0 else -1]
