import warnings
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from underdrawing.data.stream import (
    AUGMENT_NUMBERS,
    Pair,
    PairStream,
    Positions,
    draw_strength,
    make_loader,
    random_crop,
    shuffled_index,
)

PHOTOS, PAINTINGS, STEP = 7, 5, 20  # picture i has the red level STEP * i, the rest is noise


@pytest.fixture
def paths(tmp_path: Path) -> tuple[list[Path], list[Path]]:
    rng = np.random.default_rng(0)

    def picture(name: str, red: int) -> Path:
        pixels = rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)
        pixels[..., 0] = red
        path = tmp_path / f"{name}.png"
        Image.fromarray(pixels).save(path)
        return path

    photos = [picture(f"photo-{i}", STEP * i) for i in range(PHOTOS)]
    return photos, [picture(f"painting-{i}", STEP * i) for i in range(PAINTINGS)]


def stream(paths: tuple[list[Path], list[Path]], seed: int = 3, share: float = 0.5) -> PairStream:
    return PairStream(*paths, size=16, seed=seed, full_share=share)


def which(crop: Tensor) -> int:
    """The number of the picture that a crop was taken from."""
    return round(float(crop[0].mean()) * 255 / STEP)


def same(a: Pair, b: Pair) -> bool:
    for key in ("content", "style", "strength", "full", "uniform", "position"):
        if not torch.equal(a[key], b[key]):
            return False
    return a.keys() == b.keys()


def test_shapes_and_ranges(paths: tuple[list[Path], list[Path]]) -> None:
    dataset = stream(paths)
    for position in range(20):
        pair = dataset[position]
        assert pair["content"].shape == pair["style"].shape == (3, 16, 16)
        assert pair["strength"].shape == (1, 16, 16)
        assert pair["uniform"].shape == (AUGMENT_NUMBERS,)
        assert pair["full"].shape == pair["position"].shape == ()
        assert pair["position"] == position
        for key in ("content", "style", "strength", "uniform"):
            assert pair[key].dtype == torch.float32
            assert pair[key].min() >= 0
            assert pair[key].max() <= 1


def test_a_position_gives_the_same_pair_whatever_came_before(
    paths: tuple[list[Path], list[Path]],
) -> None:
    dataset = stream(paths)
    forward = [dataset[position] for position in range(20)]
    torch.manual_seed(99)
    for position in reversed(range(20)):
        assert same(dataset[position], forward[position])
    assert same(stream(paths)[13], forward[13])


def test_reading_leaves_global_random_state_alone(paths: tuple[list[Path], list[Path]]) -> None:
    dataset, before = stream(paths), torch.get_rng_state()
    dataset[5]
    assert torch.equal(torch.get_rng_state(), before)


def test_positions_and_seeds_differ_in_everything_drawn(
    paths: tuple[list[Path], list[Path]],
) -> None:
    pairs = [stream(paths, seed, share=0)[position] for seed in (0, 1) for position in range(15)]
    for key in ("content", "style", "strength", "uniform"):
        assert len({pair[key].numpy().tobytes() for pair in pairs}) == len(pairs)


def test_every_picture_comes_once_per_epoch(paths: tuple[list[Path], list[Path]]) -> None:
    dataset = stream(paths)
    pairs = [dataset[position] for position in range(PHOTOS * PAINTINGS)]
    photos, paintings = ([which(pair[key]) for pair in pairs] for key in ("content", "style"))
    for order, length in ((photos, PHOTOS), (paintings, PAINTINGS)):
        epochs = [order[i : i + length] for i in range(0, len(order), length)]
        assert all(sorted(epoch) == list(range(length)) for epoch in epochs)
        assert any(a != b for a, b in pairwise(epochs))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(0, 2**40), st.integers(1, 2), st.integers(0, 1000), st.integers(1, 50))
