"""Fuzzing of model, config, weights and tensor files: each is loaded or refused in one line.

Time and memory are limited. More cases: ``pytest tests -m long -k changed_files``.
"""

import copy
import json
import pickle
import resource
import signal
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
import pytest
import torch
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from underdrawing.data.files import content_hash
from underdrawing.models import pretrained
from underdrawing.trainers.config import AttentionConfig, GeneratorConfig, TrainConfig, to_json
from underdrawing.trainers.model_files import build_generator, load_config, load_model, save_model
from underdrawing.trainers.tensor_files import read_tensors

Damaged = Callable[[list[bytes]], st.SearchStrategy[bytes]]  # the fixture of that name
CASES = {"model": 200, "config": 300, "weights": 200, "tensors": 100}
SECONDS, BYTES = 5, 500_000_000  # limits: CPU time of a case, memory of the process beyond now
CONFIG = TrainConfig(
    generator=GeneratorConfig(width=4, blocks=0), attention=AttentionConfig(channels=True)
)
ODD_VALUES = [
    None, True, False, 0, -1, 1, 3, 1.5, -0.5, 1e300, 10**9, 2**31, 2**63, 2**64 - 1, 10**30,
    10**400, float("nan"), float("inf"), "", "a", "é\n\x1b", "\0", "\ud800", "x" * 5000, "F64",
    "BF16", "I64", "I32", "F8_E8M0", "F4", "BOOL", "0" * 64, "../..", [], [0], [[]],
    [1] * 200, [2**40, 2**40], {}, {"a": 1}, {"sha256": "0" * 64},
    json.loads("[" * 300 + "]" * 300),
]  # fmt: skip


@st.composite
def forged_json(draw: st.DrawFn, valid: bytes) -> bytes:
    """Replace, exchange, delete or rename up to three values."""
    tree = json.loads(valid)
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
        places = _places(tree)
        if not places:
            break
        branch, key = draw(st.sampled_from(places))
        kind = draw(st.sampled_from(["any", "same type", "same type", "other", "delete", "rename"]))
        if kind in ("any", "same type"):
            same = [value for value in ODD_VALUES if type(value) is type(branch[key])]
            values = same if kind == "same type" and same else ODD_VALUES
            branch[key] = copy.deepcopy(draw(st.sampled_from(values)))
        elif kind == "other":
            other, other_key = draw(st.sampled_from(places))
            branch[key] = copy.deepcopy(other[other_key])
        elif kind == "delete":
            del branch[key]
        elif isinstance(branch, dict):
            branch[draw(st.sampled_from(["", "a\nb", "width", "sha256"]))] = branch.pop(key)
    return json.dumps(tree).encode()


def _places(tree: Any) -> list[tuple[Any, Any]]:
    """Return all (list or dict, key) in a tree."""
    keys = tree if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ()
    return [place for key in keys for place in [(tree, key), *_places(tree[key])]]


def forged_header(valid: bytes) -> st.SearchStrategy[bytes]:
    """Forge the header of a safetensors file; keep the data."""
    end = 8 + int.from_bytes(valid[:8], "little")
    data = valid[end:]
    return forged_json(valid[8:end]).map(lambda x: len(x).to_bytes(8, "little") + x + data)


