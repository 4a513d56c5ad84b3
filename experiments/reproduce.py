"""``underdrawing reproduce``: every row of the paper's table, trained, scored and shown.

All rows of a seed start from one shared warm-up and differ from there on. Whatever is finished is
kept, so the same command continues where it was interrupted.

Several GPUs: ``accelerate launch -m underdrawing.experiments.reproduce …``; every row is trained by
all of them, and the pairs to score are shared out.
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import torch
import tyro

from ..data.files import sweep, write_atomic
from ..metrics.judges import Judges, Scores, make_cards
from ..models.pretrained import sha256_of
from ..models.style_code import style_code
from ..trainers.model_files import build_encoder, load_model
from ..trainers.processes import join_processes
from ..trainers.trainer import collections, train
from .evaluation import (
    CONTROLS,
    Method,
    PairPaths,
    evaluate_methods,
    make_manifest,
    read_squares,
    resolution,
    trained_method,
)
from .judges import make_judges
from .main import choice, run_command
from .presets import PRESETS, ReproduceConfig, row_config, warmup_config
from .report import Picture, write_report
from .table import (
    FOOTNOTE,
    ROWS,
    Table,
    make_columns,
    make_line,
    mark_unstylized,
    to_text,
    write_table,
)

REPORT_PAIRS, REPORT_SIZE = 6, 256  # pictures worth looking at, whatever the training size


class Bench(NamedTuple):
    """What every row is scored with."""

    config: ReproduceConfig
    judges: Judges
    manifest: list[PairPaths]
    paintings: Sequence[Path]  # the reference set
    device: torch.device
    main: bool  # whether this process writes the files


class Entry(NamedTuple):
    """A method to score, and the file that keeps its scores."""

    file: Path
    identity: str  # scores kept under another identity are another method's
    load: Callable[[], Method]


def reproduce(config: ReproduceConfig) -> Table:
    """Train what is not trained yet, score what is not scored yet; every process returns the
    table, the first one writes it and the report.

    Raises:
        ValueError: a mistake in the options or folders, or no weights to be had.
    """
    processes = join_processes(config.device)
    device, main = processes.device, processes.is_main_process
    with processes.main_process_first():  # the first one fills the caches
        photos, paintings = collections(warmup_config(config, 0), main)
        # Before the training: missing weights should not be discovered after it.
        judges = make_judges(device, config.weights_dir)
    manifest = make_manifest(photos.test, paintings.test, config.pairs)
    bench = Bench(config, judges, manifest, paintings.test, device, main)
    if main:
        pairs = [[str(photo), str(painting)] for photo, painting in manifest]
        write_atomic(config.out / "manifest.json", json.dumps(pairs, indent=1))
    _train_all(bench)
    table = make_table(bench, *_score_all(bench))
    if main:
        write_table(table, config.out, config.json)
        write_report(config.out / "report.html", table, _pictures(bench), config)
    return table


def _train_all(bench: Bench) -> None:
    config = bench.config
    runs = [
        (f"seed {seed}: {title}", run)
        for seed in range(config.seeds)
        for title, run in [
            ("the warm-up that all rows share", warmup_config(config, seed)),
            *((row.title, row_config(config, row.recipe, seed)) for row in ROWS),
        ]
    ]
    for number, (title, run) in enumerate(runs, start=1):
        if bench.main:
            print(f"[{number}/{len(runs)}] {title}", file=sys.stderr, flush=True)
        train(run)


def _score_all(bench: Bench) -> tuple[dict[str, list[Scores]], dict[str, Scores]]:
    """Scores of the rows by recipe, a list over seeds, and of the controls by name."""
    config, device = bench.config, bench.device
    runs = {
        row.recipe: [row_config(config, row.recipe, seed).out for seed in range(config.seeds)]
        for row in ROWS
    }
    entries = {str(run): _run_entry(run, device) for seeds in runs.values() for run in seeds}
    entries |= {name: _control_entry(name, config.out) for name in CONTROLS}
    scores = score_entries(bench, entries)
    rows = {recipe: [scores[str(run)] for run in seeds] for recipe, seeds in runs.items()}
    return rows, {name: scores[name] for name in CONTROLS}


def _run_entry(run: Path, device: torch.device) -> Entry:
    return Entry(
        run / "scores.json",
        sha256_of(run / "model.safetensors"),
        lambda: trained_method(load_model(run, device), device),
    )


def _control_entry(name: str, out: Path) -> Entry:
    file = out / "controls" / f"{name.replace(' ', '-')}.json"
    return Entry(file, name, lambda: CONTROLS[name])


def score_entries(bench: Bench, entries: Mapping[str, Entry]) -> dict[str, Scores]:
    """Scores from their files; those of another model or other pairs are computed anew."""
    kept = {name: scores for name, entry in entries.items() if (scores := _kept(bench, entry))}
    pending = {name: entry.load() for name, entry in entries.items() if name not in kept}
    if not pending:
        return kept
    fresh = evaluate_methods(
        pending, bench.manifest, bench.paintings, bench.judges, bench.config.size, bench.device
    )
    if bench.main:
        for name, scores in fresh.items():
            sweep(entries[name].file.parent)
            kept_as = {"of": _key(bench, entries[name]), "scores": asdict(scores)}
            write_atomic(entries[name].file, json.dumps(kept_as))
    return kept | fresh


def _kept(bench: Bench, entry: Entry) -> Scores | None:
    try:
        kept = json.loads(entry.file.read_text())
        return Scores(**kept["scores"]) if kept["of"] == _key(bench, entry) else None
    except (FileNotFoundError, ValueError, LookupError, TypeError):  # none yet, or a damaged one
        return None


def _key(bench: Bench, entry: Entry) -> dict[str, object]:
    """What scores depend on."""
    pairs = [f"{photo.name} {painting.name}" for photo, painting in bench.manifest]
    judges = (bench.judges.style, bench.judges.perceptual, bench.judges.pooled)
    return {
        "model": entry.identity,
        "size": bench.config.size,
        "pairs": pairs,
        "paintings": [painting.name for painting in bench.paintings],
        "judges": [list(judge.words) for judge in judges],
    }


def make_table(bench: Bench, scores: dict[str, list[Scores]], controls: dict[str, Scores]) -> Table:
    """The paper's table from all scores."""
    config, columns = bench.config, make_columns(bench.judges)
    lines = [make_line(row.title, scores[row.recipe], row.paper, columns, False) for row in ROWS]
    lines = mark_unstylized(lines, controls["colour only"].style_gap)
    lines += [make_line(name, [s], None, columns, True) for name, s in controls.items()]
    photos, paintings = (x or "the built-in samples" for x in (config.photos, config.paintings))
    notes = [
        f"Preset {config.preset}: {config.warmup} warm-up steps shared by the rows, then "
        f"{config.steps} per row, batch {config.batch_size}, {config.size} px, {config.seeds} "
        f"seed(s). Photos: {photos}. Paintings: {paintings}.",
        f"Scored on {len(bench.manifest)} held-out pairs at {config.size} px. "
        "n/a: too few pictures for that figure.",
        "Rows in italics are controls. “did not stylise”: closed less of the style gap than colour "
        "matching + 0.15. Content scores can be bought with style: compare like with like.",
        FOOTNOTE,
    ]
    words = resolution(config.size)
    cards = make_cards(bench.judges, len(bench.manifest), len(bench.paintings), words)
    return Table(columns, lines, cards, notes)