def test_an_epoch_is_a_permutation(seed: int, which: int, epoch: int, length: int) -> None:
    positions = range(epoch * length, (epoch + 1) * length)
    order = [shuffled_index(seed, which, position, length) for position in positions]
    assert sorted(order) == list(range(length))
    assert order == [shuffled_index(seed, which, position, length) for position in positions]


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(0, 50), st.integers(0, 10), st.integers(1, 3), st.sampled_from([1, 2, 4]))
def test_the_ranks_together_go_through_the_single_process_order(
    start: int, steps: int, share: int, world: int
) -> None:
    batch, stop = 4 * share, start + steps
    ranks = [Positions(start, stop, batch, rank, world) for rank in range(world)]
    shares = [np.reshape([*rank], (steps, batch // world)) for rank in ranks]
    assert np.hstack(shares).ravel().tolist() == list(Positions(start, stop, batch))
    assert [len(rank) for rank in ranks] == [share.size for share in shares]


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(0, 12), st.integers(0, 12), st.integers(0, 1))
def test_resuming_gives_the_tail(done: int, left: int, rank: int) -> None:
    whole = list(Positions(0, done + left, 6, rank, 2))
    assert list(Positions(done, done + left, 6, rank, 2)) == whole[3 * done :]


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_workers_change_nothing(paths: tuple[list[Path], list[Path]]) -> None:
    alone, helped = (
        list(make_loader(stream(paths), Positions(2, 5, 4), micro_batch=2, workers=workers))
        for workers in (0, 2)
    )
    assert [batch["position"].tolist() for batch in alone] == [
        [first, first + 1] for first in range(8, 20, 2)
    ]
    assert all(same(a, b) for a, b in zip(alone, helped, strict=True))
    assert alone[0]["content"].shape == (2, 3, 16, 16)


def test_full_strength_is_one_everywhere(paths: tuple[list[Path], list[Path]]) -> None:
    dataset = stream(paths, share=1.0)
    for position in range(10):
        assert dataset[position]["strength"].eq(1).all()
        assert dataset[position]["full"] == 1


def test_the_full_flag_says_whether_all_is_one(paths: tuple[list[Path], list[Path]]) -> None:
    dataset = stream(paths, share=0.5)
    pairs = [dataset[position] for position in range(40)]
    flags = [float(pair["full"]) for pair in pairs]
    assert flags == [float(pair["strength"].eq(1).all()) for pair in pairs]
    assert set(flags) == {0.0, 1.0}


def test_strengths_are_full_even_or_maps_in_their_shares() -> None:
    rng = np.random.default_rng(0)
    strengths = [draw_strength(16, 0.4, rng) for _ in range(1000)]
    assert all(s.shape == (1, 16, 16) and s.min() >= 0 and s.max() <= 1 for s in strengths)
    full = [s for s in strengths if s.min() == 1]
    even = [s for s in strengths if s.min() == s.max() < 1]
    maps = [s for s in strengths if s.min() < s.max()]
    shares = [len(kind) / 1000 for kind in (full, even, maps)]
    assert shares == pytest.approx([0.4, 0.45, 0.15], abs=0.04)
    assert np.quantile([float(s.mean()) for s in even], [0.1, 0.9]) == pytest.approx(
        [0.1, 0.9], abs=0.05
    )
    assert min(float(s.amax() - s.amin()) for s in maps) > 0.3
    assert max(float(s.diff(dim=-1).abs().amax()) for s in maps) < 0.5  # smooth


def _measured_crop(rng: np.random.Generator, scale: float) -> tuple[float, ...]:
    """Left, top, width, height and flip of a random crop, read off a picture of coordinates."""
    across, down = np.meshgrid(np.arange(240), np.arange(180))
    ruler = Image.fromarray(np.stack([across, down, 0 * down], axis=-1).astype(np.uint8))
    x, y, _ = random_crop(ruler, 32, scale, rng) * 255
    width, height = (
        (end - start).mean() / 16 * 32 for start, end in ((x[:, 8], x[:, 24]), (y[8], y[24]))
    )
    left, top = x.mean() - width.abs() / 2, y.mean() - height / 2
    return float(left), float(top), float(width.abs()), float(height), float(width < 0)


def test_crops_have_the_areas_aspects_and_places_asked_for() -> None:
    rng = np.random.default_rng(0)
    crops = np.array([_measured_crop(rng, 0.4) for _ in range(400)])
    left, top, width, height, flipped = crops.T
    area, aspect = width * height / 180**2, width / height
    assert area.min() > 0.38
    assert area.max() < 1.02
    assert np.quantile(area, [0.1, 0.5, 0.9]) == pytest.approx([0.46, 0.69, 0.92], abs=0.05)
    assert aspect.min() > 0.73
    assert aspect.max() < 1.36
    assert np.median(aspect) == pytest.approx(1, abs=0.05)
    assert flipped.mean() == pytest.approx(0.5, abs=0.08)
    for start, extent, side in ((left, width, 240), (top, height, 180)):
        assert start.min() > -2
        assert (start + extent).max() < side + 2
        roomy = side - extent > 20
        place = start[roomy] / (side - extent)[roomy]
        assert np.quantile(place, [0.1, 0.9]) == pytest.approx([0.1, 0.9], abs=0.1)


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (200, 3), (16, 16), (15, 17)])
def test_crops_of_any_picture(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        crop = random_crop(Image.new("RGB", size, (255, 128, 0)), 16, 0.1, rng)
        assert torch.equal(crop, torch.tensor([255, 128, 0])[:, None, None].expand(3, 16, 16) / 255)


def test_a_vanished_file_is_replaced_by_its_neighbour(
    paths: tuple[list[Path], list[Path]],
) -> None:
    before = stream(paths)[4]
    gone = which(before["content"])
    paths[0][gone].unlink()
    with pytest.warns(UserWarning, match=rf"photo-{gone}\.png; its neighbour takes its place"):
        after = stream(paths)[4]
    assert which(after["content"]) == (gone + 1) % PHOTOS
    for key in ("style", "strength", "full", "uniform", "position"):
        assert torch.equal(after[key], before[key])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert which(stream(paths)[5]["content"]) != gone


@pytest.mark.filterwarnings("ignore:.*its neighbour takes its place")
def test_when_all_files_are_gone_it_says_so(paths: tuple[list[Path], list[Path]]) -> None:
    for path in paths[1]:
        path.write_bytes(b"")
    with pytest.raises(
        ValueError, match=r"in a row cannot be read, the last one .*painting-\d\.png"
    ):
        stream(paths)[0]
