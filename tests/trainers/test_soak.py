"""An hour of training that keeps writing and looking: memory, handles and step time stay flat.

``UNDERDRAWING_SOAK_MINUTES`` is how long, 60 by default; ``UNDERDRAWING_SOAK_JSON`` a file for the
samples.
"""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import median

import numpy as np
import psutil
import pytest

MINUTES = float(os.environ.get("UNDERDRAWING_SOAK_MINUTES", "60"))
EVERY = 10  # seconds between samples; the first quarter of them is no matter
MEMORY_DRIFT = 0.05  # largest change by a fitted line
TIME_DRIFT = 0.10  # largest change between the first and the last third
LEAVING = 20  # seconds that a run may take to save and leave

Sample = dict[str, float]


def take_sample(process: psutil.Process, run: Path) -> Sample:
    """What a run uses now; memory in bytes, of its process and of the loader's together."""
    workers = process.children(recursive=True)
    memory, others = process.memory_full_info(), [w.memory_full_info() for w in workers]
    sizes = file_sizes(run)
    logged = sum(size for path, size in sizes.items() if is_log(path))
    last = (run / "metrics.jsonl").read_text().splitlines()[-1]
    return {
        "seconds": time.monotonic(),
        "step": json.loads(last)["step"],
        "cpu_seconds": sum(process.cpu_times()[:2]),
        "rss": memory.rss,
        "uss": memory.uss,
        "workers_rss": sum(other.rss for other in others),
        "workers_uss": sum(other.uss for other in others),
        "workers": len(workers),
        "handles": process.num_fds(),
        "workers_handles": sum(worker.num_fds() for worker in workers),
        "threads": process.num_threads(),
        "files": len(sizes),
        "kept_bytes": sum(sizes.values()) - logged,
        "logged_bytes": logged,
    }


def file_sizes(folder: Path) -> dict[Path, int]:
    """In bytes, of all files that are there long enough to be looked at."""
    sizes = {}
    for path in folder.rglob("*"):
        try:
            if path.is_file():
                sizes[path] = path.stat().st_size
        except FileNotFoundError:
            continue
    return sizes


def is_log(path: Path) -> bool:
    return path.name == "metrics.jsonl" or "tensorboard" in path.parts


def slope(samples: list[Sample], name: str) -> float:
    """Change from the first sample to the last by a fitted line, as a share of the mean."""
    seconds, values = (np.array([sample[key] for sample in samples]) for key in ("seconds", name))
    return float(np.polyfit(seconds, values, 1)[0] * np.ptp(seconds) / values.mean())


def change(values: list[float]) -> float:
    """From the median of the first third to that of the last, as a share of the first."""
    third = len(values) // 3
    first, last = median(values[:third]), median(values[-third:])
    return last / first - 1


@pytest.mark.long
@pytest.mark.timeout(MINUTES * 60 + 600)
def test_a_long_run_stays_as_it_is(
    options: dict[str, object],
    command: Callable[..., list[str]],
    environment: dict[str, str],
    tmp_path: Path,
) -> None:
    run, samples = tmp_path / "run", list[Sample]()
    options = options | {
        "out": run, "size": 64, "steps": 10_000_000, "workers": 2,
        "image-every": 25, "save-every": 25, "validate-every": 25,
    }  # fmt: skip
    with (tmp_path / "log").open("w+") as log:
        training = subprocess.Popen(
            command("train", options), env=environment, stdout=log, stderr=log
        )
        try:
            while len(list(run.glob("checkpoints/*"))) < 2:  # from then on no file is added
                assert training.poll() is None
                time.sleep(1)
            for _ in range(round(MINUTES * 60 / EVERY)):
                time.sleep(EVERY)
                samples.append(take_sample(psutil.Process(training.pid), run))
            training.send_signal(signal.SIGTERM)
            assert training.wait(LEAVING) == 130
        finally:
            training.kill()
        log.seek(0)
        said = log.read()
    if path := os.environ.get("UNDERDRAWING_SOAK_JSON"):
        Path(path).write_text(json.dumps(samples, indent=1))
    assert "run the same command again to continue" in said
    assert "Traceback" not in said

    late = samples[len(samples) // 4 :]
    step_times, cpu_times = (
        [(b[clock] - a[clock]) / (b["step"] - a["step"]) for a, b in pairwise(late)]
        for clock in ("seconds", "cpu_seconds")
    )
    # Not USS: pages shared with other processes of the machine become a run's own as those end.
    drifts = {name: slope(late, name) for name in ("rss", "workers_rss")}
    changes = {
        name: change([sample[name] for sample in late])
        for name in ("workers", "handles", "workers_handles", "threads", "files", "kept_bytes")
    }
    times = {"step time": change(step_times), "its CPU time": change(cpu_times)}
    print({"steps": late[-1]["step"], **times, **drifts, **changes})
    assert max(map(abs, drifts.values())) < MEMORY_DRIFT
    assert max(map(abs, changes.values())) < 1e-3
    # The clock's time is printed only: it tells how busy the machine was, too.
    assert abs(times["its CPU time"]) < TIME_DRIFT
