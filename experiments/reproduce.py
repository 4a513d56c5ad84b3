"""``underdrawing reproduce``: every row of the paper's table, trained, scored and shown.

    underdrawing reproduce                     the built-in samples, 2 CPU cores, under 10 minutes
    underdrawing reproduce --preset standard --photos PHOTOS --paintings PAINTINGS   one GPU
    underdrawing reproduce --preset paper    --photos COCO   --paintings WIKIART     the full recipe

All rows of a seed start from one shared warm-up (multi-layer content, no attention, no
discriminator) and differ from there on. Interrupted, the same command continues.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import torch
import tyro
from torch import Tensor

from ..data.folders import Collection
from ..data.images import write_atomic
from ..metrics.judges import Judges, Scores, make_cards
from ..models.encoder import Encoder
from ..models.style_code import style_code
from ..trainers.config import BalanceConfig, GeneratorConfig, OptimizerConfig, TrainConfig
from ..trainers.model_files import build_encoder, load_model
from ..trainers.trainer import collections, train
from .evaluation import CONTROLS, PairPaths, evaluate_method, generator_method, make_manifest, read_squares
from .judges import make_judges
from .recipes import RECIPES
from .report import Picture, write_report
from .stylize import pick_device
from .table import (
    FOOTNOTE,
    ROWS,
    Table,
    make_columns,
    make_line,
    mark_unstylized,
    to_csv,
    to_json,
    to_markdown,
    to_text,
)


class Preset(NamedTuple):
    """Sizes and lengths of a reproduction; the rows' own settings come from their recipes."""

    warmup: int  # steps of the shared start
    steps: int  # steps of each row after it
    batch_size: int
    size: int
    seeds: int
    pairs: int
    test_size: int
    style_weight: float
    learning_rate: float
    full_strength: float
    generator: GeneratorConfig


PRESETS: dict[str, Preset] = {
    # Expected: 8 to 9 minutes on two CPU cores, under 3 GB; one seed, so no intervals.
    "quick": Preset(180, 40, 4, 96, 1, 48, 96, 5.0, 5e-4, 1.0, GeneratorConfig()),
    # One recent GPU and a folder of each; not yet timed on one.
    "standard": Preset(4000, 4000, 16, 256, 3, 512, 256, 5.0, 5e-4, 0.5, GeneratorConfig()),
    # COCO (118k photos) and WikiArt (80k paintings) on several GPUs; nobody has run it here.
    "paper": Preset(40_000, 40_000, 32, 256, 3, 5000, 256, 5.0, 5e-4, 0.5, GeneratorConfig(96, 6)),
}


@dataclass(frozen=True)
class ReproduceConfig:
    """Train and score every row of the paper's table and the control rows; write the report."""

    preset: Literal["quick", "standard", "paper"] = "quick"
    """Sizes and lengths: quick runs on the built-in samples in under 10 minutes on two cores."""
    photos: Path | None = None
    """Folder of photos; without it, the built-in samples."""
    paintings: Path | None = None
    """Folder of paintings; without it, the built-in samples."""
    out: Path | None = None
    """Folder for runs, table and report; without it, runs/reproduce-PRESET."""
    json: Path | None = None
    """Also write the table to this file."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""
    weights_dir: Path | None = None
    """Folder to look for network weights in first."""
    warmup: int | None = None
    """Steps of the shared start, instead of the preset's."""
    steps: int | None = None
    """Steps of each row after it, instead of the preset's."""
    size: int | None = None
    """Side of training and test pictures, instead of the preset's."""
    batch_size: int | None = None
    """Global batch, instead of the preset's."""
    seeds: int | None = None
    """Seeds per row, instead of the preset's."""
    pairs: int | None = None
    """Held-out pairs to score on, at most, instead of the preset's."""


class Plan(NamedTuple):
    """A reproduction with everything decided."""

    config: ReproduceConfig
    preset: Preset
    out: Path
    photos: Collection
    paintings: Collection


