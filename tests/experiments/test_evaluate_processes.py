"""Evaluation on several processes: the figures of one, written and printed once."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from underdrawing.experiments.evaluate import EvaluateConfig, evaluate
from underdrawing.trainers.config import TrainConfig
from underdrawing.trainers.trainer import train

Launch = Callable[..., str]

# Forked from a process that has imported everything: four imports of torch would take long.
LAUNCHER = """
import sys
from importlib import import_module
from accelerate import debug_launcher
from underdrawing.experiments.main import run_command
processes, name, *words = sys.argv[1:]
import_module(f"underdrawing.experiments.{name}")
debug_launcher(run_command, (name, words), int(processes))
"""


@pytest.fixture
def launch(cache: Path) -> Launch:
    """``launch(2, "evaluate", RUN)``: what a command printed in all of so many processes."""

    def run(*words: object) -> str:
        done = subprocess.run(
            [sys.executable, "-c", LAUNCHER, *map(str, words)],
            env=os.environ | {"UNDERDRAWING_CACHE": str(cache), "OMP_NUM_THREADS": "1"},
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    return run


def test_figures_are_those_of_one_process(
    tiny: Callable[..., TrainConfig], folders: tuple[Path, Path], tmp_path: Path, launch: Launch
) -> None:
    run, paintings = train(tiny()), folders[0].parent  # 21 pictures: enough for KID
    evaluate(EvaluateConfig(run, paintings=paintings, pairs=20, device="cpu", out=tmp_path / "1"))
    alone = json.loads((tmp_path / "1" / "table.json").read_text())
    assert all(line["figures"]["kernel"]["measured"] is not None for line in alone["lines"])
    for processes in (2, 4):  # three batches: the fourth process has nothing to do
        out = tmp_path / str(processes)
        words = ["--paintings", paintings, "--pairs", 20, "--device", "cpu", "--out", out]
        printed = launch(processes, "evaluate", run, *words)
        assert json.loads((out / "table.json").read_text()) == alone
        assert printed.count("held-out pairs") == 1


def test_a_reproduction_on_two_processes_trains_scores_and_writes_once(
    folders: tuple[Path, Path], tmp_path: Path, launch: Launch
) -> None:
    out = tmp_path / "out"
    printed = launch(
        2, "reproduce", "--photos", folders[0], "--paintings", folders[1], "--out", out,
        "--warmup", 2, "--steps", 1, "--size", 32, "--batch-size", 2, "--pairs", 9,
        "--workers", 0, "--device", "cpu", "--generator.width", 8, "--generator.blocks", 1,
    )  # fmt: skip
    assert printed.count("report:") == 1
    written = {"table.md", "table.csv", "table.json", "report.html", "manifest.json"}
    assert written <= {path.name for path in out.iterdir()}
    about = json.loads((out / "seed-0" / "attention" / "run.json").read_text())
    assert about["processes"] == 2
    scores = json.loads((out / "seed-0" / "attention" / "scores.json").read_text())["scores"]
    assert len(scores["per_pair"]["ssim"]) == scores["pairs"] == 9
