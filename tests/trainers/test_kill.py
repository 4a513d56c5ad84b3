"""A run that is killed anywhere, as often as you like, ends as if it had not been.

The lives of a run are forks, see lives.py; each is the same command with other loader workers.
"""

import os
import random
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from signal import SIGKILL
from typing import Any, NamedTuple

import psutil
import pytest
from underdrawing.trainers.checkpoint import checkpoints

Live = Callable[..., Any]  # the fixture of that name
SameRun = Callable[[Path, Path], None]  # that of assert_same_run
Options = dict[str, object]
End = tuple[str, int] | float  # at a point, when it is reached the nth time; or after seconds

SAVE_EVERY = 3
#: Some of these lives get a checkpoint further, and none to the end. The best model is that of the
#: first validation, so that these come first.
FIRST: list[End] = [("best model", 1), ("best checkpoint", 1)]
THEN: list[End] = [
    ("preparing", 5), ("configuration", 1), ("rewriting metrics", 1), ("gradients", 5),
    ("update", 4), ("metrics", 4), ("validation", 2), ("model", 2), ("checkpoint", 2),
    ("between model and checkpoint", 2), ("renaming", 2), ("deleting", 1),
]  # fmt: skip


def torn(folder: Path) -> list[Path]:
    """What killed writers leave."""
    return list(folder.rglob(".*.part"))


def survivors(sessions: Iterable[int], patience: float = 30) -> list[psutil.Process]:
    """Processes of these sessions that are still there after some seconds."""

    def belongs(process: psutil.Process) -> bool:
        try:
            return os.getsid(process.pid) in sessions and process.status() != psutil.STATUS_ZOMBIE
        except (ProcessLookupError, psutil.NoSuchProcess):
            return False

    deadline = time.monotonic() + patience
    while (found := [*filter(belongs, psutil.process_iter())]) and time.monotonic() < deadline:
        time.sleep(0.2)
    return found


class Told(NamedTuple):
    """What there is to tell of a run that was killed often."""

    kills: Counter[str]
    torn: int  # lives after which there was a torn file
    steps: int  # executed in all
    most: int  # that may have been


def kill_often(live: Live, options: Options, ends: Sequence[End], folder: Path) -> Told:
    """Run a training without kills, in ``folder / "whole"``, and with, in ``folder / "run"``."""
    steps = int(str(options["steps"]))
    options = options | {"save-every": SAVE_EVERY, "validate-every": SAVE_EVERY}
    whole, run, diary = folder / "whole", folder / "run", folder / "diary"
    assert live("train", options | {"out": whole}).codes == [0]
    sessions: set[int] = set()
    kills, torn_files = Counter[str](), 0
    for number, end in enumerate(ends):
        point, nth, after = (None, 1, end) if isinstance(end, float) else (*end, None)
        if point == "preparing":
            shutil.rmtree(Path(os.environ["UNDERDRAWING_CACHE"]) / "prepared")
        changes = {"out": run, "workers": number % 3, "image-every": 1 + number % 2}
        ended = live("train", options | changes, diary=diary, point=point, nth=nth, after=after)
        if ended.codes == [0] and after:  # quicker than that
            break
        assert ended.codes == [-SIGKILL], f"{end}: {ended.log}"
        sessions |= set(ended.children)
        kills[point or "from outside"] += 1
        torn_files += bool(torn(run))
    ended = live("train", options | {"out": run}, diary=diary)
    assert ended.codes == [0], ended.log
    assert "Traceback" not in ended.log
    cond_strength = Told(
        kills, torn_files, len(diary.read_text().split()), steps + kills.total() * SAVE_EVERY
    )
    assert cond_strength.steps <= cond_strength.most
    assert survivors(sessions) == []
    return cond_strength


