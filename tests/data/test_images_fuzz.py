"""Damaged, hostile and random files: `read_image` returns a picture or says a sentence.

The long form runs this file as a program in a process of its own, with a limit on its memory and
on the time of each case, so that a hang or a blow-up is caught: `python test_images_fuzz.py CASES`.
"""

import faulthandler
import io
import json
import resource
import struct
import subprocess
import sys
import tempfile
import time
import warnings
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms
from underdrawing.data import images
from underdrawing.data.images import SUFFIXES, ImageError, read_image

EXAMPLES, LONG = 130, 2600  # of each of the groups below
MEMORY, SECONDS = 2 * 2**30, 20  # bytes beyond what the program takes itself; for one case
LIMIT = 10**6  # pixels; what is under the real limit may take a second each

PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 31, 3), dtype=np.uint8))
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
TURNED = Image.Exif()
TURNED[0x0112] = 6
TURNED[0x010F] = "maker"
#: What files are made of: format -> mode of the picture and options of saving it.
VARIANTS: dict[str, list[tuple[str, dict[str, object]]]] = {
    "JPEG": [
        ("RGB", {"exif": TURNED, "icc_profile": PROFILE}),
        ("RGB", {"progressive": True}),
        ("CMYK", {"icc_profile": PROFILE}),
        ("L", {}),
    ],
    "PNG": [
        ("RGB", {"exif": TURNED, "icc_profile": PROFILE}),
        ("P", {"transparency": 3}),
        ("I;16", {}),
        ("1", {}),
        ("RGBA", {"save_all": True, "append_images": [PHOTO.convert("RGBA")]}),
    ],
    "WEBP": [
        ("RGB", {"exif": TURNED, "icc_profile": PROFILE}),
        ("RGBA", {"lossless": True}),
        ("RGB", {"save_all": True, "append_images": [PHOTO.rotate(90)]}),
    ],
    "BMP": [("RGB", {}), ("P", {}), ("1", {}), ("RGBA", {})],
    "TIFF": [
        ("RGB", {"exif": TURNED, "icc_profile": PROFILE}),
        ("RGB", {"compression": "tiff_lzw"}),
        ("RGB", {"compression": "jpeg"}),
        ("1", {"compression": "group4"}),
        ("CMYK", {"compression": "tiff_adobe_deflate"}),
        ("F", {}),
        ("I;16", {}),
        ("LAB", {}),
    ],
    "GIF": [
        ("P", {"transparency": 3}),
        ("RGB", {"save_all": True, "append_images": [PHOTO.rotate(90)], "comment": b"hm"}),
    ],
    "PPM": [("RGB", {}), ("L", {}), ("1", {}), ("I;16", {}), ("F", {})],
    "AVIF": [("RGB", {"exif": TURNED, "icc_profile": PROFILE}), ("RGBA", {"quality": 30})],
}


def saved(kind: str, mode: str, options: dict[str, object]) -> bytes:
    buffer = io.BytesIO()
    picture = PHOTO.convert("I").convert("I;16") if mode == "I;16" else PHOTO.convert(mode)
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def mutated(files: list[bytes]) -> st.SearchStrategy[bytes]:
    """Files with a few bytes changed, parts cut, repeated or taken from another, bytes put in."""

    @st.composite
    def strategy(draw: st.DrawFn) -> bytes:
        content = bytearray(draw(st.sampled_from(files)))
        for _ in range(draw(st.integers(1, 4))):
            reach = draw(st.sampled_from([64, len(content), len(content), len(content)]))
            at = draw(st.integers(0, min(reach, len(content))))
            match draw(st.sampled_from(["set", "set", "set", "cut", "end", "splice", "insert"])):
                case "set":
                    content[at : at + 1] = bytes([draw(st.integers(0, 255))])
                case "cut":
                    del content[at : at + draw(st.integers(1, 300))]
                case "end":
                    del content[at + 12 :]
                case "splice":
                    other = draw(st.sampled_from(files))
                    start = draw(st.integers(0, len(other)))
                    content[at : at + 200] = other[start : start + draw(st.integers(1, 400))]
                case "insert":
                    content[at:at] = draw(st.binary(min_size=1, max_size=8)) * draw(
                        st.sampled_from([1, 1, 50])
                    )
        return bytes(content)

    return strategy()


def png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + zlib.crc32(kind + body).to_bytes(4)

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        chunk(*part) for part in [(b"IHDR", header), (b"IDAT", body), (b"IEND", b"")]
    )


def jpeg(width: int, height: int) -> bytes:
    file = bytearray(saved("JPEG", "RGB", {}))
    at = file.index(b"\xff\xc0") + 5
    file[at : at + 4] = struct.pack(">HH", height & 0xFFFF, width & 0xFFFF)
    return bytes(file)


def gif(width: int, height: int) -> bytes:
    file = bytearray(saved("GIF", "P", {}))
    file[6:10] = struct.pack("<HH", width & 0xFFFF, height & 0xFFFF)
    return bytes(file)


def tiff(width: int, height: int) -> bytes:
    """A tile or a strip of any size, in a picture of one pixel or of that size."""
    tags = [(256, width), (257, height), (258, 8), (259, 8), (262, 1), (277, 1), (322, height),
            (323, width), (324, 200), (325, 100)]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    head = struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries
    return head.ljust(200, b"\0") + zlib.compress(bytes(100_000))


