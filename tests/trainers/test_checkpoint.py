from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim import Adam
from underdrawing.trainers import checkpoint
from underdrawing.trainers.checkpoint import FILE, load_checkpoint, save_checkpoint


def trained(seed: int, width: int = 3) -> tuple[nn.Module, Adam]:
    torch.manual_seed(seed)
    module = nn.Linear(width, 2)
    optimizer = Adam(module.parameters())
    for _ in range(3):
        module(torch.rand(4, width)).sum().backward()
        optimizer.step()
    return module, optimizer


@pytest.fixture
def run(tmp_path: Path) -> Path:
    module, optimizer = trained(0)
    save_checkpoint(tmp_path, 7, {"m": module}, {"o": optimizer}, {"t": torch.arange(3.0)})
    return tmp_path


def test_round_trip_is_exact(run: Path) -> None:
    module, optimizer = trained(1)
    loaded = load_checkpoint(run, {"m": module}, {"o": optimizer})
    assert loaded is not None
    assert loaded[0] == 7
    assert loaded[1]["t"].tolist() == [0, 1, 2]
    expected, expected_optimizer = trained(0)
    for key, value in expected.state_dict().items():
        assert torch.equal(module.state_dict()[key], value)
    for index, slots in expected_optimizer.state_dict()["state"].items():
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
    save_checkpoint(tmp_path, 1, {"m": whole}, {"o": optimizer}, {})
    load_checkpoint(tmp_path, {"m": again}, {"o": restored})
    for module, current in ((whole, optimizer), (again, restored)):
        step(module, current)
    assert torch.equal(again.get_parameter("weight"), whole.get_parameter("weight"))


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path, {}, {}) is None


def test_another_shape_is_refused_in_words(run: Path) -> None:
    module, optimizer = trained(1, width=5)
    with pytest.raises(ValueError, match=r"checkpoint\.safetensors is damaged or belongs to"):
        load_checkpoint(run, {"m": module}, {"o": optimizer})


@pytest.mark.parametrize("keep", [0, 4, 100, -50])
def test_a_torn_file_is_refused_in_words(run: Path, keep: int) -> None:
    path = run / FILE
    path.write_bytes(path.read_bytes()[:keep])
    module, optimizer = trained(1)
    with pytest.raises(ValueError, match="damaged"):
        load_checkpoint(run, {"m": module}, {"o": optimizer})


def test_a_failing_write_keeps_the_last_checkpoint(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    before = (run / FILE).read_bytes()
    module, optimizer = trained(2)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(run, 8, {"m": module}, {"o": optimizer}, {})
    assert (run / FILE).read_bytes() == before
