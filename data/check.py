"""What is in folders of pictures, said before training meets it: each oddity, and what to do."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from PIL.ImageFile import ImageFile

from .files import identical_files
from .folders import Collection, check_each_file, divide, list_folder, no_images_message
from .images import SUFFIXES, ImageError, open_image, orientation, read_image, to_srgb

SMALL = 64  # pixels of the shorter side
SLIVER = 20  # times as long as wide
#: Suffixes of pictures that are not read.
OTHERS = {
    ".heic", ".heif", ".jxl", ".jp2", ".j2k", ".jfif", ".jpe", ".psd", ".psb", ".xcf", ".raw",
    ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".exr", ".hdr", ".tga", ".ico",
    ".pcx", ".pgm", ".pbm", ".pnm", ".pam", ".qoi", ".dds",
}  # fmt: skip


class Kind(NamedTuple):
    """What training makes of files of a kind, and what to do about them."""

    training: str
    advice: str
    fits: Callable[[ImageFile], bool] | None = None  # which of the readable pictures are of it


def _has_wrong_suffix(image: ImageFile) -> bool:
    suffix = Path(os.fsdecode(image.filename)).suffix.lower()
    return SUFFIXES[suffix] != ("JPEG" if image.format == "MPO" else image.format)


def _is_small(image: ImageFile) -> bool:
    return min(image.size) < SMALL


def _is_sliver(image: ImageFile) -> bool:
    return max(image.size) > SLIVER * min(image.size)


def _is_animated(image: ImageFile) -> bool:
    try:  # an MPO is a photo that carries another one of its depth or brightness
        return image.format != "MPO" and getattr(image, "is_animated", False)
    except Exception:  # there are more frames, and they are broken
        return True


def _is_cmyk(image: ImageFile) -> bool:
    return image.mode == "CMYK"


def _is_deep(image: ImageFile) -> bool:
    return image.mode[0] in "IF" or any(";16" in str(tile[3]) for tile in image.tile)


def _is_bilevel(image: ImageFile) -> bool:
    return image.mode == "1"


def _is_transparent(image: ImageFile) -> bool:
    return image.has_transparency_data


def _has_profile(image: ImageFile) -> bool:
    return not _has_odd_profile(image) and to_srgb(image) is not None


def _has_odd_profile(image: ImageFile) -> bool:
    try:
        to_srgb(image)
    except Exception:
        return True
    return False


def _is_turned(image: ImageFile) -> bool:
    return orientation(image) not in (None, 1)


def _has_odd_exif(image: ImageFile) -> bool:
    return orientation(image) is None


#: Kinds of files that training leaves out. The first are those of `ImageError`.
LEFT_OUT = {
    "vanished": Kind("left out", "leave the folder alone while it is read"),
    "dangling link": Kind("left out", "mend the link or remove it"),
    "locked": Kind("left out", "give yourself permission to read it"),
    "no file": Kind("left out", "remove it: a folder, pipe or device with a picture's name"),
    "empty": Kind("left out", "copy it again from where it came"),
    "no picture": Kind("left out", "remove it, or save it as JPEG or PNG"),
    "damaged": Kind("left out", "copy it again from where it came, or save it anew"),
    "too large": Kind("left out", "save a smaller copy"),
    "locked folder": Kind("left out, with all in it", "give yourself permission to read it"),
    "other format": Kind("left out", "save it as JPEG or PNG"),
    "copy of a held-out picture": Kind("left out", "remove it; scores would flatter the model"),
}
#: Kinds of files that training uses.
USED = {
    "copy": Kind("used as often as it is there", "remove all but one"),
    "copy in another folder": Kind("used in both roles", "remove it from one of the folders"),
    "wrong suffix": Kind("used; its content counts", "rename it", _has_wrong_suffix),
    "very small": Kind("used, enlarged", "find a larger copy or remove it", _is_small),
    "sliver": Kind("used; crops show little of it", "crop it or remove it", _is_sliver),
    "several frames": Kind("the first is used", "nothing, if that is the right one", _is_animated),
    "CMYK": Kind("converted to RGB", "nothing, or save it as sRGB", _is_cmyk),
    "deep": Kind("scaled to 8 bits", "nothing, or save it with 8 bits", _is_deep),
    "1-bit": Kind("used, black and white", "nothing, if it is meant so", _is_bilevel),
    "transparent": Kind("laid over white", "nothing, if white is right", _is_transparent),
    "color profile": Kind("converted to sRGB", "nothing", _has_profile),
    "odd color profile": Kind("profile passed over", "look at its colors", _has_odd_profile),
    "turned by EXIF": Kind("turned upright", "nothing", _is_turned),
    "odd EXIF": Kind("EXIF passed over", "look whether it is upright", _has_odd_exif),
}
KINDS = LEFT_OUT | USED


@dataclass
class Report:
    """What a folder holds."""

    folder: Path
    refusal: str = ""  # why training would refuse the folder
    collection: Collection | None = None
    sizes: dict[Path, tuple[int, int]] = field(default_factory=dict)  # of the readable, (W,H)
    found: dict[str, list[Path]] = field(default_factory=lambda: {kind: [] for kind in KINDS})

    @property
    def code(self) -> int:
        """2 if training would refuse the folder, 1 if it would leave files out, else 0."""
        return 2 if self.refusal else int(any(self.found[kind] for kind in LEFT_OUT))


def check_folders(folders: Sequence[Path]) -> list[Report]:
    """Look at all files in folders as training would, under a progress bar each."""
    reports = [_check_folder(folder) for folder in dict.fromkeys(folders)]
    owner: dict[Path, Report] = {}
    for report in reports:
        for path in report.sizes.keys() - report.found["copy of a held-out picture"]:
            owner.setdefault(path, report)
    for original, *copies in identical_files(sorted(owner)):
        for copy in copies:
            kind = "copy" if owner[copy] is owner[original] else "copy in another folder"
            owner[copy].found[kind].append(copy)
    return reports


def _check_folder(folder: Path) -> Report:
    report = Report(folder)
    try:
        listing = list_folder(folder)
        report.found["locked folder"] += listing.closed
        report.found["other format"] += [p for p in listing.others if p.suffix.lower() in OTHERS]
        if not listing.pictures:
            raise ValueError(no_images_message(folder))
        health_warnings = {}
        for path, look in check_each_file(_look, listing.pictures, folder.name):
            for kind in look.kinds:
                report.found[kind].append(path)
            if look.size:
                report.sizes[path] = look.size
            else:
                health_warnings[path] = look.complaint
        report.collection, copies = divide(folder, listing.pictures, health_warnings)
        report.found["copy of a held-out picture"] += sorted(copies)
    except ValueError as error:
        report.refusal = str(error)
    return report


class Look(NamedTuple):
    """What a look at a file told: its size, or why it is unreadable."""

    kinds: list[str]
    size: tuple[int, int] | None = None
    complaint: str = ""


def _look(path: Path) -> Look:
    try:
        read_image(path, at_least=32)
        with open_image(path) as image:
            fitting = [name for name, kind in USED.items() if kind.fits and kind.fits(image)]
            return Look(fitting, image.size)
    except ImageError as error:
        return Look([error.kind], complaint=str(error))