#: Headers that claim any size.
CLAIMS: list[Callable[[int, int], bytes]] = [
    png,
    jpeg,
    gif,
    tiff,
    lambda width, height: b"BM" + struct.pack("<IIIIiiHHIIIIII", 99, 0, 54, 40, width - 2**31,
        height - 2**31, 1, 24, 0, 0, 0, 0, 0, 0) + bytes(99),
    lambda width, height: b"BM" + struct.pack("<IIIIiiHHIIIIII", 99, 0, 54, 40, width & 0xFFFFF,
        height & 0xFFFFF, 1, 8, 1, 0, 0, 0, 0, 0) + b"\xff\7" * 99,
    lambda width, height: b"P6 %d %d 255\n" % (width, height) + bytes(99),
    lambda width, height: b"P3 %d %d 65535\n" % (width, height) + b"7 " * 99,
    lambda width, height: b"Pf\n%d %d\n-1.0\n" % (width, height) + b"\xff" * 99,
    lambda width, height: b"RIFF\x80\0\0\0WEBPVP8X\x0a\0\0\0\2\0\0\0"
        + width.to_bytes(8, "little")[:3] + height.to_bytes(8, "little")[:3] + bytes(99),
]  # fmt: skip
MAGICS = [
    b"\xff\xd8\xff", b"\xff\xd8\xff\xe1", b"\xff\xd8\xff\xe0\x00\x10JFIF\x00", b"\x89PNG\r\n\x1a\n",
    b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", b"GIF89a", b"GIF87a", b"BM", b"II*\x00", b"MM\x00*",
    b"II+\x00\x08\x00\x00\x00", b"RIFF\x40\x00\x00\x00WEBPVP8 ", b"RIFF\x40\x00\x00\x00WEBPVP8L",
    b"RIFF\x40\x00\x00\x00WEBPVP8X", b"P1", b"P3 ", b"P4", b"P5 9 9 255 ", b"P6", b"Pf", b"PyP",
    b"\x00\x00\x00\x20ftypavif", b"\x00\x00\x00\x20ftypavis", b"", b"8BPS", b"%!PS-Adobe",
    b"SIMPLE",
]  # fmt: skip
SIDES = st.one_of(st.integers(1, 70), st.integers(1, 2**32 - 1), st.sampled_from([30_000, 65_535]))
#: Group -> files.
CASES: dict[str, st.SearchStrategy[bytes]] = {
    **{kind: mutated([saved(kind, *variant) for variant in VARIANTS[kind]]) for kind in VARIANTS},
    "profile": st.builds(
        lambda profile: saved("JPEG", "RGB", {"icc_profile": profile}),
        mutated([PROFILE]),
    ),
    "exif": st.builds(
        lambda tags: saved("JPEG", "RGB", {"exif": b"Exif\0\0" + tags}),
        mutated([TURNED.tobytes()[6:]]),
    ),
    "claims": st.builds(lambda claim, *size: claim(*size), st.sampled_from(CLAIMS), SIDES, SIDES),
    "magic": st.builds(bytes.__add__, st.sampled_from(MAGICS), st.binary(max_size=200)),
}


def outcome(content: bytes, path: Path) -> str:
    """What became of a file: "picture", or the kind of trouble."""
    path.write_bytes(content)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            picture = read_image(path)
        except ImageError as error:
            kind, sentence = error.kind, str(error)
        else:
            assert picture.mode == "RGB"
            assert 1 <= picture.width * picture.height <= images.MAX_PIXELS
            kind, sentence = "picture", str(path)
    assert not caught
    assert sentence.isprintable()
    assert str(path) in sentence
    assert len(sentence) < 1000
    return kind


def test_every_format_is_among_the_cases() -> None:
    assert set(SUFFIXES.values()) == set(VARIANTS)


@pytest.mark.parametrize("kind", VARIANTS)
def test_the_files_that_are_mutated_are_whole(kind: str, tmp_path: Path) -> None:
    for number, variant in enumerate(VARIANTS[kind]):
        assert outcome(saved(kind, *variant), tmp_path / f"{number}.jpg") == "picture"


@pytest.mark.parametrize("group", CASES)
def test_any_file_is_a_picture_or_a_sentence(
    group: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "MAX_PIXELS", LIMIT)

    @settings(max_examples=EXAMPLES, deadline=None, derandomize=True, database=None)
    @given(CASES[group])
    def each(content: bytes) -> None:
        outcome(content, tmp_path / "file.jpg")

    each()


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")
def test_many_files_without_a_hang_or_a_blow_up() -> None:
    done = subprocess.run([sys.executable, __file__, str(LONG)], text=True, capture_output=True)
    print(done.stdout)
    assert done.returncode == 0, done.stderr[-3000:]
    counts = [sum(json.loads(line)["outcomes"].values()) for line in done.stdout.splitlines()]
    assert sum(counts) >= 0.9 * LONG * len(CASES)


def _hammer(group: str, count: int, path: Path) -> dict[str, object]:
    """What became of many files of a group; the process ends where one takes too long."""
    outcomes: Counter[str] = Counter()
    times = [0.0]

    @seed(1)
    @settings(
        max_examples=count, deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(CASES[group])
    def each(content: bytes) -> None:
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        started = time.perf_counter()
        outcomes[outcome(content, path)] += 1
        times.append(time.perf_counter() - started)
        faulthandler.cancel_dump_traceback_later()

    each()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 // 10**6
    return {"group": group, "outcomes": outcomes, "slowest_s": max(times), "peak_mb": peak}


def _main(count: int) -> None:
    images.MAX_PIXELS = 10 * LIMIT
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file.jpg"
        outcome(saved("AVIF", "RGB", {}), path)  # now all decoders are loaded
        own = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (own + MEMORY, own + MEMORY))
        for group in CASES:
            print(json.dumps(_hammer(group, count, path)), flush=True)


if __name__ == "__main__":
    _main(int(sys.argv[1]))
