"""Evaluation on several processes: equal to one process, written and printed once."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image, ImageOps
from underdrawing.experiments.analysis.results import write_result
from underdrawing.experiments.evaluate import EvaluateConfig, evaluate
from underdrawing.trainers.config import TrainConfig

Launch = Callable[..., str]

# Processes are forked after all imports: importing torch in each would be slow.
LAUNCHER = """
import sys
from importlib import import_module
from accelerate import debug_launcher
from underdrawing.experiments.main import run_command
from underdrawing.experiments.scoring import networks
networks._lite0, networks._saliency = lambda *_: None, lambda: None  # as in single_network
processes, name, *arguments = sys.argv[1:]
import_module(f"underdrawing.experiments.{name}")
debug_launcher(run_command, (name, arguments), int(processes))
"""


@pytest.fixture
def launch(cache: Path) -> Launch:
    """``launch(2, "evaluate", RUN)``: run a command on 2 processes and return its output."""

    def run(*arguments: object) -> str:
        done = subprocess.run(
            [sys.executable, "-c", LAUNCHER, *map(str, arguments)],
            env=os.environ | {"UNDERDRAWING_CACHE": str(cache), "OMP_NUM_THREADS": "1"},
            capture_output=True, text=True, timeout=400,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    return run


def test_results_do_not_depend_on_the_number_of_processes(
    tiny: Callable[..., TrainConfig], write_model: Callable[..., Path], launch: Launch,
    folders: tuple[Path, Path], tmp_path: Path,
) -> None:  # fmt: skip
    run, images, drawn = write_model(tiny(), residual=0.1), tmp_path / "images", tmp_path / "drawn"
    images.mkdir()
    drawn.mkdir()
    for path in [*folders[0].iterdir(), *folders[1].iterdir()]:  # and mirrored: enough for KID
        with Image.open(path) as image:
            image.save(images / f"{path.parent.name}-{path.name}")
            ImageOps.mirror(image).save(images / f"{path.parent.name}-mirrored-{path.name}")
    for path in sorted(images.iterdir())[::2]:  # boundaries of some photos only
        shutil.copy(path, drawn / path.name)
    config = EvaluateConfig(
        (run,), photos=images, paintings=images, pairs=20, strengths=(1.0,), device="cpu",
        boundaries=drawn,
    )  # fmt: skip
    write_result(evaluate(config), tmp_path / "1")
    alone = json.loads((tmp_path / "1" / "table.json").read_text())
    assert all(row["entries"]["kernel"]["measured"] is not None for row in alone["full"]["rows"])
    printed = launch(  # three batches: the fourth process is idle
        4, "evaluate", run, "--photos", images, "--paintings", images, "--pairs", 20,
        "--strengths", 1.0, "--device", "cpu", "--out", tmp_path / "4",
        "--boundaries", drawn,
    )  # fmt: skip
    assert json.loads((tmp_path / "4" / "table.json").read_text()) == alone
    assert printed.count(" pairs, KID against") == 1


def test_study_on_two_processes_trains_and_scores_each_row_once(
    folders: tuple[Path, Path], tmp_path: Path, launch: Launch
) -> None:
    out = tmp_path / "out"
    printed = launch(
        2, "ablate", "channels", "--photos", folders[0], "--paintings", folders[1], "--out", out,
        "--warmup", 1, "--steps", 1, "--size", 32, "--batch-size", 2, "--pairs", 9,
        "--strengths", 1.0, "--workers", 0, "--device", "cpu", "--init", None,
        "--generator.width", 8, "--generator.blocks", 1,
    )  # fmt: skip
    assert printed.count("report:") == 1
    assert {"channels", "report.html"} <= {path.name for path in out.iterdir()}
    runs = list(out.glob("*/*/run.json"))
    assert len(runs) == 3  # two rows and the shared warm-up
    assert all(json.loads(run.read_text())["processes"] == 2 for run in runs)
    scored = {file.stem: json.loads(file.read_text()) for file in out.glob("scores/test/*.json")}
    assert scored.keys() - {"controls"} < {run.parent.name for run in runs}
    assert len(scored) == 3  # two rows and the controls
    for stored in scored.values():
        for scores in stored["scores"].values():
            assert len(scores["per_pair"]["ssim"]) == scores["pairs"] == 9
