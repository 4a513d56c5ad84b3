"""The video command: interrupted or not it writes the same clip, with the clip's own sound."""

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from underdrawing.data.clips import look_at, read_frames
from underdrawing.experiments import video as module
from underdrawing.experiments.demo.video import VideoConfig, video
from underdrawing.experiments.main import run_command
from underdrawing.models.steady import Steady
from underdrawing.trainers.config import TrainConfig, to_json
from underdrawing.trainers.model_files import build_generator, save_model
from underdrawing.trainers.style_codes import write_styles
from underdrawing.trainers.stylizer import load

Film = Callable[..., Path]
Tiny = Callable[..., TrainConfig]


@pytest.fixture
def job(tiny: Tiny, film: Film, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> VideoConfig:
    """A clip of ten frames, painted strongly, in parts of four."""
    config, run = tiny(), tmp_path / "model"
    generator = build_generator(config)
    torch.manual_seed(0)
    nn.init.normal_(generator.paint.conv.weight, std=0.1)
    run.mkdir()
    (run / "config.json").write_text(to_json(config))
    save_model(generator.state_dict(), run)
    write_styles(run, {"look": torch.rand_like(generator.code_mean)})
    monkeypatch.setattr(module, "PART", 4)
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "out" / "painted.mp4"
    return VideoConfig(film("clip.mp4"), style="look", model=run, out=out, device="cpu")


def test_frames_are_the_painters_steadied_and_the_sound_is_kept(job: VideoConfig) -> None:
    clip, painted = look_at(job.clip), look_at(video(job))
    assert painted.path == job.out
    assert (painted.width, painted.height, painted.frames) == (64, 48, 10)
    assert painted.sound == clip.sound
    assert os.listdir(painted.path.parent) == ["painted.mp4"]  # noqa: PTH208
    stylizer, steady = load(job.model, "cpu"), Steady()
    assert job.style
    for one, other in zip(read_frames(clip), read_frames(painted), strict=True):
        expected = steady(one.image, stylizer.stylize(one.image, job.style))
        assert one.time * clip.unit == other.time * painted.unit
        assert (other.image - expected).abs().mean() < 0.03


def test_strength_none_is_the_clip(job: VideoConfig) -> None:
    clip, same = look_at(job.clip), look_at(video(replace(job, strength=0.0)))
    first, other = next(read_frames(clip)).image, next(read_frames(same)).image
    assert (first - other).abs().mean() < 0.02


@pytest.mark.parametrize("frame", [2, 4, 9])
def test_interrupted_it_goes_on_to_the_same_clip(
    job: VideoConfig, monkeypatch: pytest.MonkeyPatch, frame: int
) -> None:
    assert job.out
    whole = video(replace(job, out=job.out.with_name("whole.mp4"))).read_bytes()
    real, seen = module.read_frames, []

    def stopped(*given: Any) -> Iterator[Any]:
        for number, one in enumerate(real(*given)):
            if number == frame:
                raise KeyboardInterrupt
            yield one

    def identity_settings(*given: Any) -> Iterator[Any]:
        for one in real(*given):
            seen.append(one.time)
            yield one

    monkeypatch.setattr(module, "read_frames", stopped)
    with pytest.raises(KeyboardInterrupt):
        video(job)
    assert not job.out.exists()
    monkeypatch.setattr(module, "read_frames", identity_settings)
    assert video(job).read_bytes() == whole
    assert len(seen) == 10 - frame // 4 * 4  # whole parts are not painted again


def test_killed_it_goes_on_to_the_same_clip(
    job: VideoConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert job.out
    whole = video(replace(job, out=job.out.with_name("whole.mp4"))).read_bytes()
    child = os.fork()
    if child == 0:  # dies in the middle of writing the second part
        real = module.read_frames

        def dying(*given: Any) -> Iterator[Any]:
            for number, one in enumerate(real(*given)):
                if number == 6:
                    os.kill(os.getpid(), signal.SIGKILL)
                yield one

        module.read_frames = dying
        video(job)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert not job.out.exists()
    assert video(job).read_bytes() == whole
    assert sorted(path.name for path in job.out.parent.iterdir()) == ["painted.mp4", "whole.mp4"]


def test_other_settings_do_not_take_its_parts(
    job: VideoConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = module.join_parts

    def fail(*given: Any) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(module, "join_parts", fail)
    with pytest.raises(OSError, match="full"):
        video(job)
    monkeypatch.setattr(module, "join_parts", real)
    half = look_at(video(replace(job, strength=0.0)))
    first, other = next(read_frames(look_at(job.clip))).image, next(read_frames(half)).image
    assert (first - other).abs().mean() < 0.02


def test_the_result_has_a_name_of_its_own(job: VideoConfig, film: Film) -> None:
    assert video(replace(job, out=None)) == Path("stylized/clip-look.mp4")
    avi = film("old.avi", sound="mp3", codec="mpeg4")
    assert video(replace(job, clip=avi, out=None)) == Path("stylized/old-look.mp4")


def test_a_sentence_for_each_mistake(job: VideoConfig, film: Film) -> None:
    small, pcm = film("small.mp4", height=24), film("bytes.mkv", sound="pcm_u8")
    for options, sentence in [
        ({"strength": 1.5}, "from 0 to 1"),
        ({"style": None}, "one style with --style, or several with --mix"),
        ({"clip": Path("nowhere.mp4")}, "there is no clip nowhere.mp4"),
        ({"clip": small}, "64x24 pixels; each side must be at least 32"),
        ({"out": Path("painted.gif")}, "ends in .mp4, .mov, .mkv"),
        ({"out": job.clip}, "is the clip itself"),
        ({"clip": pcm, "out": Path("a.mp4")}, r"cannot hold the clip's sound \(pcm_u8\)"),
    ]:
        with pytest.raises(ValueError, match=sentence):
            video(replace(job, **options))  # type: ignore[arg-type]


def test_frames_larger_than_memory_are_refused(
    job: VideoConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "free_memory", lambda device: 1000)
    with pytest.raises(ValueError, match=r"64x48 pixels; painting them takes 0\.0 GB"):
        video(job)


def test_one_at_a_time(job: VideoConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    real = module.read_frames

    def looking(*given: Any) -> Iterator[Any]:
        child = os.fork()
        if child == 0:
            try:
                video(job)
            except ValueError as error:
                os._exit("another process is at work" in str(error))
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
        yield from real(*given)

    monkeypatch.setattr(module, "read_frames", looking)
    video(job)


def test_the_command_prints_the_path(job: VideoConfig, capsys: pytest.CaptureFixture[str]) -> None:
    assert job.style
    words = [
        job.clip,
        "--style",
        job.style,
        "--model",
        job.model,
        "--device",
        "cpu",
        "--out",
        job.out,
    ]
    handler = signal.getsignal(signal.SIGTERM)
    run_command("video", [str(word) for word in words])
    signal.signal(signal.SIGTERM, handler)
    assert capsys.readouterr().out == f"{job.out}\n"
    assert torch.isfinite(next(read_frames(look_at(job.out))).image).all()  # type: ignore[arg-type]
