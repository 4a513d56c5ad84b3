"""Clips: read upright and in order, written at the same times, with the sound they came with."""

import builtins
import errno
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import pytest
import torch
from PIL import Image
from underdrawing.data import clips
from underdrawing.data.clips import (
    Clip,
    Frame,
    holds_sound,
    join_parts,
    look_at,
    read_frames,
    write_part,
)

Film = Callable[..., Path]


def seconds(clip: Clip) -> list[Fraction]:
    return [frame.time * clip.unit for frame in read_frames(clip)]


def written(clip: Clip, out: Path, cut: int = 4) -> Clip:
    """The clip, copied in two parts."""
    frames = list(read_frames(clip))
    parts = [out.with_name(f"part{n}.nut") for n in range(2)]
    assert write_part(parts[0], frames[:cut], clip) == frames[cut - 1].time
    write_part(parts[1], frames[cut:], clip)
    join_parts(clip, parts, out)
    return look_at(out)


def sound_of(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(p) for p in container.demux(audio=0) if p.size]


def test_a_clip_is_known_before_it_is_read(film: Film) -> None:
    clip = look_at(film("a.mp4"))
    assert (clip.width, clip.height, clip.frames, clip.rate) == (64, 48, 10, 10)
    assert clip.sound == ("aac",)
    frames = list(read_frames(clip))
    assert [frame.time * clip.unit for frame in frames] == [Fraction(n, 10) for n in range(10)]
    assert all(frame.image.shape == (1, 3, 48, 64) for frame in frames)
    assert all(frame.image.min() >= 0 and frame.image.max() <= 1 for frame in frames)


def test_reading_goes_on_after_a_time(film: Film) -> None:
    clip = look_at(film("a.mp4"))
    frames = list(read_frames(clip))
    rest = list(read_frames(clip, after=frames[5].time))
    assert [frame.time for frame in rest] == [frame.time for frame in frames[6:]]
    assert torch.equal(rest[0].image, frames[6].image)


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_times_pictures_and_sound_stay(film: Film, tmp_path: Path, suffix: str) -> None:
    clip = look_at(film("a.mp4", times=[0, 1, 2, 5, 6, 10, 11, 12, 19, 20]))
    copy = written(clip, tmp_path / f"copy{suffix}")
    between = [b - a for a, b in pairwise(seconds(clip))]
    assert [b - a for a, b in pairwise(seconds(copy))] == between
    for one, other in zip(read_frames(clip), read_frames(copy), strict=True):
        assert (one.image - other.image).abs().mean() < 0.02
    assert copy.sound == ("aac",)
    assert sound_of(copy.path) == sound_of(clip.path)


def test_the_container_changes_and_the_sound_stays(film: Film, tmp_path: Path) -> None:
    clip = look_at(film("a.avi", sound="mp3", codec="mpeg4"))
    assert clip.sound == ("mp3",)
    copy = written(clip, tmp_path / "copy.mp4")
    assert copy.sound == ("mp3",)
    assert sound_of(copy.path) == sound_of(clip.path)
    assert len(seconds(copy)) == 10


def test_without_sound(film: Film, tmp_path: Path) -> None:
    assert written(look_at(film("a.mp4", sound=None)), tmp_path / "copy.mp4").sound == ()


def test_which_containers_hold_a_sound(film: Film) -> None:
    clip = look_at(film("a.mkv", sound="pcm_u8"))
    assert [holds_sound(suffix, clip) for suffix in (".mp4", ".mov", ".mkv")] == [False, True, True]


def test_turned_clips_become_upright(film: Film, tmp_path: Path) -> None:
    lying = list(read_frames(look_at(film("a.mp4"))))
    clip = look_at(film("b.mp4", turn=90))
    assert (clip.width, clip.height, clip.turn) == (48, 64, 90)
    frames = list(read_frames(clip))
    assert (frames[3].image - lying[3].image.rot90(1, (-2, -1))).abs().mean() < 0.01
    copy = written(clip, tmp_path / "copy.mp4")
    assert (copy.width, copy.height, copy.turn) == (48, 64, 0)


