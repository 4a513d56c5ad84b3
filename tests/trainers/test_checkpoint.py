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


def load(run: Path) -> tuple[int, nn.Module] | None:
    module, optimizer = trained(9)
    loaded = load_checkpoint(run, {"m": module}, {"o": optimizer})
    return (loaded[0], module) if loaded else None


def same(module: nn.Module, seed: int) -> bool:
    expected = trained(seed)[0].state_dict()
    return all(torch.equal(module.state_dict()[key], value) for key, value in expected.items())


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Two checkpoints, each of other weights: step 7 of seed 0, step 14 of seed 1."""
    save(tmp_path, 7, 0)
    save(tmp_path, 14, 1)
    return tmp_path


def test_round_trip_is_exact(run: Path) -> None:
    module, optimizer = trained(2)
    loaded = load_checkpoint(run, {"m": module}, {"o": optimizer})
    assert loaded is not None
    assert loaded[0] == 14
    assert loaded[1]["t"].tolist() == [0, 1, 2]
    assert same(module, 1)
    for index, slots in trained(1)[1].state_dict()["state"].items():
        for slot, value in slots.items():
            assert torch.equal(optimizer.state_dict()["state"][index][slot], value)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_restored_optimizer_takes_the_same_next_step(
    layout: torch.memory_format, tmp_path: Path
) -> None:
    """Fused Adam reads its moments in the order of the weights' memory, whatever theirs is."""
    x = torch.rand(2, 4, 8, 8)

    def begun() -> tuple[nn.Module, Adam]:
        torch.manual_seed(0)
        module = nn.Conv2d(4, 6, 3).to(memory_format=layout)  # type: ignore[call-overload]
        return module, Adam(module.parameters(), lr=0.1, fused=True)

    def step(module: nn.Module, optimizer: Adam) -> None:
        module(x).sin().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    (whole, optimizer), (again, restored) = begun(), begun()
    step(whole, optimizer)
    save_checkpoint(tmp_path, 1, {"m": whole}, {"o": optimizer}, {}, keep=1)
    load_checkpoint(tmp_path, {"m": again}, {"o": restored})
    for module, current in ((whole, optimizer), (again, restored)):
        step(module, current)
    assert torch.equal(again.get_parameter("weight"), whole.get_parameter("weight"))


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path, {}, {}) is None
    assert saved_step(tmp_path) == 0


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_newest_are_kept(keep: int, tmp_path: Path) -> None:
    for step in (5, 10, 15, 20_000_000, 20_000_005):  # beyond the digits that names are padded to
        save(tmp_path, step, 0, keep)
    assert saved_step(tmp_path) == 20_000_005
    kept = (15, 20_000_000, 20_000_005)[-keep:]
    assert [path.name for path in checkpoints(tmp_path)] == [
        f"step-{step:07}.safetensors" for step in kept
    ]


def test_a_course_that_was_left_goes_when_it_is_overtaken(run: Path) -> None:
    save(run, 10, 2)  # the run went back behind its checkpoint at 14
    assert saved_step(run) == 10
    loaded = load(run)
    assert loaded is not None
    assert same(loaded[1], 2)


def test_other_files_are_no_checkpoints(run: Path) -> None:
    for name in (
        "step-.safetensors",
        "step-20 (copy).safetensors",
        "step-0000009.damaged",
        ".step-0000030.safetensors.1.part",
    ):
        (run / "checkpoints" / name).write_bytes(b"")
    assert saved_step(run) == 14


def test_another_shape_is_refused_in_words(run: Path) -> None:
    module, optimizer = trained(1, width=5)
    with pytest.raises(ValueError, match=r"step-0000014\.safetensors belongs to a run of other"):
        load_checkpoint(run, {"m": module}, {"o": optimizer})
    assert saved_step(run) == 14


def _torn(content: bytes, keep: int) -> bytes:
    return content[:keep]


def _flipped(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"\0" * 2000,
        *(lambda c, k=k: _torn(c, k) for k in (4, 100, -50, -1)),
        *(lambda c, k=k: _flipped(c, k) for k in (0, 9, 300, -1, -40)),
    ],
)
def test_a_damaged_checkpoint_gives_way_to_the_one_before(run: Path, damage: object) -> None:
    path = checkpoints(run)[-1]
    path.write_bytes(damage(path.read_bytes()) if callable(damage) else damage)  # type: ignore[arg-type]
    with pytest.warns(UserWarning, match=r"step-0000014\.safetensors is damaged.*the one before"):
        loaded = load(run)
    assert loaded is not None
    assert loaded[0] == 7
    assert same(loaded[1], 0)
    assert path.with_suffix(".damaged").is_file()  # set aside: it must not count as one of two
    save(run, 21, 2)
    assert [p.name for p in checkpoints(run)] == [
        "step-0000007.safetensors", "step-0000021.safetensors",
    ]  # fmt: skip


def test_all_damaged_is_like_none(run: Path) -> None:
    for path in checkpoints(run):
        path.write_bytes(b"")
    with pytest.warns(UserWarning, match="is damaged") as caught:
        assert load(run) is None
    assert len(caught) == 2
