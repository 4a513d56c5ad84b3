from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim import Adam
from underdrawing.trainers.checkpoint import (
    checkpoints,
    load_checkpoint,
    save_checkpoint,
    saved_step,
)


def trained(seed: int, width: int = 3) -> tuple[nn.Module, Adam]:
    torch.manual_seed(seed)
    module = nn.Linear(width, 2)
    optimizer = Adam(module.parameters())
    for _ in range(3):
        module(torch.rand(4, width)).sum().backward()
        optimizer.step()
    return module, optimizer


def save(run: Path, step: int, seed: int, keep: int = 2) -> None:
    module, optimizer = trained(seed)
    save_checkpoint(run, step, {"m": module}, {"o": optimizer}, {"t": torch.arange(3.0)}, keep)


def assert_loads(run: Path, step: int, seed: int) -> None:
    """Assert that the state of ``trained(seed)`` is loaded, exactly."""
    (module, optimizer), (expected, its_optimizer) = trained(9), trained(seed)
    loaded = load_checkpoint(run, {"m": module}, {"o": optimizer})
    assert loaded is not None
    assert loaded[0] == step
    assert loaded[1]["t"].tolist() == [0, 1, 2]
    for key, value in expected.state_dict().items():
        assert torch.equal(module.state_dict()[key], value)
    for index, slots in its_optimizer.state_dict()["state"].items():
        for slot, value in slots.items():
            assert torch.equal(optimizer.state_dict()["state"][index][slot], value)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Two checkpoints: step 7 of seed 0, step 14 of seed 1."""
    save(tmp_path, 7, seed=0)
    save(tmp_path, 14, seed=1)
    return tmp_path


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_restored_optimizer_takes_the_same_next_step(
    layout: torch.memory_format, tmp_path: Path
) -> None:
    """Fused Adam assumes that moments have the memory layout of their weights."""
    x = torch.rand(2, 4, 8, 8)

    def build() -> tuple[nn.Module, Adam]:
        torch.manual_seed(0)
        module = nn.Conv2d(4, 6, 3).to(memory_format=layout)
        return module, Adam(module.parameters(), lr=0.1, fused=True)

    def step(module: nn.Module, optimizer: Adam) -> None:
        module(x).sin().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    (module, optimizer), (restored, its_optimizer) = build(), build()
    step(module, optimizer)
    save_checkpoint(tmp_path, 1, {"m": module}, {"o": optimizer}, {}, keep=1)
    load_checkpoint(tmp_path, {"m": restored}, {"o": its_optimizer})
    step(module, optimizer)
    step(restored, its_optimizer)
    assert torch.equal(restored.get_parameter("weight"), module.get_parameter("weight"))


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_newest_checkpoints_are_kept(keep: int, tmp_path: Path) -> None:
    for step in (5, 10, 15, 20_000_000, 20_000_005):  # more digits than names are padded to
        save(tmp_path, step, 0, keep)
    assert saved_step(tmp_path) == 20_000_005
    assert [path.name for path in checkpoints(tmp_path)] == [
        f"step-{step:07}.safetensors" for step in (15, 20_000_000, 20_000_005)[-keep:]
    ]


def test_saving_an_earlier_step_deletes_later_checkpoints(run: Path) -> None:
    save(run, 10, seed=2)
    assert saved_step(run) == 10
    assert_loads(run, 10, seed=2)


def test_other_files_are_no_checkpoints(run: Path) -> None:
    for name in (
        "step-.safetensors",
        "step-20 (copy).safetensors",
        "step-0000009.damaged",
        ".step-0000030.safetensors.1.part",
    ):
        (run / "checkpoints" / name).write_bytes(b"")
    assert saved_step(run) == 14


def test_checkpoint_of_other_networks_is_refused(run: Path) -> None:
    module, optimizer = trained(1, width=5)
    with pytest.raises(ValueError, match=r"step-0000014\.safetensors belongs to a run with other"):
        load_checkpoint(run, {"m": module}, {"o": optimizer})
    assert saved_step(run) == 14


def flip(content: bytes, at: int) -> bytes:
    damaged = bytearray(content)
    damaged[at] ^= 1
    return bytes(damaged)


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: b"",
        lambda _: b"\0" * 2000,
        *(lambda content, k=k: content[:k] for k in (4, 100, -50, -1)),
        *(lambda content, k=k: flip(content, k) for k in (0, 9, 300, -1, -40)),
    ],
)
def test_damaged_checkpoint_gives_way_to_the_previous_one(
    run: Path, damage: Callable[[bytes], bytes]
) -> None:
    path = checkpoints(run)[-1]
    path.write_bytes(damage(path.read_bytes()))
    with pytest.warns(UserWarning, match=r"step-0000014\.safetensors .*; using the previous"):
        assert_loads(run, 7, seed=0)
    assert path.with_suffix(".damaged").is_file()
    save(run, 21, seed=2)
    assert [saved.stem for saved in checkpoints(run)] == ["step-0000007", "step-0000021"]


def test_only_damaged_checkpoints_are_like_none(run: Path) -> None:
    for path in checkpoints(run):
        path.write_bytes(b"")
    module, optimizer = trained(0)
    with pytest.warns(UserWarning, match="starting over") as caught:
        assert load_checkpoint(run, {"m": module}, {"o": optimizer}) is None
    assert len(caught) == 2
