"""Files named on the command line: photos, and outputs that must not replace an input."""

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain, count
from pathlib import Path
from tempfile import TemporaryFile

from ..data.files import name_file_in_errors
from ..data.folders import find_images
from ..data.images import SUFFIXES, is_own_image
from ..trainers.model_files import PRETRAINED, own_folder

STREAM = Path("-")  # standard input as a photo, standard output as a result


def output_paths(
    photos: Iterable[Path],
    out: Path | None,
    title: str,
    suffix: str,
    inputs: Iterable[Path] = (),
    overlays: bool = False,
) -> dict[Path, Path]:
    """Map each photo to the file to write, which is neither an input nor another output.

    Args:
        photos: files, folders (whose structure is kept), glob patterns, or ``-``. Earlier results
            in folders are left out.
        out: a folder; for one photo also a file with an image suffix, or ``-``. A name with a
            suffix is a file, unless it is an existing folder. The default is the folder
            ``stylized``, or ``-`` for standard input.
        title: of the style; appended to file names.
        suffix: of the files in a folder, such as ``.png``.
        inputs: other files that must be kept, such as masks and paintings.
        overlays: keep the name ``overlay_path`` free as well.

    Raises:
        ValueError: there are no photos, a pattern matches nothing, ``out`` is for one photo, is an
            input or cannot be written in any format.
    """
    found = {photo: name for argument in photos for photo, name in _find(argument)}
    if not found:
        raise ValueError("name at least one photo or folder of photos")
    if out is None:
        out = STREAM if list(found) == [STREAM] else Path("stylized")
    inputs = [*found, *inputs]
    if out == STREAM or (out.suffix and not out.is_dir()):
        if out != STREAM:
            for file in (out, overlay_path(out)) if overlays else (out,):
                check_output(file, SUFFIXES, inputs)
        if len(found) > 1:
            raise ValueError(f"--out {out} is for one photo, not {len(found)}: name a folder")
        return dict.fromkeys(found, out)
    paths: dict[Path, Path] = {}
    taken = {key for file in inputs for key in _keys(file)}
    for photo, name in found.items():
        stem = "stdin" if photo == STREAM else name.stem
        stems = chain([stem, f"{stem}-{name.suffix[1:]}"], (f"{stem}-{n}" for n in count(2)))
        for path in (out / name.with_name(f"{stem}-{title}{suffix}") for stem in stems):
            files = (path, overlay_path(path)) if overlays else (path,)
            keys = {key for file in files for key in _keys(file)}
            if not keys & taken:  # a.jpg and a.png
                break
        paths[photo] = path
        taken |= keys
    return paths


def overlay_path(path: Path) -> Path:
    """Return the file for the attention map of a result."""
    return path.with_stem(f"{path.stem}-attention")


def results_folder(out: Path | None, runs: Sequence[Path], name: str) -> Path:
    """Return the folder for the results of a command on runs: ``out``, or ``name`` in the first run
    directory; in ``runs`` without a run, and for the shipped model, which is not written to.
    """
    if out or not runs or runs[0] == PRETRAINED:
        return out or Path("runs", name)
    return own_folder(runs[0], name)


def check_folder(folder: Path) -> None:
    """Check that files can be written into a folder, which need not exist, before any work.

    Raises:
        OSError: it is a file, or cannot be made or written to.
    """
    with name_file_in_errors(folder):
        TemporaryFile(dir=next(path for path in (folder, *folder.parents) if path.exists())).close()


def check_output(path: Path, suffixes: Iterable[str], inputs: Iterable[Path] = ()) -> None:
    """Check a file to write, before any work.

    Raises:
        ValueError: another suffix than ``suffixes``, a folder, or an input, by whatever name.
        OSError: its folder cannot be written to.
    """
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"cannot write {path}: the name must end in {', '.join(suffixes)}")
    if path.is_dir():
        raise ValueError(f"cannot write {path}: it is a folder; name a file")
    check_folder(path.parent)
    for file in inputs:
        if _keys(path) & _keys(file):
            raise ValueError(f"{path} would overwrite the input {file}: choose another name")


def _keys(path: Path) -> set[object]:
    """Return what identifies a file, of which equal files share at least one."""
    keys: set[object] = {os.path.realpath(path).casefold()}  # some file systems ignore case
    with suppress(OSError):
        status = path.stat()
        keys.add((status.st_dev, status.st_ino))
    return keys


def _find(argument: Path) -> Iterator[tuple[Path, Path]]:
    """Yield the photos of an argument, each with its path relative to the output folder."""
    if argument.is_dir():
        photos = [path for path in find_images(argument) if not is_own_image(path)]
        if not photos:
            raise ValueError(f"{argument} contains only results of stylize: name files to use them")
        for path in photos:
            yield path, path.relative_to(argument)
    elif glob.has_magic(str(argument)) and not argument.exists():  # not expanded by the shell
        paths = sorted(Path(path) for path in glob.glob(str(argument), recursive=True))  # noqa: PTH207
        if not paths:
            raise ValueError(f"no file matches {argument}")
        for path in paths:
            yield path, Path(path.name)
    else:
        yield argument, Path(argument.name)