def make_plan(config: ReproduceConfig) -> Plan:
    """The preset with the options' changes, and the data."""
    changes = {
        "warmup": config.warmup, "steps": config.steps, "size": config.size, "test_size": config.size,
        "batch_size": config.batch_size, "seeds": config.seeds, "pairs": config.pairs,
    }  # fmt: skip
    preset = PRESETS[config.preset]._replace(**{k: v for k, v in changes.items() if v is not None})
    return Plan(config, preset, make_out(config), *collections(_base(config, preset, "multi-layer")))


def _base(config: ReproduceConfig, preset: Preset, recipe: str) -> TrainConfig:
    """A recipe at the preset's sizes."""
    chosen = RECIPES[recipe]()
    balance: BalanceConfig = replace(chosen.balance, style=preset.style_weight)
    optimizer: OptimizerConfig = replace(chosen.optimizer, lr=preset.learning_rate)
    return replace(
        chosen, photos=config.photos, paintings=config.paintings, device=config.device,
        batch_size=preset.batch_size, size=preset.size, full_strength=preset.full_strength,
        generator=preset.generator, balance=balance, optimizer=optimizer,
        encoder=replace(chosen.encoder, weights_dir=config.weights_dir),
    )  # fmt: skip


def warmup_config(plan: Plan, seed: int) -> TrainConfig:
    """The start that all rows of a seed share."""
    base = _base(plan.config, plan.preset, "multi-layer")
    return replace(
        base, out=plan.out / f"seed-{seed}" / "warm-up", steps=plan.preset.warmup, seed=seed,
        balance=replace(base.balance, adversarial=0.0),
    )  # fmt: skip


def row_config(plan: Plan, recipe: str, seed: int) -> TrainConfig:
    """One row, from the shared start. Its seed differs, so that it sees new crops."""
    folder = plan.out / f"seed-{seed}"
    return replace(
        _base(plan.config, plan.preset, recipe), out=folder / recipe, init=folder / "warm-up",
        steps=plan.preset.steps, seed=1000 + seed,
    )  # fmt: skip


def reproduce(config: ReproduceConfig) -> Table:
    """Train what is not trained yet, score what is not scored yet, write table and report.

    Raises:
        ValueError: a mistake in the options or folders, or no weights to be had.
    """
    plan = make_plan(config)
    device = pick_device(config.device)
    judges = make_judges(device, config.weights_dir)
    manifest = make_manifest(plan.photos.test, plan.paintings.test, plan.preset.pairs)
    write_atomic(plan.out / "manifest.json", json.dumps([[str(p) for p in pair] for pair in manifest], indent=1))
    total = plan.preset.seeds * (1 + len(ROWS))
    for seed in range(plan.preset.seeds):
        print(f"[{1 + seed * (1 + len(ROWS))}/{total}] seed {seed}: shared warm-up", flush=True)
        train(warmup_config(plan, seed))
        for i, row in enumerate(ROWS, start=2):
            print(f"[{i + seed * (1 + len(ROWS))}/{total}] seed {seed}: {row.title}", flush=True)
            train(row_config(plan, row.recipe, seed))

    scores = {
        row.recipe: [
            _kept(row_config(plan, row.recipe, seed).out / "scores.json", manifest, _trained_scores(plan, row_config(plan, row.recipe, seed).out, manifest, judges, device))
            for seed in range(plan.preset.seeds)
        ]
        for row in ROWS
    }
    controls = {
        name: _kept(plan.out / "controls" / f"{name}.json", manifest, _scorer(plan, method, manifest, judges, device, name))
        for name, method in CONTROLS.items()
    }
    table = make_table(plan, judges, scores, controls, manifest)
    for name, text in (("table.md", to_markdown(table)), ("table.csv", to_csv(table)), ("table.json", to_json(table))):
        write_atomic(plan.out / name, text)
    if config.json:
        write_atomic(config.json, to_json(table))
    write_report(plan.out / "report.html", table, _pictures(plan, manifest, device), config)
    return table


