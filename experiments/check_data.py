"""``underdrawing check-data``: report what is in image folders and what training makes of it.

The exit code is 0 if all files are used, 1 if some are left out, 2 if a folder is refused.
"""

import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from ..data.check import LEFT_OUT, USED, Report, check_folders
from ..data.files import one_line, write_atomic
from ..data.folders import is_small
from .analysis.tables import plain
from .main import parse_options, printable
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
    record, lines = to_record(report), [one_line(str(report.folder))]
    if sizes := record["sizes"]:
        text = "smallest {}x{}, median {}x{}, largest {}x{}".format(*sum(sizes, ()))
        lines.append(f"{len(report.sizes)} readable images; pixels: {text}")
    if report.collection:
        counts = (f"{count} {name}" for name, count in record["split"].items())
        note = " (a small folder: added images may move others)" * is_small(report.collection)
        lines.append(f"split: {', '.join(counts)}{note}")
    if found := record["found"]:
        rows = [["kind", "files", "in training", "advice", "names"]]
        for kind, paths in found.items():
            names = [one_line(Path(path).name) for path in paths]
            more = [f"and {len(names) - NAMED} more"] if len(names) > NAMED else []
            rows.append([kind, str(len(names)), *KINDS[kind], ", ".join(names[:NAMED] + more)])
        lines.append(plain(rows))
    if report.refusal:
        lines.append(f"Training would refuse this folder: {report.refusal}")
    elif report.left_out:
        lines.append(f"Training would leave out {report.left_out} files of this folder.")
    else:
        lines.append("Training would use all images of this folder.")
    return "\n".join(lines)


def to_record(report: Report) -> dict[str, Any]:
    """Convert a report to a JSON object; sizes: of the smallest, median and largest image."""
    splits = report.collection.splits if report.collection else {}
    by_area = sorted(report.sizes.values(), key=math.prod)
    return {
        "folder": str(report.folder),
        "code": report.code,
        "refusal": report.refusal,
        "images": len(report.sizes),
        "sizes": [by_area[i] for i in (0, len(by_area) // 2, -1)] if by_area else [],
        "split": {name: len(paths) for name, paths in splits.items()},
        "found": {kind: [*map(str, report.found[kind])] for kind in KINDS if report.found[kind]},
    }


def command(arguments: list[str]) -> None:
    """Run the command."""
    config = parse_options(CheckConfig, prog="underdrawing check-data", args=arguments)
    if not config.folders:
        raise ValueError("no folder given: underdrawing check-data PHOTOS PAINTINGS")
    if config.json:
        check_output(config.json, [".json"])
    reports = check_folders(config.folders)
    print(printable("\n\n".join(map(to_text, reports))), flush=True)
    if config.json:
        write_atomic(config.json, json.dumps(list(map(to_record, reports)), indent=1))
    sys.exit(max(report.code for report in reports))
