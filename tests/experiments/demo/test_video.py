# ruff: noqa: E402
import importlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from underdrawing.trainers.model_files import load_model
from underdrawing.trainers.style_codes import write_styles
from underdrawing.trainers.stylizer import load

av = pytest.importorskip("av", reason="the extra `video` is not installed")
cv2 = pytest.importorskip("cv2", reason="the extra `video` is not installed")
from underdrawing.experiments.demo import clips, video
from underdrawing.experiments.demo.clips import probe, read_frames
from underdrawing.experiments.demo.video import TemporalSmoothing, VideoConfig

Array = np.ndarray
Clip = Callable[..., Path]


@pytest.fixture
def job(
    clip: Clip, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> VideoConfig:
    """A clip of ten frames with sound, stylized in parts of four."""
    style = torch.rand_like(load_model(model_dir)[0].code_mean)
    write_styles(model_dir, {"day": style})
    monkeypatch.setattr(video, "PART", 4)
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "out" / "stylized.mp4"
    return VideoConfig(clip=clip("clip.mp4"), style="day", model=model_dir, out=out, device="cpu")


@pytest.fixture
def frames(monkeypatch: pytest.MonkeyPatch) -> list[Array]:
    """The frames of the result before they are encoded."""
    recorded: list[Array] = []
    real = clips.write_part

    def write_part(path: Path, part: Iterable[Array], *arguments: Any) -> None:
        images = list(part)
        recorded.extend(images)
        real(path, images, *arguments)

    monkeypatch.setattr(video, "write_part", write_part)
    return recorded


def texture(height: int, width: int, seed: int = 0) -> Array:
    """A smooth image (H,W,3) uint8 with details of several sizes."""
    rng = np.random.default_rng(seed)
    parts = [rng.random((height // n + 1, width // n + 1, 3)) for n in (4, 10, 24)]
    sizes = [cv2.resize(part, (width, height), interpolation=cv2.INTER_CUBIC) for part in parts]
    return (255 * np.mean(sizes, axis=0)).clip(0, 255).astype(np.uint8)


def remux(source: Path, target: Path, shift: int) -> Path:
    """Copy all packets to another container, some seconds later."""
    with av.open(str(source)) as clip, av.open(str(target), "w") as copy:
        tracks = {s.index: copy.add_stream_from_template(s) for s in clip.streams}
        for packet in clip.demux():
            if packet.dts is not None:
                packet.pts += int(shift / packet.time_base)
                packet.dts += int(shift / packet.time_base)
                packet.stream = tracks[packet.stream.index]
                copy.mux(packet)
    return target


def stylize(config: VideoConfig, **changes: Any) -> Path:
    return video.video(replace(config, **changes))


def times(path: Path) -> list[Fraction]:
    clip = probe(path)
    return [time * clip.unit for time in clip.times]


def sound(path: Path) -> tuple[str, Fraction, list[bytes]]:
    """Codec, start in seconds and packets of the sound."""
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        packets = [packet for packet in container.demux(stream) if packet.size]
        start = packets[0].pts * stream.time_base
        return stream.codec_context.name, start, [bytes(packet) for packet in packets]


# --- results ------------------------------------------------------------------------------------


def test_result_is_the_smoothed_frames_in_h264(job: VideoConfig) -> None:
    out = stylize(job)
    assert out == job.out
    assert [path.name for path in out.parent.iterdir()] == ["stylized.mp4"]
    with av.open(str(out)) as container:
        assert container.streams.video[0].codec_context.name == "h264"
    stylizer, smoothing = load(job.model, "cpu"), TemporalSmoothing()
    for photo, result in zip(read_frames(job.clip), read_frames(out), strict=True):
        expected = smoothing(photo, stylizer.stylize(photo, "day"))
        assert np.abs(result - expected.astype(float)).mean() < 8


def test_strength_zero_returns_the_source_and_keep_colors_its_chroma(
    job: VideoConfig, frames: list[Array]
) -> None:
    photos = list(read_frames(job.clip))
    stylize(job, strength=0.0)
    assert np.array_equal(frames, photos)
    stylize(job, keep_colors=True)
    for photo, result in zip(photos, frames[len(photos) :], strict=True):
        change = result.astype(int) - photo
        unclipped = ((result > 0) & (result < 255)).all(axis=2)
        assert np.ptp(change, axis=2)[unclipped].max() <= 1  # the same for R, G and B
        assert np.abs(change).mean() > 2


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_frame_times_and_sound_are_copied(job: VideoConfig, clip: Clip, suffix: str) -> None:
    source = clip("a.mp4", times=[0, 1, 2, 5, 6, 10, 11, 12, 19, 20])
    out = stylize(job, clip=source, out=Path(f"b{suffix}"))
    assert len({a - b for a, b in zip(times(out), times(source), strict=True)}) == 1
    (codec, start, packets), (out_codec, out_start, out_packets) = sound(source), sound(out)
    assert (out_codec, out_packets) == (codec, packets)
    lag = (times(out)[0] - out_start) - (times(source)[0] - start)
    assert abs(lag) <= Fraction(1, 1000)  # Matroska counts milliseconds


def test_sound_that_the_container_cannot_hold_becomes_aac(job: VideoConfig, clip: Clip) -> None:
    """PCM from AVI has no channel layout, which FFmpeg's MP4 muxer refuses at the very end."""
    source = clip("a.avi", codec="mpeg4", sound="pcm_s16le", layout="stereo")
    for suffix, codec in ((".mp4", "aac"), (".mkv", "pcm_s16le")):
        out = stylize(job, clip=source, out=Path(f"b{suffix}"))
        assert sound(out)[0] == codec
        assert len(times(out)) == 10
        with av.open(str(out)) as container:
            samples = sum(frame.samples for frame in container.decode(audio=0))
        assert samples == pytest.approx(48000, abs=2048)


def test_clip_that_starts_late_starts_at_zero_in_sync(job: VideoConfig) -> None:
    source = remux(job.clip, Path("late.ts"), 600)
    assert times(source)[0] < 2
    out = stylize(job, clip=source)
    lag = times(job.clip)[0] - sound(job.clip)[1]
    assert times(out)[0] < Fraction(1, 10)
    assert abs(times(out)[0] - sound(out)[1] - lag) < Fraction(1, 100)
    assert [b - a for a, b in pairwise(times(out))] == [Fraction(1, 10)] * 9


def test_last_frame_keeps_its_duration(job: VideoConfig) -> None:
    images = [Image.fromarray(texture(48, 64, seed)) for seed in range(3)]
    images[0].save("a.gif", save_all=True, append_images=images[1:], duration=[100, 100, 3000])
    out = stylize(job, clip=Path("a.gif"), out=None)
    assert out == Path("stylized/a-day.mp4")
    with av.open(str(out)) as container:
        assert container.duration == pytest.approx(3.2e6, abs=1e4)


@pytest.mark.parametrize(
    ("matrix", "upright"),
    [
        ((0, 1, 0, -1, 0, 0), lambda x: x[::-1].swapaxes(0, 1)),  # 90 degrees clockwise
        ((-1, 0, 0, 0, -1, 0), lambda x: x[::-1, ::-1]),
        ((-1, 0, 0, 0, 1, 0), lambda x: x[:, ::-1]),  # mirrored
        ((0, 1, 0, 1, 0, 0), lambda x: x.swapaxes(0, 1)),  # turned and mirrored
    ],
)
def test_display_matrix_is_applied(
    job: VideoConfig, clip: Clip, matrix: Sequence[int], upright: Callable[[Array], Array]
) -> None:
    image = texture(48, 64)
    scaled = [65536 * x for x in matrix] + [0, 0, 2**30]
    options = {"sound": None, "matrix": scaled, "sample_aspect_ratio": Fraction(4, 3)}
    source = clip("a.mp4", [image] * 2, **options)
    out = stylize(job, clip=source, strength=0.0)
    expected = upright(image)
    result = next(read_frames(out))
    assert result.shape == expected.shape
    assert np.abs(result - expected.astype(float)).mean() < 12
    turned = expected.shape != image.shape
    assert probe(out).aspect == (Fraction(3, 4) if turned else Fraction(4, 3))


def test_odd_sides_are_made_even(job: VideoConfig, clip: Clip) -> None:
    image = texture(47, 63)
    source = clip("a.mkv", [image] * 2, sound=None, codec="ffv1", pix_fmt="bgr0")
    result = next(read_frames(stylize(job, clip=source, strength=0.0)))
    assert result.shape == (48, 64, 3)
    assert np.abs(result[:47, :63] - image.astype(float)).mean() < 6
    assert np.abs(result[:, 63] - result[:, 62].astype(float)).mean() < 6


def test_damaged_packets_are_left_out(job: VideoConfig, clip: Clip) -> None:
    source = clip("a.mkv", frames=30, sound=None)
    content = bytearray(source.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 60] = bytes(60)
    source.write_bytes(content)
    assert times(stylize(job, clip=source)) == times(source)
    assert len(times(source)) > 10


# --- refusals -----------------------------------------------------------------------------------


def refused(config: VideoConfig, **changes: Any) -> str:
    """The message of the error, which must come before the first frame is stylized."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(video, "stylize_parts", lambda *_: pytest.fail("too late"))
        with pytest.raises((ValueError, OSError)) as error:
            stylize(config, **changes)
    return str(error.value)


def test_options_and_files_are_checked_first(job: VideoConfig, clip: Clip) -> None:
    Path("text.mp4").write_text("text " * 100)
    Image.fromarray(texture(48, 64)).save("image.jpg")
    assert "less than or equal to 1" in refused(job, strength=1.5)
    assert "--style" in refused(job, style=None)
    assert "No such file" in refused(job, clip=Path("nowhere.mp4"))
    assert "not a readable video" in refused(job, clip=Path("text.mp4"))
    assert "is an image" in refused(job, clip=Path("image.jpg"))
    assert "from 32 to" in refused(job, clip=clip("small.mp4", height=24))
    assert "must end in .mp4, .mov, .mkv" in refused(job, out=Path("a.gif"))
    assert "would overwrite the input" in refused(job, out=job.clip)


def test_frames_larger_than_memory_are_refused(
    job: VideoConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = 210 * 64 * 48
    monkeypatch.setattr("underdrawing.experiments.stylize.free_memory", lambda device: free)
    assert "clip.mp4 is 64x48 pixels: stylizing it needs" in refused(job)
    stylize(job, stroke_size=1.5)


def test_clips_that_cannot_be_converted_correctly_are_refused(job: VideoConfig, clip: Clip) -> None:
    with av.open(str(job.clip)) as source, av.open("sound.m4a", "w", format="mp4") as target:
        track = target.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(audio=0):
            if packet.size:
                packet.stream = track
                target.mux(packet)
    assert "has no video stream" in refused(job, clip=Path("sound.m4a"))
    for transfer, name in ((16, "PQ"), (18, "HLG")):
        hdr = clip(f"{name}.mp4", sound=None, frames=2, color_trc=transfer)
        assert f"is HDR ({name})" in refused(job, clip=hdr)
    rgba = np.dstack([texture(48, 64), np.full((48, 64), 255, np.uint8)])
    rgba[:8, :8, 3] = 0
    Image.fromarray(rgba).save("a.gif")
    webm = clip("a.webm", [rgba] * 2, sound=None, codec="libvpx-vp9", pix_fmt="yuva420p")
    for transparent in (Path("a.gif"), webm):
        assert "has transparent pixels" in refused(job, clip=transparent)


@pytest.mark.parametrize("package", ["av", "cv2"])
def test_missing_extra_is_named(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    for module in (video, clips):
        monkeypatch.delitem(sys.modules, module.__name__)
    with pytest.raises(ValueError, match=r"pip install 'underdrawing\[video\]'"):
        importlib.import_module(video.__name__)


def test_probe_reads_no_stream_of_a_closed_container(
    clip: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its memory is free by then: reading it gives random values or a crash."""
    open_clip, decode = clips._open, clips._decode

    class Guard:
        def __init__(self, stream: Any) -> None:
            self.stream, self.is_open = stream, True

        def __getattr__(self, name: str) -> Any:
            assert self.is_open, name
            return getattr(self.stream, name)

    @contextmanager
    def guarded(path: Path) -> Iterator[tuple[Any, Any]]:
        with open_clip(path) as (container, stream):
            guard = Guard(stream)
            yield container, guard
        guard.is_open = False

    monkeypatch.setattr(clips, "_open", guarded)
    monkeypatch.setattr(clips, "_decode", lambda container, guard: decode(container, guard.stream))
    assert probe(clip("a.mp4", frames=2, sound=None)).aspect == 1


# --- interruptions ------------------------------------------------------------------------------


@pytest.mark.parametrize("frame", [2, 4])
def test_interrupted_job_continues_to_the_same_file(
    job: VideoConfig, monkeypatch: pytest.MonkeyPatch, frame: int
) -> None:
    expected = stylize(job, out=Path("whole.mp4")).read_bytes()
    seen = 0
    real = TemporalSmoothing.__call__

    def interrupted(smoothing: TemporalSmoothing, photo: Array, image: Array) -> Array:
        nonlocal seen
        seen += 1
        if seen == frame + 1:
            raise KeyboardInterrupt
        return real(smoothing, photo, image)

    monkeypatch.setattr(TemporalSmoothing, "__call__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        stylize(job)
    assert job.out
    assert not job.out.exists()
    stylize(job, strength=0.5)  # other settings have parts of their own
    seen = 100
    assert stylize(job).read_bytes() == expected
    assert seen == 100 + 10 - frame // 4 * 4  # complete parts are not stylized again


def test_result_that_lacks_a_frame_is_not_published(
    job: VideoConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = clips._video_packets
    monkeypatch.setattr(clips, "_video_packets", lambda *a: list(real(*a))[:-1])
    with pytest.raises(ValueError, match=r"9 of the 10 frames .* run the same command again"):
        stylize(job)
    assert job.out
    assert not job.out.exists()
    monkeypatch.setattr(clips, "_video_packets", real)
    monkeypatch.setattr(TemporalSmoothing, "__call__", lambda *_: pytest.fail("parts were lost"))
    assert len(times(stylize(job))) == 10


# --- temporal smoothing -------------------------------------------------------------------------


def smoothed(photos: Sequence[Array], stylized: Sequence[Array]) -> list[Array]:
    smoothing = TemporalSmoothing()
    return [smoothing(*both) for both in zip(photos, stylized, strict=True)]


def warping_error(images: Sequence[Array], shift: int) -> float:
    """RMS difference of each image to the one before, moved by its true motion."""
    pairs = [(b[:, :-shift].astype(float), a[:, shift:]) for a, b in pairwise(images)]
    return float(np.sqrt(np.mean([np.square(b - a).mean() for b, a in pairs])))


def test_smoothing_lowers_the_warping_error_on_a_pan() -> None:
    scene, rng = texture(96, 180), np.random.default_rng(1)
    photos = [scene[:, 3 * n : 3 * n + 128] for n in range(8)]
    stylized = [
        (255 - photo + 25 * rng.standard_normal(photo.shape)).clip(0, 255).astype(np.uint8)
        for photo in photos
    ]
    result = smoothed(photos, stylized)
    assert warping_error(photos, 3) == 0
    assert warping_error(result, 3) < 0.5 * warping_error(stylized, 3)


def test_moving_object_leaves_no_ghost() -> None:
    photos = [texture(96, 128) for _ in range(6)]
    for n, photo in enumerate(photos):
        photo[30:60, 10 + 14 * n : 40 + 14 * n] = 255
    result = smoothed(photos, [255 - photo for photo in photos])
    for n in range(1, 6):
        uncovered = np.s_[30:60, 10 + 14 * (n - 1) : 10 + 14 * n]
        assert np.abs(result[n][uncovered] - (255.0 - photos[n][uncovered])).mean() < 15


def test_fade_leaves_no_ghost() -> None:
    """The generator amplifies a dark frame to the painting's contrast, ghosts included."""
    scene = texture(96, 180).astype(float)
    levels = np.linspace(0.03, 1, 10) ** 2
    photos = [
        (level * scene[:, 3 * n : 3 * n + 128]).astype(np.uint8) for n, level in enumerate(levels)
    ]
    stylized = [
        (128 - 60 * (photo - photo.mean()) / (photo.std() + 1)).clip(0, 255).astype(np.uint8)
        for photo in photos
    ]
    for n, (result, alone) in enumerate(zip(smoothed(photos, stylized), stylized, strict=True)):
        low = [cv2.blur(x.astype(float), (9, 9)) for x in (result, alone)]
        assert np.abs(low[0] - low[1]).mean() < 3, n


def test_cut_starts_anew() -> None:
    smoothing, other = TemporalSmoothing(), texture(48, 64, seed=2)
    smoothing(texture(48, 64), texture(48, 64))
    assert np.array_equal(smoothing(255 - texture(48, 64, seed=1), other), other)
