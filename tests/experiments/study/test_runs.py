import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from underdrawing.data.files import BusyError
from underdrawing.experiments import cells
from underdrawing.experiments.ablations import with_settings
from underdrawing.experiments.presets import StudyConfig, quick
from underdrawing.experiments.recipes import RECIPES
from underdrawing.experiments.study.runs import (
    StudyRun,
    cell_config,
    cell_key,
    key_of,
    run_lock,
    run_pending,
    warmup_config,
)
from underdrawing.trainers import networks
from underdrawing.trainers.config import GeneratorConfig, TrainConfig

HOLD = """
import fcntl, pathlib, sys
path = pathlib.Path(sys.argv[1])
path.parent.mkdir(parents=True, exist_ok=True)
file = path.open("a")
fcntl.lockf(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def study(tmp_path: Path) -> StudyConfig:
    return replace(quick(), out=tmp_path / "out", device="cpu")


@pytest.fixture
def three() -> list[StudyRun]:
    recipes = ("multi-layer", "attention", "attention-adversarial")
    return [StudyRun(name, RECIPES[name](), 0) for name in recipes]


@contextmanager
def held_by_another(study: StudyConfig, key: str) -> Iterator[Callable[[], None]]:
    """Another process has this cell in hand, until it is told to let go."""
    claim = str(study.out / "claims" / key)
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, claim], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"

        def let_go() -> None:
            other.communicate()

        yield let_go


# -- keys -----------------------------------------------------------------------------------------


def test_the_key_is_of_what_counts() -> None:
    config = TrainConfig()
    for same in ({"recipe": "x"}, {"out": Path("x")}, {"workers": 9}, {"device": "cpu"}):
        assert key_of(with_settings(config, same)) == key_of(config)
    others = (
        {"seed": 1}, {"steps": 7}, {"strength": 0.5}, {"attention.clip": 2.0},
        {"photos": Path("x")}, {"init": Path("cells/0123")}, {"init": Path("cells/4567")},
    )  # fmt: skip
    keys = {key_of(with_settings(config, other)) for other in others}
    assert len(keys | {key_of(config)}) == len(others) + 1


def test_the_key_does_not_depend_on_where_the_start_lies() -> None:
    near, far = (replace(TrainConfig(), init=Path(place) / "0123") for place in ("a", "/b/c"))
    assert key_of(near) == key_of(far)


def test_the_key_does_not_depend_on_the_order_of_changes() -> None:
    one, other = {"attention.clip": 2.0}, {"style.kind": "statistics"}
    config = TrainConfig()
    assert key_of(with_settings(config, one, other)) == key_of(with_settings(config, other, one))


def test_cells_of_a_seed_share_a_start_that_differs_only_where_it_must(study: StudyConfig) -> None:
    def start(**settings: object) -> Path:
        return warmup_config(study, StudyRun("", with_settings(plain, settings), 0)).out

    plain = RECIPES["attention"]()
    for shared in (
        {"attention.objective": "joint"}, {"balance.kind": "schedule"},
        {"content.normalization": "none"}, {"balance.adversarial": 1.0},
    ):  # fmt: skip
        assert start(**shared) == start()
    for own in (
        {"generator.base": "photo"}, {"encoder.smooth": True}, {"balance.kind": "gradient"},
        {"strength": 0.5}, {"full_strength_prob": 1.0},
    ):  # fmt: skip
        assert start(**own) != start()


def test_a_default_that_changes_changes_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else scores of the old default would be printed as the new one's."""
    before = key_of(TrainConfig())
    monkeypatch.setattr(cells, "TRAINING", cells.TRAINING + 1)
    assert key_of(TrainConfig()) != before
    asked = {"attention.target": "robust"}
    assert key_of(with_settings(TrainConfig(), asked)) != key_of(TrainConfig())


