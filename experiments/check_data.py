"""``underdrawing data check``: what is in folders of pictures, and what training would make of it.

The exit code is 0 if there is nothing to mend, 1 if training would leave files out, and 2 if it
would refuse a folder.
"""

import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ..data.check import KINDS, LEFT_OUT, Report, check_folders
from ..data.files import one_line, write_atomic
from .main import run_command

NAMED = 3  # files named for each kind


@dataclass(frozen=True)
class CheckConfig:
    """Say what is in folders of pictures, what training makes of it, and what to do about it."""

    folders: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="DIR ...")]
    """Folders of photos or paintings."""
    json: Path | None = None
    """Write the findings, with all file names, to this file."""


def to_text(report: Report) -> str:
    """A report for people."""
    lines = [one_line(str(report.folder)), *_summary(report), *_findings(report), _verdict(report)]
    return "\n".join(lines)


def _summary(report: Report) -> list[str]:
    lines = []
    if report.sizes:
        small, middle, large = (f"{width}x{height}" for width, height in _sizes(report))
        lines.append(
            f"{len(report.sizes)} readable pictures, the smallest {small} pixels, the middle one "
            f"{middle}, the largest {large}"
        )
    if report.collection:
        parts = vars(report.collection).items()
        lines.append("split: " + ", ".join(f"{len(paths)} {part}" for part, paths in parts))
    return lines


def _sizes(report: Report) -> list[tuple[int, int]]:
    """Of the smallest picture, the middle one and the largest; none if there is no picture."""
    by_area = sorted(report.sizes.values(), key=math.prod)
    return [by_area[place] for place in (0, len(by_area) // 2, -1)] if by_area else []


def _findings(report: Report) -> list[str]:
    """The kinds of files met as a table, some files named under each."""
    met = _met(report)
    if not met:
        return []
    rows = [
        (kind, f"{len(paths)}", KINDS[kind].training, KINDS[kind].advice)
        for kind, paths in met.items()
    ]
    heading = ("kind", "files", "in training", "what to do")
    widths = [max(map(len, column)) for column in zip(heading, *rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in (heading, *rows)]
    names = ["", *(f"\n    {_names(paths)}" for paths in met.values())]
    return [line + below for line, below in zip(lines, names, strict=True)]


def _met(report: Report) -> dict[str, list[Path]]:
    return {kind: paths for kind, paths in report.found.items() if paths}


def _names(paths: list[Path]) -> str:
    names = ", ".join(one_line(path.name) for path in paths[:NAMED])
    return f"{names} and {len(paths) - NAMED} more" if len(paths) > NAMED else names


def _verdict(report: Report) -> str:
    if report.refusal:
        return f"Training would refuse this folder: {report.refusal}"
    left_out = sum(len(report.found[kind]) for kind in LEFT_OUT)
    if left_out:
        return f"Training would use this folder without {left_out} of its files."
    return "Training would use all of this folder."


def to_record(report: Report) -> dict[str, object]:
    """A report for programs."""
    split = vars(report.collection) if report.collection else {}
    return {
        "folder": str(report.folder),
        "code": report.code,
        "refusal": report.refusal,
        "pictures": len(report.sizes),
        "sizes": _sizes(report),
        "split": {part: len(paths) for part, paths in split.items()},
        "found": {
            kind: {
                "in_training": KINDS[kind].training,
                "what_to_do": KINDS[kind].advice,
                "files": list(map(str, paths)),
            }
            for kind, paths in _met(report).items()
        },
    }


def parse(arguments: list[str]) -> CheckConfig:
    """The options after the sub-command's name.

    Raises:
        ValueError: another sub-command, or no folder.
    """
    if arguments[:1] not in (["check"], ["-h"], ["--help"]):
        raise ValueError("`underdrawing data` has one sub-command: underdrawing data check DIR ...")
    words = arguments[1:] if arguments[0] == "check" else arguments
    config = tyro.cli(CheckConfig, prog="underdrawing data check", args=words)
    if not config.folders:
        raise ValueError("say which folders to check: underdrawing data check DIR ...")
    return config


def command(arguments: list[str]) -> None:
    """Run the command."""
    config = parse(arguments)
    reports = check_folders(config.folders)
    print("\n\n".join(map(to_text, reports)), flush=True)
    if config.json:
        write_atomic(config.json, json.dumps(list(map(to_record, reports)), indent=1))
    sys.exit(max(report.code for report in reports))


if __name__ == "__main__":
    run_command("data", sys.argv[1:])
