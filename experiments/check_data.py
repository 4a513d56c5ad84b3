"""``underdrawing check-data``: report what is in image folders and what training makes of it.

The exit code is 0 if all files are used, 1 if some are left out, 2 if a folder is refused.
"""

import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ..data.check import LEFT_OUT, USED, Report, check_folders
from ..data.files import one_line, write_atomic
from ..data.folders import is_small
from .main import parse_options, run_command
from .paths import check_output

NAMED = 3  # files named per kind
#: Kind of file -> what training does with it, advice.
KINDS = {kind: ("left out", advice) for kind, advice in LEFT_OUT.items()} | USED


@dataclass(frozen=True)
class CheckConfig:
    """Check image folders before training: problems, what training makes of them, and advice."""

    folders: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="DIR ...")]
    """Folders of photos or paintings."""
    json: Path | None = None
    """Also write the report, with all file names, to this JSON file."""


def to_text(report: Report) -> str:
    """Format a report."""
    lines = [one_line(str(report.folder))]
    if report.sizes:
        sizes = "smallest {}x{}, median {}x{}, largest {}x{}".format(*sum(_sizes(report), ()))
        lines.append(f"{len(report.sizes)} readable images; pixels: {sizes}")
    if report.collection:
        counts = (f"{len(paths)} {name}" for name, paths in report.collection.sides.items())
        note = " (a small folder: added images may move others)" * is_small(report.collection)
        lines.append(f"split: {', '.join(counts)}{note}")
    if found := _found(report):
        rows = [(kind, str(len(paths)), *KINDS[kind]) for kind, paths in found.items()]
        table = [("kind", "files", "in training", "advice"), *rows]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        table_lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in table]
        names = ["", *(f"\n    {_names(paths)}" for paths in found.values())]
        lines += map(str.__add__, table_lines, names)
    if report.refusal:
        lines.append(f"Training would refuse this folder: {report.refusal}")
    elif report.left_out:
        lines.append(f"Training would leave out {report.left_out} files of this folder.")
    else:
        lines.append("Training would use all images of this folder.")
    return "\n".join(lines)


def to_record(report: Report) -> dict[str, object]:
    """Convert a report to a JSON object."""
    sides = report.collection.sides if report.collection else {}
    return {
        "folder": str(report.folder),
        "code": report.code,
        "refusal": report.refusal,
        "images": len(report.sizes),
        "sizes": _sizes(report),
        "split": {name: len(paths) for name, paths in sides.items()},
        "found": {kind: list(map(str, paths)) for kind, paths in _found(report).items()},
    }


def _found(report: Report) -> dict[str, list[Path]]:
    return {kind: report.found[kind] for kind in KINDS if report.found[kind]}


def _sizes(report: Report) -> list[tuple[int, int]]:
    """Return (W,H) of the smallest, the median and the largest image by area, if there are any."""
    by_area = sorted(report.sizes.values(), key=math.prod)
    return [by_area[i] for i in (0, len(by_area) // 2, -1)] if by_area else []


def _names(paths: list[Path]) -> str:
    names = ", ".join(one_line(path.name) for path in paths[:NAMED])
    return f"{names} and {len(paths) - NAMED} more" if len(paths) > NAMED else names


def command(arguments: list[str]) -> None:
    """Run the command."""
    config = parse_options(CheckConfig, prog="underdrawing check-data", args=arguments)
    if not config.folders:
        raise ValueError("no folder given: underdrawing check-data PHOTOS PAINTINGS")
    if config.json:
        check_output(config.json, [".json"])
    reports = check_folders(config.folders)
    print("\n\n".join(map(to_text, reports)), flush=True)
    if config.json:
        write_atomic(config.json, json.dumps(list(map(to_record, reports)), indent=1))
    sys.exit(max(report.code for report in reports))


if __name__ == "__main__":
    run_command("check-data", sys.argv[1:])
