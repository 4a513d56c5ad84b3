"""Thousands of damaged and forged files: each loads as something valid or is refused in a line.

The short form runs in the suite. The long form runs this file as a program, in a process whose
memory and time for each case are limited, so that it catches hangs and blow-ups too:

    pytest tests -m long -s -k forged
"""

import copy
import json
import os
import pickle
import resource
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
import pytest
import torch
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from safetensors.torch import save, save_file
from underdrawing.models import pretrained
from underdrawing.trainers.config import AttentionConfig, GeneratorConfig, TrainConfig, to_json
from underdrawing.trainers.model_files import (
    build_generator,
    load_config,
    load_model,
    save_model,
)
from underdrawing.trainers.tensor_files import read_tensors

CASES = {"model": 500, "config": 500, "weights": 400, "tensors": 200}
PART = 1000  # cases that hypothesis may hold in memory
SECONDS, BYTES = 5, 500_000_000  # that a case may take, on top of what the program takes
CONFIG = TrainConfig(
    generator=GeneratorConfig(width=4, blocks=0), attention=AttentionConfig(channels=True)
)
ODD = [
    None, True, False, 0, -1, 1, 3, 1.5, -0.5, 1e300, 10**9, 2**31, 2**63, 2**64 - 1, 10**30,
    10**400, float("nan"), float("inf"), "", "a", "é\n\x1b", "\0", "\ud800", "x" * 5000, "F64",
    "BF16", "I64", "I32", "F8_E8M0", "F4", "BOOL", "0" * 64, "../..", [], [0], [[]],
    [1] * 200, [2**40, 2**40], {}, {"a": 1}, {"sha256": "0" * 64},
    json.loads("[" * 300 + "]" * 300),
]  # fmt: skip


# -- what is done to a file ---------------------------------------------------------------------


class Whole(bytes):
    """A whole file; hypothesis shows the arguments of its strategies."""

    def __repr__(self) -> str:
        return f"{len(self)} bytes"


@st.composite
def damaged(draw: st.DrawFn, whole: Whole) -> bytes:
    """Bytes changed, cut, put in, doubled or taken out, in up to four places."""
    content = bytes(whole)
    kind = draw(st.sampled_from(["change", "cut", "put in", "double", "take out"]))
    for _ in range(draw(st.integers(1, 4))):
        place = st.integers(0, len(content)) | st.integers(0, min(len(content), 300))
        a, b = sorted((draw(place), draw(place)))
        if kind == "change":
            new = draw(st.binary(min_size=1, max_size=8) | st.just(b"\xff" * 8))  # no number
            content = content[:a] + new + content[a + len(new) :]
        elif kind == "cut":
            content = content[:b]
        elif kind == "put in":
            content = content[:a] + draw(st.binary(min_size=1, max_size=8)) + content[a:]
        elif kind == "double":
            content = content[:b] + content[a:]
        else:
            content = content[:a] + content[b:]
    return content


@st.composite
def forged(draw: st.DrawFn, whole: Whole) -> bytes:
    """JSON with up to three values replaced, left out, renamed or exchanged."""
    tree = json.loads(whole)
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
        places = _places(tree)
        if not places:
            break
        branch, key = draw(st.sampled_from(places))
        kind = draw(st.sampled_from(["odd", "alike", "alike", "exchange", "leave out", "rename"]))
        if kind in ("odd", "alike"):
            alike = [odd for odd in ODD if type(odd) is type(branch[key])]
            branch[key] = copy.deepcopy(
                draw(st.sampled_from(alike if kind == "alike" and alike else ODD))
            )
        elif kind == "exchange":
            other, its_key = draw(st.sampled_from(places))
            branch[key] = copy.deepcopy(other[its_key])
        elif kind == "leave out":
            del branch[key]
        elif isinstance(branch, dict):
            branch[draw(st.sampled_from(["", "a\nb", "width", "sha256"]))] = branch.pop(key)
    return json.dumps(tree).encode()


def _places(tree: Any) -> list[tuple[Any, Any]]:
    """All (list or dict, key) in a tree."""
    keys = tree if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ()
    return [place for key in keys for place in [(tree, key), *_places(tree[key])]]


