"""Outputs of other methods, listed by a CSV manifest with the columns photo, painting, output."""

import csv
import io
import os
import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from ...data.files import one_line, write_atomic
from ...data.folders import check_each_file
from ...data.images import read_image
from .protocol import PairBatch, PairPaths, StylizeFn, check_aspect_ratio, read_squares

HEADER = ["photo", "painting", "output"]

Outputs = dict[PairPaths, Path]  # the output image of each pair


def write_manifest(file: Path, pairs: Sequence[PairPaths]) -> None:
    """Write pairs with absolute paths and numbered outputs, for another method to stylize."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(HEADER)
    for number, pair in enumerate(pairs):
        writer.writerow([*map(os.path.abspath, pair), f"{number:04}.png"])
    write_atomic(file, os.fsencode(buffer.getvalue()))


def read_manifest(
    file: Path, outputs: Path, photos: Path | None = None, paintings: Path | None = None
) -> Outputs:
    """Read the pairs and outputs of a manifest, in its order, relative to their folders; photos and
    paintings by default relative to that of the manifest.

    Raises:
        ValueError: missing file, wrong header, malformed line, duplicate pair or no pair.
    """
    if not file.is_file():
        raise ValueError(f"no such manifest: {file}")
    try:
        with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
            header, *rows = list(csv.reader(lines)) or [[]]
    except csv.Error as error:
        raise ValueError(f"{file} is not a CSV file: {error}") from None
    if header != HEADER:
        start = reprlib.repr(",".join(header))
        raise ValueError(f"{file} starts with {start}; the first line must be {','.join(HEADER)}")
    folders = (photos or file.parent, paintings or file.parent, outputs)
    found: Outputs = {}
    for number, row in enumerate(rows, 2):
        if not row:
            continue
        if len(row) != len(HEADER) or "" in row:
            text = reprlib.repr(",".join(row))
            raise ValueError(f"line {number} of {file} is {text}; expected {','.join(HEADER)}")
        photo, painting, output = (
            Path(os.path.realpath(folder / name)) for folder, name in zip(folders, row, strict=True)
        )
        if (photo, painting) in found:
            raise ValueError(f"line {number} of {file} repeats the pair {row[0]}, {row[1]}")
        found[photo, painting] = output
    if not found:
        raise ValueError(f"{file} lists no pairs")
    return found


def read_methods(
    folders: Sequence[Path],
    manifests: Sequence[Path],
    photos: Path | None = None,
    paintings: Path | None = None,
) -> dict[str, Outputs]:
    """Read the manifests of several methods, named after their folders, and decode every image.

    Raises:
        ValueError: a missing folder, an invalid manifest, different pairs, an unreadable image, or
            an output with another aspect ratio than its photo.
    """
    if len(folders) != len(manifests):
        raise ValueError(
            f"--outputs has {len(folders)} folders but --manifest has {len(manifests)} files; "
            "give one manifest per folder, in the same order"
        )
    methods: dict[str, Outputs] = {}
    for folder, file in zip(folders, manifests, strict=True):
        if not folder.is_dir():
            raise ValueError(f"no such folder: {folder}")
        name = one_line(folder.resolve().name)
        if name in methods:
            raise ValueError(f"two folders in --outputs are named {name}; rename one")
        methods[name] = read_manifest(file, folder, photos, paintings)
        if other := methods[name].keys() ^ next(iter(methods.values())).keys():
            photo, painting = min(other)
            raise ValueError(
                f"{photo}, {painting} is not in both {manifests[0]} and {file}; all manifests must "
                "list the same pairs"
            )
    outputs = [item for method in methods.values() for item in method.items()]
    paths = list(dict.fromkeys(path for pair, output in outputs for path in (*pair, output)))
    sizes = dict(check_each_file(lambda path: read_image(path).size, paths, "images"))
    for (photo, _), output in outputs:
        check_aspect_ratio(output, photo, sizes, "outputs")
    return methods


def saved_outputs(methods: Mapping[str, Outputs]) -> StylizeFn:
    """Read each method's outputs instead of computing them."""

    def stylize(batch: PairBatch) -> dict[str, Tensor]:
        size, device = batch.content.shape[-1], batch.content.device
        return {
            name: read_squares([outputs[pair] for pair in batch.pairs], size, device)
            for name, outputs in methods.items()
        }

    return stylize