@torch.no_grad()
def _pictures(bench: Bench) -> list[Picture]:
    """What every row of seed 0 makes of a few pairs."""
    chosen = bench.manifest[:: max(1, len(bench.manifest) // REPORT_PAIRS)][:REPORT_PAIRS]
    content = read_squares([photo for photo, _ in chosen], REPORT_SIZE, bench.device)
    style = read_squares([painting for _, painting in chosen], REPORT_SIZE, bench.device)
    results = {}
    for row in ROWS:
        generator, trained = load_model(row_config(bench.config, row.recipe, 0).out, bench.device)
        encoder = build_encoder(trained, list(trained.style.layers))[0].to(bench.device)
        # The code is taken at the scale at which the model met paintings.
        small = read_squares([painting for _, painting in chosen], trained.size, bench.device)
        code = style_code(small, encoder(small, trained.style.layers))
        results[row.title] = generator(content, code)
    attention = results[ROWS[-1].title].attention
    return [
        Picture(
            content[i], style[i], {title: r.image[i] for title, r in results.items()}, attention[i]
        )
        for i in range(len(chosen))
    ]


def parse(arguments: list[str]) -> ReproduceConfig:
    """A full configuration from ``--preset NAME`` and options that change it.

    Raises:
        ValueError: unknown preset.
    """
    preset = choice(arguments, "--preset", PRESETS, ReproduceConfig.preset)
    description = f"{ReproduceConfig.__doc__}\n\nPreset {preset.__name__}: {preset.__doc__}"
    return tyro.cli(
        ReproduceConfig, prog="underdrawing reproduce", description=description,
        args=arguments, default=preset(),
    )  # fmt: skip


def command(arguments: list[str]) -> None:
    """Run the command."""
    config = parse(arguments)
    table = reproduce(config)
    if join_processes(config.device).is_main_process:
        print(f"\n{to_text(table)}\n")
        print(f"table:  {config.out / 'table.md'} (.csv, .json)")
        print(f"report: {config.out / 'report.html'}")


if __name__ == "__main__":
    run_command("reproduce", sys.argv[1:])
