"""During an hour of training, memory, file handles and the time of a step stay constant.

``UNDERDRAWING_SOAK_MINUTES`` is the duration, 60 by default.
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
INTERVAL = 10  # seconds between samples, the first quarter of which is ignored
MEMORY_DRIFT = 0.05  # largest relative change along a fitted line
TIME_DRIFT = 0.10  # largest relative change between the first and the last third

Sample = dict[str, float]


def take_sample(process: psutil.Process, run: Path) -> Sample:
    """Measure a run and its loader workers; sizes in bytes."""
    workers = process.children(recursive=True)
    files = [path for path in run.rglob("*") if path.suffix in (".safetensors", ".json")]
    return {
        "seconds": time.monotonic(),
        "step": json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["step"],
        "cpu_seconds": sum(process.cpu_times()[:2]),
        "rss": process.memory_info().rss,
        "workers_rss": sum(worker.memory_info().rss for worker in workers),
        "workers": len(workers),
        "handles": process.num_fds(),
        "workers_handles": sum(worker.num_fds() for worker in workers),
        "threads": process.num_threads(),
        "files": len(files),
    }


def slope(samples: list[Sample], name: str) -> float:
    """Return the change along a fitted line, relative to the mean."""
    seconds, values = (np.array([sample[key] for sample in samples]) for key in ("seconds", name))
    return float(np.polyfit(seconds, values, 1)[0] * np.ptp(seconds) / values.mean())


def change(values: list[float]) -> float:
    """Return the relative change from the median of the first third to that of the last."""
    third = len(values) // 3
    return median(values[-third:]) / median(values[:third]) - 1


@pytest.mark.long
@pytest.mark.timeout(MINUTES * 60 + 600)
def test_long_run_does_not_leak_or_slow_down(
    options: dict[str, object], command_line: Callable[..., list[str]],
    environment: dict[str, str], tmp_path: Path,
) -> None:  # fmt: skip
    run, samples = tmp_path / "run", list[Sample]()
    options = options | {
        "out": run, "size": 64, "steps": 10_000_000, "workers": 2,
        "image-every": 25, "save-every": 25, "validate-every": 25,
    }  # fmt: skip
    with (tmp_path / "log").open("w+") as log:
        training = subprocess.Popen(command_line(options), env=environment, stdout=log, stderr=log)
        try:
            while len(list(run.glob("checkpoints/*"))) < 2:  # from then on no file is added
                assert training.poll() is None
                time.sleep(1)
            for _ in range(round(MINUTES * 60 / INTERVAL)):
                time.sleep(INTERVAL)
                samples.append(take_sample(psutil.Process(training.pid), run))
            training.send_signal(signal.SIGTERM)
            assert training.wait(20) == 130
        finally:
            training.kill()
        log.seek(0)
        assert "Traceback" not in log.read()

    late = samples[len(samples) // 4 :]
    step_times = [  # of the CPU: the wall clock depends on what else the machine does
        (b["cpu_seconds"] - a["cpu_seconds"]) / (b["step"] - a["step"]) for a, b in pairwise(late)
    ]
    drifts = {name: slope(late, name) for name in ("rss", "workers_rss")}
    changes = {
        name: change([sample[name] for sample in late])
        for name in ("workers", "handles", "workers_handles", "threads", "files")
    }
    print({"steps": late[-1]["step"], "step time": change(step_times), **drifts, **changes})
    assert max(map(abs, drifts.values())) < MEMORY_DRIFT
    assert max(map(abs, changes.values())) < 1e-3
    assert abs(change(step_times)) < TIME_DRIFT