def test_the_key_knows_the_precision_that_the_machine_picks(
    study: StudyConfig, three: list[StudyRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = set()
    for there in (True, False):
        monkeypatch.setattr(networks, "has_bfloat16", lambda device, there=there: there)
        keys.add(cell_key(study, three[0]))
    assert len(keys) == 2
    assert cell_key(replace(study, precision="fp32"), three[0]) in keys


def test_a_grid_trains_no_cell_twice_under_two_names(study: StudyConfig) -> None:
    def key(**settings: object) -> str:
        return cell_key(study, StudyRun("", with_settings(RECIPES["attention"](), settings), 0))

    uniform = {"attention.objective": "uniform"}
    assert key(**uniform) == key(**uniform, **{"attention.target": "robust"})
    assert key() == key(**{"attention.budget": 2.0})  # of robust targets alone
    assert key() == key(**{"adversarial.scales": 2})  # there is no discriminator
    robust = {"attention.target": "robust"}
    assert key(**robust) == key(**robust, **{"attention.clip": 2.0})
    assert key(**robust) != key(**robust, **{"attention.budget": 2.0})
    assert key() != key(**{"attention.clip": 2.0})
    assert key() != key(**{"balance.adversarial": 1.0, "adversarial.scales": 2})


def test_what_a_base_is_painted_on_is_the_studys_unless_an_axis_varies_it(
    study: StudyConfig,
) -> None:
    photo = replace(study, generator=GeneratorConfig(base="photo"))
    for recipe, expected in (({}, "photo"), ({"generator.base": "photo"}, "photo")):
        cell = StudyRun("", with_settings(RECIPES["attention"](), recipe), 0)
        assert cell_config(photo, cell).generator.base == expected
    assert cell_config(study, cell).generator.base == "photo"


def test_the_start_teaches_the_branch_but_does_not_use_it(
    study: StudyConfig, three: list[StudyRun]
) -> None:
    for cell in three:
        assert warmup_config(study, cell).attention.objective == "observed"


# -- the queue ------------------------------------------------------------------------------------


def test_a_cell_that_fails_leaves_the_others_alone(
    study: StudyConfig, three: list[StudyRun]
) -> None:
    done: list[StudyRun] = []

    def work(cell: StudyRun) -> None:
        if cell is three[1]:
            raise ValueError("it is too small")
        done.append(cell)

    assert run_pending(study, three, work) == {three[1]: "it is too small"}
    assert done == [three[0], three[2]]


def test_a_bug_is_no_failure_of_a_cell(study: StudyConfig, three: list[StudyRun]) -> None:
    def work(cell: StudyRun) -> None:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        run_pending(study, three, work)


def test_an_interruption_ends_it_at_once(study: StudyConfig, three: list[StudyRun]) -> None:
    done: list[StudyRun] = []

    def work(cell: StudyRun) -> None:
        if done:
            raise KeyboardInterrupt
        done.append(cell)

    with pytest.raises(KeyboardInterrupt):
        run_pending(study, three, work)
    assert done == three[:1]


@pytest.mark.skipif(sys.platform == "win32", reason="locks are POSIX's")
def test_what_another_process_has_in_hand_comes_last(
    study: StudyConfig, three: list[StudyRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[StudyRun] = []
    with held_by_another(study, cell_config(study, three[0]).out.name) as let_go:
        monkeypatch.setattr(time, "sleep", lambda _: let_go())
        assert run_pending(study, three, done.append) == {}
    assert done == [three[1], three[2], three[0]]


@pytest.mark.skipif(sys.platform == "win32", reason="locks are POSIX's")
def test_a_claim_that_another_process_holds_is_busy(study: StudyConfig) -> None:
    with held_by_another(study, "0123"), pytest.raises(BusyError), run_lock(study, "0123"):
        pass
    with run_lock(study, "0123"):
        pass


def test_a_cell_whose_start_is_busy_is_tried_again_and_told_of_once(
    study: StudyConfig, three: list[StudyRun], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    waited, done = list[float](), list[StudyRun]()

    def work(cell: StudyRun) -> None:
        if len(waited) < 3:
            raise BusyError
        done.append(cell)

    monkeypatch.setattr(time, "sleep", waited.append)
    assert run_pending(study, three, work) == {}
    assert done == three
    assert capsys.readouterr().err.count("seed 0: attention\n") == 1


def test_the_processes_of_a_launch_end_together(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Were one to go on to the next cell, the others would wait for it in this one."""
    launch = SimpleNamespace(num_processes=2, is_main_process=True)
    monkeypatch.setattr(cells, "join_processes", lambda device: launch)
    done: list[StudyRun] = []

    def work(cell: StudyRun) -> None:
        done.append(cell)
        raise ValueError("the disk is full")

    study = replace(quick(), out=tmp_path)
    both = [StudyRun("a", RECIPES["attention"](), seed) for seed in range(2)]
    with pytest.raises(ValueError, match="the disk is full"):
        run_pending(study, both, work)
    assert done == both[:1]
