"""What a run would do, and what it would take, found out without training it."""

import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.data import default_collate

from ..data.dataset import RawBatch
from ..data.image_cache import cached_side
from ..models.pretrained import cache_dir
from .checkpoint import saved_step
from .config import TrainConfig
from .networks import make_accelerator
from .runtime import free_memory
from .schedule import duration
from .train_step import TrainStep
from .trainer import Trainer, check_run_folder

# What a step takes at its peak, over what it keeps for its backwards: working memory and gaps.
# Measured against the peak of real runs; see ``Plan``.
WORKING = 2.0


@dataclass(frozen=True)
class Plan:
    """A run that could be started; sizes are in bytes.

    ``memory`` was 1.04 to 1.20 times the measured peak of real training on a CPU, at 128, 256 and
    512 pixels, 1 to 8 pictures at a time, in float32 and bf16. On a GPU it has not been compared.
    """

    config: TrainConfig
    start: int  # steps done already
    device: str
    precision: str
    processes: int
    micro_batch: int  # pictures that a process takes at a time
    splits: dict[str, tuple[int, int, int]]  # photos, paintings: to train, validate, test
    terms: tuple[str, ...]  # of the losses, as a step named them
    parameters: dict[str, int]  # by network
    memory: int  # of a process at its peak, without its loaders
    memory_free: int  # what it could have
    seconds: float  # a step takes
    checkpoint: int  # one file
    prepared: int  # pictures in the cache, at most
    disk_free: dict[Path, int]  # of the disks with the run and the cache


def make_plan(config: TrainConfig) -> Plan:
    """Build the run and try a picture or two; nothing is written into the run folder.

    All processes of a launch must ask for it together.

    Raises:
        ValueError: what training would raise for this configuration.
    """
    check_run_folder(config)
    processes = make_accelerator(config).num_processes
    micro_batch = config.batch_size // processes // config.accumulate
    tried = min(2, micro_batch)  # some objectives want two pictures
    trial = replace(
        config,
        batch_size=tried * processes,
        accumulate=1,
        workers=0,
        cache_images=False,
        compile=False,
    )
    trainer = Trainer(trial)
    device, networks = trainer.device, trainer.networks
    modules = networks.modules()
    averaged = _bytes(modules["averaged"])
    learning = sum(map(_bytes, modules.values())) - averaged
    taken, free = _memory_taken(device), free_memory(device)
    packed = default_collate([trainer.dataset[position] for position in range(tried)])
    picture = _memory_of_a_step(trainer.train_step, packed, device) // tried
    seconds = _time_of_a_step(trainer.train_step, packed, device) / tried
    folders = {"photos": trainer.photos, "paintings": trainer.paintings}
    side = cached_side(config.size, config.crop_scale)
    return Plan(
        config=config,
        start=saved_step(config.out),
        device=_device_name(device),
        precision="bf16" if trainer.accelerator.mixed_precision == "bf16" else "fp32",
        processes=processes,
        micro_batch=micro_batch,
        splits={
            name: (len(split.train), len(split.validation), len(split.test))
            for name, split in folders.items()
        },
        terms=tuple(
            name.removeprefix("loss/") for name in trainer.train_step.totals if "loss/" in name
        ),
        parameters={
            name: sum(p.numel() for p in module.parameters())
            for name, module in (modules | {"encoder": networks.encoder}).items()
            if name != "averaged"
        },
        memory=taken + 3 * learning + micro_batch * picture,  # gradients and Adam's two moments
        memory_free=taken + free,
        seconds=seconds * micro_batch * config.accumulate,
        checkpoint=3 * learning + averaged,
        prepared=sum(len(split.train) for split in folders.values()) * side**2 * 4,
        disk_free={place: _disk_free(place) for place in (config.out, cache_dir())},
    )


def _bytes(module: nn.Module) -> int:
    return sum(t.numel() * t.element_size() for t in module.state_dict().values())


def _memory_taken(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return psutil.Process().memory_info().rss


def _memory_of_a_step(train_step: TrainStep, packed: RawBatch, device: torch.device) -> int:
    """What a step takes for its pictures."""
    if device.type == "cuda":
        train_step.step(0, packed)  # which allocates Adam's moments
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        train_step.step(0, packed)
        return torch.cuda.max_memory_allocated(device) - before
    kept: dict[int, Tensor] = {}  # by address; held on to, so that none is used twice

    def keep(tensor: Tensor) -> Tensor:
        kept.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        train_step.step(0, packed)
    networks = [train_step.networks.encoder, *train_step.networks.modules().values()]
    weights = {p.untyped_storage().data_ptr() for n in networks for p in n.parameters()}
    sizes = [t.untyped_storage().nbytes() for key, t in kept.items() if key not in weights]
    return int(sum(sizes) * WORKING)


def _time_of_a_step(train_step: TrainStep, packed: RawBatch, device: torch.device) -> float:
    """In seconds; not of the first one, which is slower."""
    begin = time.perf_counter()
    train_step.step(0, packed)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begin


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} thread(s)"


def _disk_free(place: Path) -> int:
    existing = next(p for p in (place.absolute(), *place.absolute().parents) if p.exists())
    return shutil.disk_usage(existing).free


def describe(plan: Plan) -> str:
    """The plan in lines for a terminal."""
    config, enough = plan.config, plan.memory <= plan.memory_free
    left = max(0, config.steps - plan.start)
    rounds = [
        f"{(config.steps * config.batch_size) / train:.1f} times through {train} {name}"
        for name, (train, _, _) in plan.splits.items()
    ]
    lines = {
        "run": f"{config.out}, {_start(plan)}",
        "recipe": f"{config.recipe}: {', '.join(plan.terms)}",
        "device": f"{plan.device}, {plan.precision}",
        "processes": f"{plan.processes}"
        + (", started by accelerate launch" if plan.processes > 1 else ""),
        "batch": f"{config.batch_size} = {plan.processes} process(es) x {config.accumulate} "
        f"micro-batch(es) x {plan.micro_batch} picture(s) of {config.size} px",
        "steps": f"{config.steps}: {', '.join(rounds)}",
        "time": f"about {duration(left * plan.seconds)}: {left} steps of {plan.seconds:.2g} "
        f"seconds, as {min(2, plan.micro_batch)} picture(s) took in proportion",
        **{
            name: "{} to train on, {} to validate, {} to test".format(*counts)
            for name, counts in plan.splits.items()
        },
        "parameters": ", ".join(f"{n} {count / 1e6:.2f} M" for n, count in plan.parameters.items()),
        "memory": f"about {_size(plan.memory)} a process, of {_size(plan.memory_free)}"
        + ("" if enough else ": NOT ENOUGH; raise --accumulate, or lower --size or --batch-size"),
        "checkpoints": f"{config.keep_checkpoints} and that of the best model, {_size(plan.checkpoint)} each",
        "pictures": f"at most about {_size(plan.prepared)}, prepared in the cache"
        if config.cache_images
        else "decoded anew each time",
        "disk": ", ".join(f"{_size(free)} free at {p}" for p, free in plan.disk_free.items()),
    }
    return "\n".join(f"{name:<12} {text}" for name, text in lines.items())


def _start(plan: Plan) -> str:
    if plan.start >= plan.config.steps:
        return f"finished at step {plan.start}"
    if plan.start:
        return f"continues after step {plan.start}"
    return f"from the model in {plan.config.init}" if plan.config.init else "from the beginning"


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
