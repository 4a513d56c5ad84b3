"""Photos named on the command line, and where their results go."""

import glob
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..data.folders import find_images
from ..data.images import SUFFIXES

STREAM = Path("-")  # standard input as a photo, standard output as a result
FORMATS = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}


def find_targets(
    photos: Iterable[Path], out: Path | None, style: str, suffix: str
) -> dict[Path, Path]:
    """Photo -> file to write.

    Args:
        photos: files, folders (whose inner structure is kept), patterns as of a shell, or ``-``.
        out: a folder; or a file, named as a picture, for a single photo; or ``-``. By default
            the folder ``stylized``, and ``-`` for a photo from standard input.
        style: added to the names of the results.
        suffix: of the results, like ``.png``; a file's name says its own.

    Raises:
        ValueError: no photos, a pattern that meets none, or several for one file.
    """
    found = {photo: inner for named in photos for photo, inner in _find(named)}
    if not found:
        raise ValueError("name at least one photo or folder of photos")
    if out is None:
        out = STREAM if list(found) == [STREAM] else Path("stylized")
    if out == STREAM or out.suffix.lower() in SUFFIXES:
        if len(found) > 1:
            raise ValueError(f"--out {out} is for one photo, and there are {len(found)}")
        return dict.fromkeys(found, out)
    targets: dict[Path, Path] = {}
    taken: set[Path] = set()
    for photo, inner in found.items():
        stem = "stdin" if photo == STREAM else inner.stem
        target = out / inner.with_name(f"{stem}-{style}{suffix}")
        if target in taken:  # a.jpg beside a.png
            target = target.with_name(f"{stem}-{inner.suffix[1:]}-{style}{suffix}")
        taken.add(target)
        targets[photo] = target
    return targets


def _find(named: Path) -> Iterator[tuple[Path, Path]]:
    """Photos, and the name of each within the results' folder."""
    if named.is_dir():
        for path in find_images(named):
            yield path, path.relative_to(named)
    elif glob.has_magic(str(named)) and not named.exists():  # Windows leaves this to the program
        paths = sorted(Path(path) for path in glob.glob(str(named), recursive=True))  # noqa: PTH207
        if not paths:
            raise ValueError(f"there is no file like {named}")
        for path in paths:
            yield path, Path(path.name)
    else:
        yield named, Path(named.name)
