"""The processes of a launch: one, or as many as ``accelerate launch`` started."""

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TypeVar

from accelerate import PartialState
from accelerate.utils import gather_object, send_to_device
from tqdm.auto import tqdm

from .networks import pick_device

T = TypeVar("T")
R = TypeVar("R")

# While the first process decodes a large folder into the cache, the others wait this long for it;
# and for one that is stuck. One that has died is noticed within seconds.
PATIENCE = timedelta(hours=2)


def join_processes(device: str) -> PartialState:
    """This process among those of its launch; alone without one. The first call connects them.

    Args:
        device: ``auto``, ``cpu`` or ``cuda``; the state's ``device`` is this process's own.

    Raises:
        ValueError: cuda asked for, none here.
    """
    return PartialState(cpu=pick_device(device).type == "cpu", timeout=PATIENCE)


def share_out(
    processes: PartialState, work: Callable[[T], R], items: Sequence[T], title: str
) -> list[R]:
    """``work`` of every item, in order: of n processes, process r does items r, r + n, …

    Every process gets all results, so an item's result must not depend on who works on it.

    Args:
        processes: those that share the work.
        work: item -> tensors, in any nesting of tuples, lists and dicts.
        items: the same on every process.
        title: of the progress bar.
    """
    own = tqdm(
        range(processes.process_index, len(items), processes.num_processes),
        title, unit="batch", leave=False, disable=not processes.is_main_process,
    )  # fmt: skip
    done = [(k, work(items[k])) for k in own]
    # By way of the main memory: a GPU's tensor would arrive on the GPU of its sender.
    gathered = dict(gather_object(send_to_device(done, "cpu")))
    assert sorted(gathered) == list(range(len(items))), "every item once"
    return send_to_device([gathered[k] for k in range(len(items))], processes.device)