def loads(load: Callable[[], object], path: Path) -> bool:
    """Whether a file is loaded; if not, the error must be one short line that names it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            load()
    except ValueError as error:
        message = str(error)
        assert len(message.splitlines()) == 1, message
        assert len(message) < 1000, message
        assert path.name in message
        assert message.isprintable()
        return False
    return True


class Files:
    """Valid files of every kind, strategies to change them, and checks of changed files."""

    def __init__(self, folder: Path) -> None:
        torch.manual_seed(0)
        self.run = folder / "run"
        self.run.mkdir()
        self.config, self.model = self.run / "config.json", self.run / "model.safetensors"
        self.config.write_text(to_json(CONFIG))
        self.valid_config = self.config.read_bytes()
        self.state = build_generator(CONFIG).state_dict()
        save_model(self.state, self.run)
        self.valid_models = [self.model.read_bytes()]
        save_file(self.state, self.model)  # without a hash
        self.valid_models.append(self.model.read_bytes())
        self.weights = folder / Path(pretrained.WEIGHTS["vgg19"].url).name
        self.valid_weights = [pickle.dumps({"bias": [1.0, 2.0]}, protocol=2)]
        tensors = {"features.0.weight": torch.ones(3, 2), "features.0.bias": torch.ones(3)}
        for zipped in (True, False):
            torch.save(tensors, self.weights, _use_new_zipfile_serialization=zipped)
            self.valid_weights.append(self.weights.read_bytes())
        self.weights.unlink()

    def strategy(self, kind: str, damaged: Damaged) -> st.SearchStrategy[Any]:
        hashless = self.valid_models[1]
        if kind == "model":
            return st.one_of(damaged(self.valid_models), *map(forged_header, self.valid_models))
        if kind == "config":
            leaves = st.sampled_from(ODD_VALUES) | st.text(max_size=5) | st.floats()
            anything = st.recursive(
                leaves,
                lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=5), x),
                max_leaves=8,
            )
            return st.one_of(
                forged_json(self.valid_config),
                forged_json(self.valid_config),
                damaged([self.valid_config]),
                anything.map(lambda tree: json.dumps(tree).encode()),
                st.integers(1, 300_000).map(lambda depth: b"[" * depth),
            )
        if kind == "weights":
            pth = damaged(self.valid_weights).map(lambda x: (".pth", x))
            other = damaged([hashless]) | forged_header(hashless)
            return pth | other.map(lambda x: (".safetensors", x))
        header = st.binary(max_size=60).map(lambda x: len(x).to_bytes(8, "little") + x)
        return st.binary(max_size=200) | header

    def check(self, kind: str, case: Any) -> bool:
        """Write a changed file and load it; return whether it was accepted."""
        if kind == "weights":
            suffix, content = case
            path = self.weights.with_suffix(suffix)
            path.write_bytes(content)
            # Accept every hash, or no changed .pth would reach the parser.
            with mock.patch.object(pretrained, "check_name", content_hash):
                accepted = loads(lambda: pretrained.load_pretrained("vgg19", path.parent), path)
            path.unlink()
            return accepted
        if kind == "tensors":
            self.model.write_bytes(case)
            return loads(lambda: read_tensors(self.model), self.model)
        if kind == "config":
            self.config.write_bytes(case)
            self.model.write_bytes(self.valid_models[0])
            if accepted := loads(lambda: load_config(self.run), self.config):
                config = load_config(self.run)
                self.config.write_text(to_json(config))
                assert load_config(self.run) == config
                loads(lambda: load_model(self.run), self.config)
            return accepted
        self.model.write_bytes(case)
        if accepted := loads(lambda: load_model(self.run), self.model):
            state = load_model(self.run).generator.state_dict()
            assert all(value.isfinite().all() for value in state.values())
            assert {n: v.shape for n, v in state.items()} == {
                n: v.shape for n, v in self.state.items()
            }
        return accepted


class OutOfTimeError(BaseException):
    """Not caught by any ``except Exception``."""


@pytest.fixture
def limits(tmp_path: Path) -> Iterator[None]:
    """Limit the memory of this process, and let SIGVTALRM (CPU time) end a case."""

    def stop(*_: object) -> None:
        raise OutOfTimeError

    load_model(Files(tmp_path).run)  # imports everything
    old_limits = resource.getrlimit(resource.RLIMIT_AS)
    limit = psutil.Process().memory_info().vms + BYTES
    signal.signal(signal.SIGVTALRM, stop)
    resource.setrlimit(resource.RLIMIT_AS, (limit, old_limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, old_limits)
    signal.signal(signal.SIGVTALRM, signal.SIG_DFL)


@pytest.mark.usefixtures("limits")
@pytest.mark.parametrize("parts", [1, pytest.param(20, marks=pytest.mark.long)])
@pytest.mark.parametrize("kind", CASES)
def test_changed_files_are_loaded_or_refused(
    kind: str, parts: int, damaged: Damaged, tmp_path: Path
) -> None:
    (tmp_path / "files").mkdir()
    files, accepted = Files(tmp_path / "files"), Counter[bool]()

    for part in range(parts):  # hypothesis keeps the cases of a part in memory

        @seed(part)
        @settings(
            max_examples=CASES[kind], deadline=None, database=None,
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(files.strategy(kind, damaged))
        def check(case: Any) -> None:
            signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
            try:
                accepted[files.check(kind, case)] += 1
            finally:
                signal.setitimer(signal.ITIMER_VIRTUAL, 0)

        check()
    assert accepted[False] > parts * CASES[kind] / 5
    assert kind == "tensors" or accepted[True] > 0
