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

import psutil
import pytest

MINUTES = float(os.environ.get("UNDERDRAWING_SOAK_MINUTES", "60"))
INTERVAL = 10  # seconds between samples, the first quarter of which is ignored
#: Largest relative changes between the first and the last third.
TOLERANCES = {"memory": 0.05, "processes": 0, "handles": 1e-3, "threads": 1e-3, "files": 0}

Sample = dict[str, float]


def take_sample(process: psutil.Process, run: Path) -> Sample:
    """Measure a run with its loader workers; memory in bytes."""
    processes = [process, *process.children(recursive=True)]
    return {
        "step": json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["step"],
        "cpu_seconds": sum(process.cpu_times()[:2]),
        "memory": sum(one.memory_info().rss for one in processes),
        "processes": len(processes),
        "handles": sum(one.num_fds() for one in processes),
        "threads": process.num_threads(),
        "files": len([*run.rglob("*.safetensors"), *run.rglob("*.json")]),
    }


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
    changes = {name: change([sample[name] for sample in late]) for name in TOLERANCES}
    print({"steps": late[-1]["step"], "step time": change(step_times), **changes})
    assert abs(change(step_times)) < 0.1
    assert all(abs(changes[name]) <= tolerance for name, tolerance in TOLERANCES.items())
