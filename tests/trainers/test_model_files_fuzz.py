"""Fuzzing of model, config and weights files: each is loaded or refused in one line.

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

Damaged = Callable[[list[bytes]], st.SearchStrategy[bytes]]  # the fixture of that name
CASES = 100
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
    """Replace, copy or delete up to three values."""
    tree = json.loads(valid)
    for _ in range(draw(st.integers(1, 3))):
        if not (places := _places(tree)):
            break
        (branch, key), (other, other_key) = (draw(st.sampled_from(places)) for _ in range(2))
        same_type = [value for value in ODD_VALUES if type(value) is type(branch[key])]
        match draw(st.sampled_from(["any", "same type", "same type", "copy", "delete"])):
            case "copy":
                branch[key] = copy.deepcopy(other[other_key])
            case "delete":
                del branch[key]
            case kind:
                values = same_type if kind == "same type" and same_type else ODD_VALUES
                branch[key] = copy.deepcopy(draw(st.sampled_from(values)))
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
        assert message.isprintable()
        assert len(message) < 1000, message
        assert path.name in message
        return False
    return True


class Files:
    """Valid files of every kind, strategies to change them, and checks of changed files."""

    def __init__(self, run: Path, damaged: Damaged) -> None:
        torch.manual_seed(0)
        run.mkdir()
        self.run, self.config, self.model = run, run / "config.json", run / "model.safetensors"
        self.state = build_generator(CONFIG).state_dict()
        self.config.write_text(to_json(CONFIG))
        config = self.config.read_bytes()
        save_model(self.state, run)
        self.valid_model = self.model.read_bytes()
        save_file(self.state, self.model)
        hashless = self.model.read_bytes()
        save_model(self.state, run)
        self.weights = run / Path(pretrained.WEIGHTS["vgg19"].url).name
        valid_weights = [pickle.dumps({"bias": [1.0, 2.0]}, protocol=2)]
        for zipped in (True, False):
            tensors = {"features.0.weight": torch.ones(3, 2), "features.0.bias": torch.ones(3)}
            torch.save(tensors, self.weights, _use_new_zipfile_serialization=zipped)
            valid_weights.append(self.weights.read_bytes())
        self.weights.unlink()
        models = [self.valid_model, hashless]
        header = st.binary(max_size=60).map(lambda x: len(x).to_bytes(8, "little") + x)
        self.strategies = {
            "model": st.one_of(damaged(models), *map(forged_header, models), header),
            "config": st.one_of(
                forged_json(config), damaged([config]), st.binary(max_size=60),
                st.integers(1, 300_000).map(lambda depth: b"[" * depth),
            ),
            ".pth": damaged(valid_weights),
            ".safetensors": damaged([hashless]) | forged_header(hashless),
        }  # fmt: skip

    def check(self, kind: str, content: bytes) -> bool:
        """Write a changed file and load it; return whether it was accepted."""
        if kind == "model":
            self.model.write_bytes(content)
            if accepted := loads(lambda: load_model(self.run), self.model):
                state = load_model(self.run).generator.state_dict()
                assert all(value.isfinite().all() for value in state.values())
                assert {n: v.shape for n, v in state.items()} == {
                    n: v.shape for n, v in self.state.items()
                }
            return accepted
        if kind == "config":
            self.config.write_bytes(content)
            if accepted := loads(lambda: load_config(self.run), self.config):
                config = load_config(self.run)
                self.config.write_text(to_json(config))
                assert load_config(self.run) == config
                loads(lambda: load_model(self.run), self.config)
            return accepted
        path = self.weights.with_suffix(kind)
        path.write_bytes(content)
        return loads(lambda: pretrained.load_pretrained("vgg19", path.parent), path)


class OutOfTimeError(BaseException):
    """Not caught by any ``except Exception``."""


@pytest.fixture
def files(tmp_path: Path, damaged: Damaged, monkeypatch: pytest.MonkeyPatch) -> Iterator[Files]:
    """With limited memory of this process, and SIGVTALRM (CPU time) to end a case."""

    def stop(*_: object) -> None:
        raise OutOfTimeError

    # Accept every hash, or no changed .pth would reach the parser.
    monkeypatch.setattr(pretrained, "check_name", content_hash)
    files = Files(tmp_path / "run", damaged)
    load_model(files.run)  # imports everything
    old_limits = resource.getrlimit(resource.RLIMIT_AS)
    limit = psutil.Process().memory_info().vms + BYTES
    signal.signal(signal.SIGVTALRM, stop)
    resource.setrlimit(resource.RLIMIT_AS, (limit, old_limits[1]))
    yield files
    resource.setrlimit(resource.RLIMIT_AS, old_limits)
    signal.signal(signal.SIGVTALRM, signal.SIG_DFL)


@pytest.mark.parametrize("parts", [1, pytest.param(40, marks=pytest.mark.long)])
@pytest.mark.parametrize("kind", ["model", "config", ".pth", ".safetensors"])
def test_changed_files_are_loaded_or_refused(kind: str, parts: int, files: Files) -> None:
    accepted = Counter[bool]()
    for part in range(parts):  # hypothesis keeps the cases of a part in memory

        @seed(part)
        @settings(
            max_examples=CASES, deadline=None, database=None,
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(files.strategies[kind])
        def check(content: bytes) -> None:
            signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
            try:
                accepted[files.check(kind, content)] += 1
            finally:
                signal.setitimer(signal.ITIMER_VIRTUAL, 0)

        check()
    assert accepted[False] > parts * CASES / 5
    assert accepted[True] > 0
