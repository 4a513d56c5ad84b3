"""Photos named on the command line, and the files to write for them."""

import glob
from collections.abc import Iterable, Iterator
from itertools import chain, count
from pathlib import Path

from ..data.folders import find_images
from ..data.images import SUFFIXES

STREAM = Path("-")  # standard input as a photo, standard output as a result


def output_paths(
    photos: Iterable[Path], out: Path | None, title: str, suffix: str
) -> dict[Path, Path]:
    """Map each photo to the file to write.

    Args:
        photos: files, folders (whose structure is kept), glob patterns, or ``-``.
        out: a folder; for one photo also a file with an image suffix, or ``-``. The default is
            the folder ``stylized``, or ``-`` for standard input.
        title: of the style; appended to file names.
        suffix: of the files in a folder, such as ``.png``.

    Raises:
        ValueError: there are no photos, a pattern matches nothing, or ``out`` is for one photo.
    """
    found = {photo: name for argument in photos for photo, name in _find(argument)}
    if not found:
        raise ValueError("name at least one photo or folder of photos")
    if out is None:
        out = STREAM if list(found) == [STREAM] else Path("stylized")
    if out == STREAM or out.suffix.lower() in SUFFIXES:
        if len(found) > 1:
            raise ValueError(f"--out {out} is for one photo, not {len(found)}: name a folder")
        return dict.fromkeys(found, out)
    paths: dict[Path, Path] = {}
    taken: set[Path] = set()
    for photo, name in found.items():
        stem = "stdin" if photo == STREAM else name.stem
        stems = chain([stem, f"{stem}-{name.suffix[1:]}"], (f"{stem}-{n}" for n in count(2)))
        candidates = (out / name.with_name(f"{stem}-{title}{suffix}") for stem in stems)
        paths[photo] = next(path for path in candidates if path not in taken)  # a.jpg and a.png
        taken.add(paths[photo])
    return paths


def _find(argument: Path) -> Iterator[tuple[Path, Path]]:
    """Yield the photos of an argument, each with its path relative to the output folder."""
    if argument.is_dir():
        for path in find_images(argument):
            yield path, path.relative_to(argument)
    elif glob.has_magic(str(argument)) and not argument.exists():  # not expanded by the shell
        paths = sorted(Path(path) for path in glob.glob(str(argument), recursive=True))  # noqa: PTH207
        if not paths:
            raise ValueError(f"no file matches {argument}")
        for path in paths:
            yield path, Path(path.name)
    else:
        yield argument, Path(argument.name)