def forged_header(whole: Whole) -> st.SearchStrategy[bytes]:
    """A safetensors file whose header says something else of the same bytes."""
    end = 8 + int.from_bytes(whole[:8], "little")
    header, data = Whole(whole[8:end]), whole[end:]
    return forged(header).map(lambda x: len(x).to_bytes(8, "little") + x + data)


@st.composite
def other_tensors(draw: st.DrawFn, files: "Files") -> bytes:
    """A whole safetensors file, a tensor or two of which are others."""
    tensors = dict(files.state)
    for _ in range(draw(st.integers(1, 2))):
        name = draw(st.sampled_from(sorted(tensors)))
        old = tensors.pop(name)
        match draw(st.sampled_from(["values", "type", "shape", "name", "absent"])):
            case "values":
                number = draw(st.sampled_from([float("nan"), float("inf"), 0.0, 1e38]))
                tensors[name] = torch.full_like(old, number)
            case "type":
                types = [torch.float64, torch.bfloat16, torch.int32, torch.bool]
                tensors[name] = old.to(draw(st.sampled_from(types)))
            case "shape":
                shape = draw(st.lists(st.integers(0, 4), max_size=5))
                tensors[name] = draw(st.sampled_from([old.new_zeros(shape), old[None].clone()]))
            case "name":
                tensors[draw(st.text())] = old
    return save(tensors)


# -- what is tried ------------------------------------------------------------------------------