def test_odd_sides_are_made_even(film: Film, tmp_path: Path) -> None:
    clip = look_at(film("a.mp4"))
    odd = Clip(**{**vars(clip), "width": 63, "height": 47})
    write_part(tmp_path / "part.nut", list(read_frames(odd)), odd)
    join_parts(odd, [tmp_path / "part.nut"], tmp_path / "copy.mp4")
    copy = look_at(tmp_path / "copy.mp4")
    assert (copy.width, copy.height) == (64, 48)
    last = next(read_frames(copy)).image
    assert (last[..., -1] - last[..., -2]).abs().mean() < 0.03


def test_colours_are_those_of_the_matrix(film: Film, tmp_path: Path) -> None:
    clip = look_at(film("a.mp4", sound=None))
    green = torch.tensor([0.1, 0.7, 0.2]).view(1, 3, 1, 1).expand(1, 3, 48, 64)
    write_part(tmp_path / "part.nut", [Frame(green, 0)], clip)
    join_parts(clip, [tmp_path / "part.nut"], tmp_path / "copy.mp4")
    read = next(read_frames(look_at(tmp_path / "copy.mp4"))).image
    assert (read - green).abs().max() < 0.02


def test_what_is_no_clip_is_said(film: Film, tmp_path: Path) -> None:
    words = tmp_path / "words.mp4"
    words.write_text("once upon a time " * 100)
    picture = tmp_path / "picture.jpg"
    Image.new("RGB", (64, 48)).save(picture)
    sound = tmp_path / "sound.m4a"
    source = film("a.mp4")
    with av.open(str(source)) as clip, av.open(str(sound), "w", format="mp4") as target:
        track = target.add_stream_from_template(clip.streams.audio[0])
        for packet in clip.demux(audio=0):
            if packet.dts is not None:
                packet.stream = track
                target.mux(packet)
    for path, sentence in [
        (tmp_path / "nowhere.mp4", "there is no clip"),
        (tmp_path, "there is no clip"),
        (words, "not a clip that can be read"),
        (picture, "is a picture, not a clip"),
        (sound, "has no video, sound alone"),
    ]:
        with pytest.raises(ValueError, match=sentence):
            look_at(path)


def test_a_damaged_clip_gives_what_can_be_read(film: Film) -> None:
    path = film("a.mkv", frames=40, sound=None)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 60] = bytes(60)
    path.write_bytes(content)
    times = [frame.time for frame in read_frames(look_at(path))]
    assert 20 <= len(times) <= 40
    assert times == sorted(set(times))


def test_the_missing_extra_is_named(film: Film, monkeypatch: pytest.MonkeyPatch) -> None:
    path, real = film("a.mp4"), builtins.__import__

    def missing(name: str, *rest: Any, **named: Any) -> Any:
        if name == "av":
            raise ImportError
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ValueError, match=r"pip install 'underdrawing\[video\]'"):
        look_at(path)


def test_a_full_disk_leaves_nothing_half_written(
    film: Film, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = look_at(film("a.mp4"))
    part, out = tmp_path / "part.nut", tmp_path / "full" / "copy.mp4"
    write_part(part, read_frames(clip), clip)

    class Full:
        """A file on a full disk."""

        def __init__(self, file: Any) -> None:
            self.file = file
            self.seek, self.tell = file.seek, file.tell

        def write(self, content: bytes) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    from contextlib import contextmanager

    real = clips.aside

    @contextmanager
    def full(path: Path) -> Iterator[Any]:
        with real(path) as file:
            yield Full(file)

    monkeypatch.setattr(clips, "aside", full)
    for write in (
        lambda: join_parts(clip, [part], out),
        lambda: write_part(out, read_frames(clip), clip),
    ):
        with pytest.raises(OSError, match="No space left") as caught:
            write()
        assert caught.value.filename == str(out)
        assert list(out.parent.iterdir()) == []
