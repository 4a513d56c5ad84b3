"""A run that is killed anywhere, any number of times, ends as if it had not been."""

import os
import random
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from signal import SIGKILL
from typing import Any

import psutil
import pytest
from underdrawing.trainers.checkpoint import checkpoints

RunFork = Callable[..., Any]  # the fixtures of these names
SameRun = Callable[[Path, Path], None]
Options = dict[str, object]
End = tuple[str, int] | float  # a point and the number of times it is reached, or seconds

SAVE_EVERY = 3
#: Different stages of a step and of a save. The first validation gives the best model, so that
#: point comes first. After some of these kills the run has a new checkpoint; none lets it finish.
ENDS: list[End] = [
    ("best checkpoint", 1), ("image cache", 5), ("discriminator", 5), ("averaging", 4),
    ("metrics", 4), ("between model and checkpoint", 2), ("checkpoint", 1), ("renaming", 1),
]  # fmt: skip
MORE_ENDS: list[End] = [
    ("configuration", 1), ("rewriting metrics", 1), ("validation", 2), ("model", 2),
    ("deleting", 1),
]  # fmt: skip


def wait_for_sessions(sessions: Iterable[int], patience: float = 30) -> list[psutil.Process]:
    """Wait for the processes of sessions to end; return those that remain."""

    def belongs(process: psutil.Process) -> bool:
        try:
            return os.getsid(process.pid) in sessions and process.status() != psutil.STATUS_ZOMBIE
        except (ProcessLookupError, psutil.NoSuchProcess):
            return False

    deadline = time.monotonic() + patience
    while (found := [*filter(belongs, psutil.process_iter())]) and time.monotonic() < deadline:
        time.sleep(0.2)
    return found


def train_with_kills(run_fork: RunFork, options: Options, ends: Sequence[End], folder: Path) -> int:
    """Train ``folder / "whole"`` without kills and ``folder / "run"`` with; return their number.

    The command is the same each time, apart from its loader workers and image grids.
    """
    options = options | {"save-every": SAVE_EVERY, "validate-every": SAVE_EVERY}
    run, diary, sessions = folder / "run", folder / "diary", set[int]()
    assert run_fork(options | {"out": folder / "whole"}).codes == [0]
    for number, end in enumerate(ends):
        point, nth, after = (None, 1, end) if isinstance(end, float) else (*end, None)
        if point == "image cache":
            shutil.rmtree(Path(os.environ["UNDERDRAWING_CACHE"]) / "images")
        changes = {"out": run, "workers": number % 3, "image-every": 1 + number % 2}
        ended = run_fork(options | changes, diary=diary, point=point, nth=nth, after=after)
        if ended.codes == [0] and after:  # it was faster
            break
        assert ended.codes == [-SIGKILL], f"{end}: {ended.log}"
        sessions |= set(ended.children)
    ended = run_fork(options | {"out": run}, diary=diary)
    assert ended.codes == [0], ended.log
    assert "Traceback" not in ended.log
    steps = len(diary.read_text().split())
    assert steps <= int(str(options["steps"])) + SAVE_EVERY * len(sessions)
    assert wait_for_sessions(sessions) == []  # no worker outlives its run
    return len(sessions)


@pytest.mark.usefixtures("offline")
def test_killed_run_is_bit_identical_to_an_uninterrupted_one(
    run_fork: RunFork, options: Options, assert_same_run: SameRun, tmp_path: Path
) -> None:
    options = options | {"steps": 18, "attention.final-steps": 6}
    kills = train_with_kills(run_fork, options, [*ENDS, 0.4], tmp_path)
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    assert kills >= len(ENDS)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("recipe", ["attention-adversarial", "gradient-balance"])
def test_run_killed_a_hundred_times_is_bit_identical(
    recipe: str, run_fork: RunFork, options: Options, assert_same_run: SameRun, tmp_path: Path
) -> None:
    rng = random.Random(recipe)
    ends = (ENDS[1:] + MORE_ENDS) * 5 + [rng.uniform(0.2, 2.5) for _ in range(40)]
    rng.shuffle(ends)
    options = options | {"recipe": recipe, "steps": 600, "balance.every": 5}
    kills = train_with_kills(run_fork, options, [("best model", 1), ENDS[0]] * 3 + ends, tmp_path)
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    assert kills >= 100


def test_run_with_a_damaged_checkpoint_is_bit_identical(
    run_fork: RunFork, options: Options, assert_same_run: SameRun, tmp_path: Path
) -> None:
    run, whole, diary = tmp_path / "run", tmp_path / "whole", tmp_path / "diary"
    options = options | {"save-every": 1}
    assert run_fork(options | {"out": whole}).codes == [0]
    assert run_fork(options | {"out": run}, point="averaging", nth=4).codes == [-SIGKILL]
    path = checkpoints(run)[-1]  # that of step 3
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    ended = run_fork(options | {"out": run}, diary=diary)
    assert ended.codes == [0]
    assert "using the previous checkpoint" in ended.log
    assert diary.read_text().split() == ["2", "3"]
    assert_same_run(run, whole)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_reproduction_killed_while_scoring_gives_the_same_table(
    run_fork: RunFork, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    options = {
        "photos": folders[0], "paintings": folders[1], "init": None, "warmup": 2, "steps": 1,
        "attention-steps": 1,
        "size": 32, "batch-size": 2, "pairs": 4, "workers": 0, "device": "cpu",
        "precision": "fp32", "generator.width": 8, "generator.blocks": 1,
    }  # fmt: skip
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert run_fork(options | {"out": whole}, "reproduce").codes == [0]
    for end in (("averaging", 4), ("scoring", 1), ("scores", 1), ("scoring", 2), ("scores", 2)):
        ended = run_fork(options | {"out": run}, "reproduce", point=end[0], nth=end[1])
        assert ended.codes == [-SIGKILL], f"{end}: {ended.log}"
    assert run_fork(options | {"out": run}, "reproduce").codes == [0]
    assert (run / "table.json").read_text() == (whole / "table.json").read_text()
