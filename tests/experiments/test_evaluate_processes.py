"""Evaluation on several processes: the figures of one, written and printed once."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from underdrawing.experiments.analysis.tables import ROWS
from underdrawing.experiments.evaluate import EvaluateConfig, evaluate
from underdrawing.trainers.config import TrainConfig
from underdrawing.trainers.trainer import train

Launch = Callable[..., str]

# Forked from a process that has imported everything: four imports of torch would take long.
LAUNCHER = """
import sys
from importlib import import_module
sys.modules["timm"] = None  # no independent judge, which takes most of the time
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
            capture_output=True, text=True, timeout=400,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    return run


def test_figures_are_those_of_one_process(
    tiny: Callable[..., TrainConfig], folders: tuple[Path, Path], tmp_path: Path, launch: Launch,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setitem(sys.modules, "timm", None)
    run, both = train(tiny()), folders[0].parent  # 21 pictures: enough for KID
    evaluate(
        EvaluateConfig(
            (run,), photos=both, paintings=both, pairs=20, device="cpu", out=tmp_path / "1"
        )
    )
    alone = json.loads((tmp_path / "1" / "table.json").read_text())
    assert all(line["figures"]["kernel"]["measured"] is not None for line in alone["full"]["lines"])
    assert alone["curves"][str(run)][0]["strengths"] == [0, 0.25, 0.5, 0.75, 1]
    for processes in (2, 4):  # three batches: the fourth process has nothing to do
        out = tmp_path / str(processes)
        words = ["--photos", both, "--paintings", both, "--pairs", 20, "--device", "cpu",
                 "--out", out]  # fmt: skip
        printed = launch(processes, "evaluate", run, *words)
        assert json.loads((out / "table.json").read_text()) == alone
        assert printed.count(" pairs, KID against") == 1


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
    cells = {path.name for path in (out / "cells").iterdir()}
    assert len(cells) == len(ROWS) + 1  # and the start they share
    for cell in cells:
        assert json.loads((out / "cells" / cell / "run.json").read_text())["processes"] == 2
    scored = {path.stem for path in (out / "scores" / "test").iterdir()} - {"controls"}
    assert len(scored) == len(ROWS)
    assert scored < cells
    for cell in scored:
        kept = json.loads((out / "scores" / "test" / f"{cell}.json").read_text())["scores"]
        for scores in kept.values():
            assert len(scores["per_pair"]["ssim"]) == scores["pairs"] == 9