def make_table(plan: Plan, judges: Judges, scores: dict[str, list[Scores]], controls: dict[str, Scores], manifest: list[PairPaths]) -> Table:
    """The paper's table from all scores."""
    p, columns = plan.preset, make_columns(judges)
    lines = [make_line(row.title, scores[row.recipe], row.paper, columns, control=False) for row in ROWS]
    lines = mark_unstylized(lines, controls["colour only"].style_gap)
    lines += [make_line(name, [s], None, columns, control=True) for name, s in controls.items()]
    data = "the built-in samples" if plan.config.photos is None else f"{plan.config.photos} and {plan.config.paintings}"
    notes = [
        f"Preset {plan.config.preset}: {p.warmup} shared warm-up steps, then {p.steps} per row, batch {p.batch_size}, "
        f"{p.size} px, {p.seeds} seed(s); trained on {data}.",
        f"Scored on {len(manifest)} held-out pairs at {p.test_size} px. n/a: too few pictures for that figure, or no weights.",
        "Rows in italics are controls. “did not stylise”: closed less than colour matching + 0.15 of the style gap. "
        "Content scores can be bought with style: compare rows only at like style gaps.",
        FOOTNOTE,
    ]
    resolution = f"shorter side to {p.test_size} px, centre crop, 8 bit"
    return Table(columns, lines, make_cards(judges, len(manifest), len(plan.paintings.test), resolution), notes)


def _kept(path: Path, manifest: list[PairPaths], compute: Callable[[], Scores]) -> Scores:
    """Scores from their file, computed and written if it is not there or of other pairs."""
    names = [[photo.name, painting.name] for photo, painting in manifest]
    if path.is_file():
        kept = json.loads(path.read_text())
        if kept["manifest"] == names:
            return Scores(**kept["scores"])
    scores = compute()
    write_atomic(path, json.dumps({"manifest": names, "scores": asdict(scores)}))
    return scores


def _scorer(plan: Plan, method: Callable[[Tensor, Tensor], Tensor], manifest: list[PairPaths], judges: Judges, device: torch.device, name: str) -> Callable[[], Scores]:
    return lambda: evaluate_method(method, manifest, plan.paintings.test, judges, plan.preset.test_size, device, name)


def _trained_scores(plan: Plan, run: Path, manifest: list[PairPaths], judges: Judges, device: torch.device) -> Callable[[], Scores]:
    def compute() -> Scores:
        generator, trained = load_model(run, device)
        encoder, _ = build_encoder(trained, list(trained.style.layers))
        method = generator_method(generator, encoder.to(device), trained.style.layers)
        return _scorer(plan, method, manifest, judges, device, run.name)()

    return compute


@torch.no_grad()
def _pictures(plan: Plan, manifest: list[PairPaths], device: torch.device, count: int = 6, size: int = 256) -> list[Picture]:
    """A few pairs at a size worth looking at: what every row of seed 0 makes of them."""
    chosen = manifest[:: max(1, len(manifest) // count)][:count]
    content = read_squares([photo for photo, _ in chosen], size, device)
    style = read_squares([painting for _, painting in chosen], size, device)
    outputs, attention = {}, None
    for row in ROWS:
        generator, trained = load_model(row_config(plan, row.recipe, 0).out, device)
        encoder: Encoder = build_encoder(trained, list(trained.style.layers))[0].to(device)
        result = generator(content, style_code(style, encoder(style, trained.style.layers)))
        outputs[row.title] = result.image
        attention = result.attention if row.recipe == "attention-adversarial" else attention
    assert attention is not None
    return [
        Picture(content[i], style[i], {title: images[i] for title, images in outputs.items()}, attention[i])
        for i in range(len(chosen))
    ]


def command(arguments: list[str]) -> None:
    """Run the command."""
    config = tyro.cli(ReproduceConfig, prog="underdrawing reproduce", args=arguments)
    table = reproduce(config)
    out = make_out(config)
    print(f"\n{to_text(table)}\n\ntable:  {out / 'table.md'} (.csv, .json)\nreport: {out / 'report.html'}")


def make_out(config: ReproduceConfig) -> Path:
    """The folder a reproduction writes into."""
    return config.out or Path("runs") / f"reproduce-{config.preset}"
