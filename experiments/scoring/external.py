"""Pictures that any other system made: found by its manifest, scored as everybody's are.

A manifest is a CSV file that begins ``photo,painting,output`` and has a line for every pair.
"""

import csv
import io
import os
import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from ...data.files import one_line, write_atomic
from ...data.folders import check_each_file
from ...data.images import open_image, orientation, read_image
from .protocol import Batch, PairPaths, Stylizer, read_squares

HEADER = ["photo", "painting", "output"]

Outputs = dict[PairPaths, Path]  # a system's picture of each pair
Size = tuple[int, int]  # width, height


def write_manifest(file: Path, pairs: Sequence[PairPaths]) -> None:
    """Write pairs, with absolute paths, for another system to paint; outputs are numbered."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(HEADER)
    for number, pair in enumerate(pairs):
        writer.writerow([*map(os.path.abspath, pair), f"{number:04}.png"])
    write_atomic(file, os.fsencode(buffer.getvalue()))


def read_manifest(
    file: Path, outputs: Path, photos: Path | None = None, paintings: Path | None = None
) -> Outputs:
    """The pairs of a manifest, in its order, with their outputs.

    Args:
        file: the manifest.
        outputs: folder that its outputs are relative to.
        photos, paintings: likewise; without them, the folder of the manifest.

    Raises:
        ValueError: no such file, another header, a line that is no triple, a pair that comes twice,
            or no pair at all.
    """
    if not file.is_file():
        raise ValueError(one_line(f"there is no manifest {file}"))
    text = os.fsdecode(file.read_bytes()).removeprefix("\ufeff")
    reader = csv.reader(io.StringIO(text, newline=""))
    bases = [photos or file.parent, paintings or file.parent, outputs]
    found: Outputs = {}
    try:
        header = next(reader, [])
        if header != HEADER:
            said = f"begins with {reprlib.repr(','.join(header))} instead of {','.join(HEADER)}"
            raise ValueError(one_line(f"the manifest {file} {said}"))
        for row in filter(None, reader):
            where = f"line {reader.line_num} of {file}"
            if len(row) != len(HEADER) or "" in row:
                said = f"{where} is {reprlib.repr(','.join(row))} instead of {','.join(HEADER)}"
                raise ValueError(one_line(said))
            photo, painting, output = (
                Path(os.path.realpath(base / name)) for base, name in zip(bases, row, strict=True)
            )
            if (photo, painting) in found:
                raise ValueError(one_line(f"{where} names the pair {row[0]}, {row[1]} once more"))
            found[photo, painting] = output
    except csv.Error as error:
        raise ValueError(one_line(f"the manifest {file} cannot be read: {error}")) from None
    if not found:
        raise ValueError(one_line(f"the manifest {file} names no pair"))
    return found


def read_systems(
    folders: Sequence[Path],
    manifests: Sequence[Path],
    photos: Path | None = None,
    paintings: Path | None = None,
) -> dict[str, Outputs]:
    """Systems by the names of their folders, all with the pairs of the first; every picture looked
    at.

    Raises:
        ValueError: no manifest for a folder, a mistake in one, other pairs than in the first, a
            picture that is missing or unreadable, or an output that is no view of its photo.
    """
    if len(folders) != len(manifests):
        raise ValueError(
            f"--outputs names {len(folders)} folders and --manifest {len(manifests)} files: "
            "each folder takes a manifest of its own, in the same order"
        )
    systems: dict[str, Outputs] = {}
    for folder, file in zip(folders, manifests, strict=True):
        if not folder.is_dir():
            raise ValueError(one_line(f"there is no folder {folder}"))
        name = folder.resolve().name
        if name in systems:
            raise ValueError(one_line(f"two folders of outputs are called {name}: rename one"))
        systems[name] = read_manifest(file, folder, photos, paintings)
    _check_pairs(list(systems.values()), manifests)
    _check_pictures(systems)
    return systems


def _check_pairs(systems: Sequence[Outputs], manifests: Sequence[Path]) -> None:
    first = systems[0]
    for other, file in zip(systems, manifests, strict=True):
        for has, lacks, name in ((first, other, file), (other, first, manifests[0])):
            if missing := [pair for pair in has if pair not in lacks]:
                photo, painting = missing[0]
                raise ValueError(
                    one_line(
                        f"{name} lacks the pair {photo}, {painting}: all manifests must name the "
                        "same pairs"
                    )
                )


def _check_pictures(systems: Mapping[str, Outputs]) -> None:
    """Read every picture before anything is computed."""
    pairs = [pair for outputs in systems.values() for pair in outputs.items()]
    paths = dict.fromkeys(path for (photo, painting), output in pairs
                          for path in (photo, painting, output))  # fmt: skip
    sizes = dict(check_each_file(_size, list(paths), "pictures"))
    for (photo, _), output in pairs:
        if not is_same_view(sizes[output], sizes[photo]):
            (w, h), (width, height) = sizes[output], sizes[photo]
            raise ValueError(
                one_line(
                    f"{output} is {w}x{h} pixels and its photo {photo} {width}x{height}: places "
                    "would not correspond; save outputs in the proportions of their photos"
                )
            )


def _size(path: Path) -> Size:
    """That of a picture that can be read, upright."""
    read_image(path, at_least=32)
    with open_image(path) as image:
        width, height = image.size
        return (height, width) if (orientation(image) or 1) >= 5 else (width, height)


def is_same_view(output: Size, photo: Size) -> bool:
    """Whether an output is its photo's size times some scale, to a pixel of the output."""
    # |w - s·W| <= 1 and |h - s·H| <= 1 for some scale s.
    (w, h), (width, height) = output, photo
    return abs(w * height - h * width) <= width + height


def saved_painter(systems: Mapping[str, Outputs]) -> Stylizer:
    """Outputs from their files, by system."""

    def paint(batch: Batch) -> dict[str, Tensor]:
        size, device = batch.content.shape[-1], batch.content.device
        return {
            name: read_squares([outputs[pair] for pair in batch.pairs], size, device)
            for name, outputs in systems.items()
        }

    return paint