@pytest.mark.usefixtures("offline")
def test_a_run_killed_anywhere_ends_as_if_it_had_not_been(
    live: Live, options: Options, assert_same_run: SameRun, tmp_path: Path
) -> None:
    rng = random.Random(0)
    ends = [*FIRST, *THEN, rng.uniform(0.2, 0.6), rng.uniform(0.2, 0.6)]
    cond_strength = kill_often(live, options | {"steps": 36}, ends, tmp_path)
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    assert cond_strength.kills.total() >= len(FIRST + THEN)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("recipe", ["attention-adversarial", "gradient-balance"])
def test_a_run_killed_a_hundred_times_ends_as_if_it_had_not_been(
    recipe: str, live: Live, options: Options, assert_same_run: SameRun, tmp_path: Path
) -> None:
    rng = random.Random(recipe)
    ends = THEN * 5 + [rng.uniform(0.2, 2.5) for _ in range(40)]
    rng.shuffle(ends)
    options = options | {"recipe": recipe, "steps": 600, "balance.every": 5}
    begun = time.monotonic()
    cond_strength = kill_often(live, options, FIRST * 3 + ends, tmp_path)
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    assert cond_strength.kills.total() >= 100
    print(f"{recipe}: {cond_strength}, {time.monotonic() - begun:.0f} s")


# --- checkpoints that are damaged between two lives -------------------------------------------


class Stopped(NamedTuple):
    """A run killed in its last step of 4, with checkpoints after 2 and 3; and one that was not."""

    options: Options
    run: Path
    whole: Path


@pytest.fixture(scope="module")
def stopped(live: Live, options: Options, tmp_path_factory: pytest.TempPathFactory) -> Stopped:
    folder = tmp_path_factory.mktemp("stopped")
    options = options | {"save-every": 1}
    assert live("train", options | {"out": folder / "whole"}).codes == [0]
    ended = live("train", options | {"out": folder / "run"}, point="update", nth=4)
    assert ended.codes == [-SIGKILL]
    return Stopped(options, folder / "run", folder / "whole")


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


@pytest.mark.parametrize("damage", [truncate, flip_a_byte, zero, Path.unlink])
def test_after_damage_the_checkpoint_before_is_used(
    damage: Callable[[Path], None], live: Live, stopped: Stopped, assert_same_run: SameRun,
    tmp_path: Path,
) -> None:  # fmt: skip
    run = shutil.copytree(stopped.run, tmp_path / "run")
    damage(checkpoints(run)[-1])
    ended = live("train", stopped.options | {"out": run}, diary=tmp_path / "diary")
    assert ended.codes == [0]
    if damage != Path.unlink:
        assert "step-0000003.safetensors is damaged" in ended.log
        assert "going back to the one before" in ended.log
    assert (tmp_path / "diary").read_text().split() == ["2", "3"]
    assert_same_run(run, stopped.whole)


def test_without_a_whole_checkpoint_a_run_starts_over_and_says_so(
    live: Live, stopped: Stopped, assert_same_run: SameRun, tmp_path: Path
) -> None:
    run = shutil.copytree(stopped.run, tmp_path / "run")
    for path in checkpoints(run):
        flip_a_byte(path)
    ended = live("train", stopped.options | {"out": run})
    assert ended.codes == [0]
    assert "step-0000002.safetensors is damaged" in ended.log
    assert "starting over" in ended.log
    assert_same_run(run, stopped.whole)


# --- the other command that trains ------------------------------------------------------------


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_reproduction_killed_while_it_scores_gives_the_same_table(
    live: Live, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    options = {
        "photos": folders[0], "paintings": folders[1], "warmup": 2, "steps": 1, "size": 32,
        "batch-size": 2, "pairs": 4, "workers": 0, "device": "cpu", "precision": "fp32",
        "generator.width": 8, "generator.blocks": 1,
    }  # fmt: skip
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert live("reproduce", options | {"out": whole}).codes == [0]
    for point, nth in [("update", 4), ("scoring", 1), ("scoring", 7), ("scores", 1), ("scores", 4)]:
        ended = live("reproduce", options | {"out": run}, point=point, nth=nth)
        assert ended.codes == [-SIGKILL], f"{point}: {ended.log}"
    ended = live("reproduce", options | {"out": run})
    assert ended.codes == [0], ended.log
    assert (run / "table.json").read_text() == (whole / "table.json").read_text()