def attempt(load: Callable[[], object], path: Path) -> str:
    """Load; "read", or "refused" if it was refused in one line that names the file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            load()
    except ValueError as refusal:
        sentence = str(refusal)
        assert len(sentence.splitlines()) == 1, sentence
        assert len(sentence) < 1000, sentence
        assert path.name in sentence
        assert sentence.isprintable()
        return "refused"
    return "read"


class Files:
    """Whole files of every kind in a folder, and how a changed one is tried."""

    def __init__(self, folder: Path) -> None:
        torch.manual_seed(0)
        self.run = folder / "run"
        self.run.mkdir()
        self.config, self.model = self.run / "config.json", self.run / "model.safetensors"
        self.config.write_text(to_json(CONFIG))
        self.whole_config = Whole(self.config.read_bytes())
        self.state = build_generator(CONFIG).state_dict()
        save_model(self.state, self.run)
        self.whole_models = [Whole(self.model.read_bytes())]
        save_file(self.state, self.model)  # somebody else's, without a hash
        self.whole_models.append(Whole(self.model.read_bytes()))
        self.weights = folder / "weights" / Path(pretrained.WEIGHTS["vgg19"].url).name
        self.weights.parent.mkdir()
        self.whole_weights = [Whole(pickle.dumps({"bias": [1.0, 2.0]}, protocol=2))]
        tensors = {"features.0.weight": torch.ones(3, 2), "features.0.bias": torch.ones(3)}
        for zipped in (True, False):
            torch.save(tensors, self.weights, _use_new_zipfile_serialization=zipped)
            self.whole_weights.append(Whole(self.weights.read_bytes()))
        self.weights.unlink()

    def models(self) -> st.SearchStrategy[bytes]:
        changed = [
            change(whole) for whole in self.whole_models for change in (damaged, forged_header)
        ]
        return st.one_of(*changed, other_tensors(self), other_tensors(self))

    def configs(self) -> st.SearchStrategy[bytes]:
        anything = st.recursive(
            st.sampled_from(ODD) | st.text(max_size=5) | st.floats() | st.integers(),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
            max_leaves=8,
        )
        return st.one_of(
            forged(self.whole_config),
            forged(self.whole_config),
            damaged(self.whole_config),
            anything.map(lambda tree: json.dumps(tree).encode()),
            st.integers(1, 300_000).map(lambda depth: b"[" * depth),
        )

    def weight_files(self) -> st.SearchStrategy[tuple[str, bytes]]:
        pth = st.one_of(*map(damaged, self.whole_weights)).map(lambda x: (".pth", x))
        whole = self.whole_models[1]
        return pth | (damaged(whole) | forged_header(whole)).map(lambda x: (".safetensors", x))

    def try_model(self, content: bytes) -> str:
        self.model.write_bytes(content)
        outcome = attempt(lambda: load_model(self.run), self.model)
        if outcome == "read":
            state = load_model(self.run).generator.state_dict()
            assert all(value.isfinite().all() for value in state.values())
            assert {n: v.shape for n, v in state.items()} == {
                n: v.shape for n, v in self.state.items()
            }
        return outcome

    def try_config(self, content: bytes) -> str:
        self.config.write_bytes(content)
        self.model.write_bytes(self.whole_models[0])
        outcome = attempt(lambda: load_config(self.run), self.config)
        if outcome == "read":
            config = load_config(self.run)
            self.config.write_text(to_json(config))
            assert load_config(self.run) == config  # it survives being written
            attempt(lambda: load_model(self.run), self.config)
        self.config.write_bytes(self.whole_config)
        return outcome

    def try_weights(self, case: tuple[str, bytes]) -> str:
        suffix, content = case
        path = self.weights.with_suffix(suffix)
        path.write_bytes(content)
        # No .pth of another hash would reach the reader: here all of them do.
        with mock.patch.object(pretrained, "check_name", pretrained.sha256_of):
            outcome = attempt(lambda: pretrained.load_pretrained("vgg19", path.parent), path)
        path.unlink()
        return outcome

    def try_tensors(self, content: bytes) -> str:
        self.model.write_bytes(content)
        return attempt(lambda: read_tensors(self.model), self.model)


def targets(folder: Path) -> dict[str, tuple[st.SearchStrategy[Any], Callable[[Any], str]]]:
    """By name: what is tried, and how; the latter returns the outcome."""
    files = Files(folder)
    header = st.binary(max_size=60).map(lambda x: len(x).to_bytes(8, "little") + x)
    return {
        "model": (files.models(), files.try_model),
        "config": (files.configs(), files.try_config),
        "weights": (files.weight_files(), files.try_weights),
        "tensors": (st.binary(max_size=200) | header, files.try_tensors),
    }


def hammer(
    strategy: st.SearchStrategy[Any], try_case: Callable[[Any], None], cases: int, begin: int = 0
) -> None:
    """Try this many cases, the same for the same beginning."""

    @seed(begin)
    @settings(
        max_examples=cases, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(strategy)
    def each(case: Any) -> None:
        try_case(case)

    each()


@pytest.mark.parametrize("name", CASES)
def test_forged_files_are_read_or_refused(name: str, tmp_path: Path) -> None:
    strategy, try_case = targets(tmp_path)[name]
    outcomes: Counter[str] = Counter()
    hammer(strategy, lambda case: outcomes.update([try_case(case)]), CASES[name])
    assert outcomes["refused"] > CASES[name] / 5
    assert name == "tensors" or outcomes["read"] > 0


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", CASES)
def test_forged_files_neither_hang_nor_fill_the_memory(name: str) -> None:
    command = [sys.executable, __file__, name, "9000"]
    done = subprocess.run(command, capture_output=True, text=True)
    print(done.stdout)
    assert done.returncode == 0, done.stderr[-3000:]


class OutOfTimeError(BaseException):
    """No ``except Exception`` of ours may catch it."""


def main(name: str, cases: int) -> None:
    """One target under limits; prints what came of it."""

    def stop(*_: object) -> None:
        raise OutOfTimeError

    signal.signal(signal.SIGALRM, stop)
    outcomes: Counter[str] = Counter()
    slowest = 0.0
    with tempfile.TemporaryDirectory() as folder:
        strategy, try_case = targets(Path(folder))[name]

        def limited(case: Any) -> None:
            nonlocal slowest
            start = time.perf_counter()
            signal.setitimer(signal.ITIMER_REAL, SECONDS)
            try:
                outcomes[try_case(case)] += 1
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
                slowest = max(slowest, time.perf_counter() - start)

        hammer(strategy, limited, 20)  # everything imported
        outcomes.clear()
        memory = psutil.Process().memory_info()
        limit = memory.vms + BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        slowest = 0.0
        for part in range(cases // PART):
            hammer(strategy, limited, PART, part)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - memory.rss
    print(
        f"{name}: {outcomes.total()} cases, {dict(outcomes)}; slowest {slowest * 1000:.0f} ms; "
        f"memory at most {peak / 1e6:.0f} MB more than before"
    )


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    main(sys.argv[1], int(sys.argv[2]))
