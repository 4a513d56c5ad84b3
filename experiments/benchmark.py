"""``underdrawing benchmark``: time training, stylization and data loading.

    underdrawing benchmark
    underdrawing benchmark --parts stylize --sizes 512 --json FILE
    underdrawing benchmark --parts train --profile FILE

Times are compared with two lower bounds (FLOPs and bytes over the machine's measured peak rates)
and with a reference implementation. Each measurement has a process of its own; close other
programs.
"""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from tqdm.auto import tqdm

from ..data.files import write_atomic
from ..trainers.config import EncoderConfig, GeneratorConfig, TrainConfig
from ..trainers.runtime import Device, pick_device
from .analysis.tables import markdown
from .main import parse_options
from .paths import check_output
from .timing.timer import in_fresh_process, machine, peak_bandwidth, peak_flops
from .timing.workloads import OURS, REFERENCE, Case, measure, profile_case

Part = Literal["train", "stylize", "data"]
SIZES = {"train": (256,), "stylize": (256, 512, 1024, 2048), "data": (256,)}
BATCH = {"train": 4, "stylize": 1, "data": 4}


@dataclass(frozen=True)
class BenchmarkConfig:
    """Time the training step, stylization and data loading on this machine."""

    parts: tuple[Part, ...] = ("train", "stylize", "data")
    """Workloads."""
    sizes: tuple[int, ...] = ()
    """Sides in pixels; default: 256 for train and data, 256 to 2048 for stylize."""
    batch: int | None = None
    """Images per batch; default: 4 for train and data, 1 for stylize."""
    reference: bool = True
    """Also time training in the reference implementation, and loading without the image cache."""
    json: Path | None = None
    """Write the results to this file."""
    profile: Path | None = None
    """Write the ten most expensive operations of training and stylization to this file (.md)."""
    device: Device = "auto"
    """Device to compute on."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Precision of the training step; stylization is always in float32."""
    compile: bool = False
    """torch.compile the networks of the training step."""
    cuda_graphs: bool = True
    """On a GPU, record the training step as CUDA graphs."""
    workers: int = 2
    """Loader processes of the data part."""
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)

    def __post_init__(self) -> None:
        if not self.parts:
            raise ValueError("--parts needs at least one of train, stylize, data")
        if min(*self.sizes, 1 if self.batch is None else self.batch, 1) < 1:
            raise ValueError("--sizes and --batch must be at least 1")
        if self.json:
            check_output(self.json, [".json"])
        if self.profile:
            check_output(self.profile, [".md"])


def cases(config: BenchmarkConfig) -> list[Case]:
    """List the cases of a config."""
    base = TrainConfig(
        device=config.device,
        precision=config.precision, compile=config.compile,
        cuda_graphs=config.cuda_graphs, workers=config.workers, steps=10**9,
        generator=config.generator, encoder=config.encoder,
    )  # fmt: skip
    found = []
    for part in config.parts:
        batch = config.batch or BATCH[part]
        for size in config.sizes or SIZES[part]:
            # Style codes are computed at the training size, whatever the photo's.
            case = base if part == "stylize" else replace(base, size=size, batch_size=batch)
            found.append(Case(part, size, batch, case))
    return found


def benchmark(config: BenchmarkConfig) -> list[dict[str, Any]]:
    """Measure all cases; return one record each, and write them to ``config.json``."""
    device = pick_device(config.device)
    peaks: dict[str, float] = {}
    records = []
    for case in tqdm(cases(config), "benchmark", leave=False):
        ours = in_fresh_process(measure, case, OURS)
        record = {
            "part": case.part, "size": case.size, "batch": case.batch, "dtype": ours.dtype,
            "machine": machine(device), "images_per_s": case.batch / ours.timing.median_s,
            **ours.timing._asdict(),
        }  # fmt: skip
        if ours.effort.flops:
            if ours.dtype not in peaks:
                dtype = getattr(torch, ours.dtype)
                peaks[ours.dtype] = in_fresh_process(peak_flops, device, dtype)
            if "bytes" not in peaks:
                peaks["bytes"] = in_fresh_process(peak_bandwidth, device)
            record |= {
                **ours.effort._asdict(),
                "compute_s": ours.effort.flops / peaks[ours.dtype],
                "memory_s": ours.effort.bytes / peaks["bytes"],
            }
        if config.reference and case.part != "stylize":
            timing = in_fresh_process(measure, case, REFERENCE).timing
            record |= {"reference_s": timing.median_s, "reference_peak_mb": timing.peak_mb}
        records.append(record)
        if config.json:
            write_atomic(config.json, json.dumps(records, indent=1))
    return records


def profile(config: BenchmarkConfig) -> str:
    """Return the most expensive operations of each case as Markdown tables."""
    device = pick_device(config.device)
    tables = [f"Eager execution on {machine(device)}; time in the operation itself.\n"]
    for case in cases(config):
        if case.part != "data":
            rows = in_fresh_process(profile_case, case)
            tables.append(f"## {case.part}, {case.size}², batch {case.batch}\n\n{markdown(rows)}\n")
    return "\n".join(tables)


def to_text(records: list[dict[str, Any]]) -> str:
    """Format records as a Markdown table."""
    head = [
        "part", "size", "batch", "dtype", "time", "spread", "images/s", "peak MB",
        "× compute bound", "× memory bound", "reference / ours",
    ]  # fmt: skip
    return markdown([head, *map(_row, records)])


def _row(record: dict[str, Any]) -> list[str]:
    time = record["median_s"]
    return [
        record["part"], str(record["size"]), str(record["batch"]), record["dtype"],
        f"{1000 * time:.3g} ms", f"{1000 * record['spread_s']:.3g} ms",
        f"{record['images_per_s']:.3g}", f"{record['peak_mb']:.0f}",
        f"{time / record['compute_s']:.2f}" if "compute_s" in record else "",
        f"{time / record['memory_s']:.2f}" if "memory_s" in record else "",
        f"{record['reference_s'] / time:.2f}" if "reference_s" in record else "",
    ]  # fmt: skip


def command(arguments: list[str]) -> None:
    """Run the command."""
    config = parse_options(
        BenchmarkConfig, prog="underdrawing benchmark", args=arguments,
        config=(tyro.conf.FlagConversionOff,),
    )  # fmt: skip
    records = benchmark(config)
    print(f"{records[0]['machine']}\n\n{to_text(records)}\n")
    print(
        "Bounds: FLOPs of convolutions and matrix products over the measured rate of a large\n"
        "product in the same dtype; bytes of their inputs and outputs over that of a large copy."
    )
    if config.profile:
        write_atomic(config.profile, profile(config))
