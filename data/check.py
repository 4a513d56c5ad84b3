"""Validation of image folders before training: what training leaves out or may read wrongly."""

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL.ImageFile import ImageFile

from .files import content_hash
from .folders import Collection, check_each_file, list_folder, no_images_message, split_readable
from .images import SUFFIXES, ImageError, open_image, orientation, read_image, to_srgb

SMALL = 64  # pixels of the shorter side
NARROW = 20  # aspect ratio
#: Suffixes of image formats that are not supported.
UNSUPPORTED = {
    ".heic", ".heif", ".jxl", ".jp2", ".j2k", ".psd", ".psb", ".xcf", ".raw", ".dng", ".cr2",
    ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".exr", ".hdr", ".tga", ".ico", ".pcx", ".pgm",
    ".pbm", ".pam", ".qoi", ".dds",
}  # fmt: skip

#: Kind of file that training leaves out -> advice. The first nine are kinds of `ImageError`.
LEFT_OUT = {
    "missing": "do not change the folder while it is read",
    "dangling link": "repair or remove the link",
    "no permission": "change its permissions",
    "not a file": "remove it: a folder, pipe or device with an image's name",
    "empty": "copy it again from its source",
    "not an image": "remove it, or save it as JPEG or PNG",
    "damaged": "copy it again from its source, or save it again",
    "too large": "save a smaller copy",
    "unsupported encoding": "save it as PNG or TIFF with 8 bits per channel",
    "unreadable folder": "change its permissions",
    "unsupported format": "save it as JPEG or PNG",
}
#: Kind of file that training uses -> what training does, advice.
USED = {
    "incomplete": ("last rows may be gray", "copy it again from its source"),
    "copy": ("used as often as it occurs", "remove all but one"),
    "copy in another folder": ("used in both roles", "remove it from one of the folders"),
    "wrong suffix": ("decoded by content", "rename it"),
    "small": ("enlarged", "find a larger copy or remove it"),
    "narrow": ("cropped to a small part", "crop it or remove it"),
    "invalid color profile": ("profile ignored", "check its colors"),
    "invalid EXIF": ("EXIF ignored", "check that it is upright"),
}


@dataclass
class Report:
    """The result of checking one folder."""

    folder: Path
    refusal: str = ""  # why training would refuse the folder
    collection: Collection | None = None
    sizes: dict[Path, tuple[int, int]] = field(default_factory=dict)  # (W,H) of readable images
    digests: dict[Path, str] = field(default_factory=dict)  # SHA-256 of readable images
    found: dict[str, list[Path]] = field(default_factory=lambda: defaultdict(list))  # by kind

    @property
    def left_out(self) -> int:
        """Number of files that training would leave out."""
        return sum(len(self.found[kind]) for kind in LEFT_OUT)

    @property
    def code(self) -> int:
        """2 if training would refuse the folder, 1 if it would leave files out, else 0."""
        return 2 if self.refusal else min(self.left_out, 1)


def check_folders(folders: Sequence[Path]) -> list[Report]:
    """Check all files in folders as training would, with a progress bar each."""
    reports = [_check_folder(folder) for folder in dict.fromkeys(folders)]
    owners: dict[str, Report] = {}  # content hash -> the first folder that has it
    for report in reports:
        for path, digest in report.digests.items():
            if digest not in owners:
                owners[digest] = report
            else:
                kind = "copy" if owners[digest] is report else "copy in another folder"
                report.found[kind].append(path)
    return reports


def _check_folder(folder: Path) -> Report:
    report = Report(folder)
    try:
        listing = list_folder(folder)
        report.found["unreadable folder"] += listing.unreadable
        report.found["unsupported format"] += [
            path for path in listing.others if path.suffix.lower() in UNSUPPORTED
        ]
        if not listing.images:
            raise ValueError(no_images_message(folder))
        unreadable = {}
        for path, (kinds, result) in check_each_file(_check_file, listing.images, folder.name):
            for kind in kinds:
                report.found[kind].append(path)
            if isinstance(result, str):
                unreadable[path] = result
            else:
                report.sizes[path], report.digests[path] = result
        report.collection = split_readable(folder, report.digests, unreadable)
    except ValueError as error:
        report.refusal = str(error)
    return report


def _check_file(path: Path) -> tuple[list[str], tuple[tuple[int, int], str] | str]:
    """Return the kinds of a file, and its size and content hash or why it is unreadable."""
    try:
        incomplete = ["incomplete"] if "incomplete" in read_image(path, at_least=32).info else []
        with open_image(path) as image:
            return [*incomplete, *_kinds(image)], (image.size, content_hash(path))
    except ImageError as error:
        return [error.kind], str(error)


def _kinds(image: ImageFile) -> Iterator[str]:
    """Yield the kinds in `USED` of a readable image, except copies."""
    suffix = Path(os.fsdecode(image.filename)).suffix.lower()
    # An MPO is a JPEG that carries a second image, such as its depth.
    if SUFFIXES[suffix] != ("JPEG" if image.format == "MPO" else image.format):
        yield "wrong suffix"
    if min(image.size) < SMALL:
        yield "small"
    if max(image.size) > NARROW * min(image.size):
        yield "narrow"
    try:
        to_srgb(image)
    except Exception:
        yield "invalid color profile"
    if orientation(image) is None:
        yield "invalid EXIF"
