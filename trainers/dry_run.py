"""Dry run: what a training run would do, and how long it would take, without training it."""

import shutil
import time
from dataclasses import replace
from statistics import median

import torch
from torch.utils.data import default_collate

from ..models.pretrained import cache_dir
from .checkpoint import saved_step
from .config import TrainConfig
from .schedule import duration, time_left
from .trainer import WARMUP, Trainer, check_run_dir

TIMED = 3  # steps, after those of the warm-up

Plan = dict[str, str]  # title -> text


def make_plan(config: TrainConfig) -> Plan:
    """Build the run and time a few steps; write nothing into the run directory.

    All processes of a launch must call it together.

    Raises:
        ValueError: training would raise it for this configuration.
    """
    check_run_dir(config)
    joint = replace(config.attention, final_steps=0)  # to time steps of all networks
    trainer = Trainer(replace(config, workers=0, cache_images=False, attention=joint))
    processes, device = trainer.accelerator.num_processes, trainer.device
    name = f"{device.type.upper()}, {torch.get_num_threads()} threads"
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    precision = "bf16" if trainer.accelerator.mixed_precision == "bf16" else "fp32"
    micro_batch = config.batch_size // processes // config.accumulate
    saved, seconds = saved_step(config.out), seconds_per_step(trainer)
    left = max(0, config.steps - saved)
    networks = {"encoder": trainer.networks.encoder} | trainer.networks.modules()
    del networks["averaged"]
    sizes = {n: sum(p.numel() for p in m.parameters()) for n, m in networks.items()}
    disks = {}
    for path in (config.out.absolute(), cache_dir().absolute()):
        existing = next(p for p in (path, *path.parents) if p.exists())
        disks[path] = shutil.disk_usage(existing).free
    return summarize(trainer) | {
        "device": f"{name}, {precision}",
        "batch": f"{config.batch_size} = {processes} process(es) x {config.accumulate} "
        f"micro-batch(es) x {micro_batch} image(s) of {config.size} px",
        "time": f"about {duration(time_left(saved, config) * seconds)}: {left} steps of "
        f"{seconds:.2g} s (less where the attention branch learns alone), plus loading",
        "parameters": ", ".join(f"{n} {size / 1e6:.2f} M" for n, size in sizes.items()),
        "disk": ", ".join(f"{free / 1e9:.1f} GB free at {path}" for path, free in disks.items()),
    }


def summarize(trainer: Trainer) -> Plan:
    """Return the number of images and where the run starts."""
    config, step = trainer.config, saved_step(trainer.config.out)
    source = f"the model in {config.init}" if config.init else "scratch"
    start = f"resumes after step {step}" if step else f"starts from {source}"
    folders = {"photos": trainer.photos, "paintings": trainer.paintings}
    return {
        "run": f"{config.out}: {config.steps} steps of recipe {config.recipe}, {start}",
        **{
            name: f"{len(c.train)} training, {len(c.validation)} validation, {len(c.test)} test"
            for name, c in folders.items()
        },
    }


def describe(plan: Plan) -> str:
    """Format a plan for a terminal."""
    return "\n".join(f"{title:<12}{text}" for title, text in plan.items())


def seconds_per_step(trainer: Trainer) -> float:
    """Return the median time of a few steps of all networks, which they change."""
    own = trainer.config.batch_size // trainer.accelerator.num_processes
    batch = default_collate([trainer.dataset[position] for position in range(own)])
    times = []
    for step in range(WARMUP + TIMED):
        begin = time.perf_counter()
        trainer.train_step.step(min(step, trainer.config.steps - 1), batch)
        torch.get_device_module(trainer.device).synchronize()
        times.append(time.perf_counter() - begin)
    return median(times[WARMUP:])
