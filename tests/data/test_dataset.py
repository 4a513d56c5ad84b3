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
from underdrawing.data.dataset import (
    AUGMENT_NUMBERS,
    PairDataset,
    PositionSampler,
    RawBatch,
    draw_strength,
    make_loader,
    random_crop,
    shuffled_index,
    unpack,
)
from underdrawing.data.image_cache import CachedImages, UncachedImages, prepare
from underdrawing.data.images import to_tensor

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


def stream(paths: tuple[list[Path], list[Path]], seed: int = 3, share: float = 0.5) -> PairDataset:
    photos, paintings = (UncachedImages(part, side=24) for part in paths)
    return PairDataset(photos, paintings, size=16, seed=seed, full_share=share)


def which(crop: Tensor) -> int:
    """The number of the picture that a crop was taken from."""
    return round(float(crop[0].float().mean()) / STEP)


def same(a: RawBatch, b: RawBatch) -> bool:
    for key in ("content", "style", "strength", "full", "uniform", "position"):
        if not torch.equal(a[key], b[key]):
            return False
    return a.keys() == b.keys()


def test_shapes_and_ranges(paths: tuple[list[Path], list[Path]]) -> None:
    dataset = stream(paths)
    for position in range(20):
        pair = dataset[position]
        assert pair["content"].shape == pair["style"].shape == (3, 16, 16)
        assert pair["content"].dtype == pair["style"].dtype == torch.uint8
        assert pair["strength"].shape == (1, 4, 4)
        assert pair["uniform"].shape == (AUGMENT_NUMBERS,)
        assert pair["full"].shape == pair["position"].shape == ()
        assert pair["position"] == position
        for key in ("strength", "uniform"):
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
    ranks = [PositionSampler(start, stop, batch, rank, world) for rank in range(world)]
    shares = [np.reshape([*rank], (steps, batch // world)) for rank in ranks]
    assert np.hstack(shares).ravel().tolist() == list(PositionSampler(start, stop, batch))
    assert [len(rank) for rank in ranks] == [share.size for share in shares]


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(0, 12), st.integers(0, 12), st.integers(0, 1))
def test_resuming_gives_the_tail(done: int, left: int, rank: int) -> None:
    whole = list(PositionSampler(0, done + left, 6, rank, 2))
    assert list(PositionSampler(done, done + left, 6, rank, 2)) == whole[3 * done :]


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_workers_change_nothing(paths: tuple[list[Path], list[Path]], tmp_path: Path) -> None:
    photos, paintings = (prepare(part, 24, tmp_path, part[0].stem) for part in paths)
    assert isinstance(photos, CachedImages)
    kept = PairDataset(photos, paintings, size=16, seed=3, full_share=0.5)
    alone, helped, from_cache = (
        list(make_loader(dataset, PositionSampler(2, 5, 4), workers=workers))
        for dataset, workers in ((stream(paths), 0), (stream(paths), 2), (kept, 1))
    )
    assert [batch["position"].tolist() for batch in alone] == [
        [first, first + 1, first + 2, first + 3] for first in (8, 12, 16)
    ]
    assert all(same(a, b) for a, b in zip(alone, helped, strict=True))
    assert all(same(a, b) for a, b in zip(alone, from_cache, strict=True))
    assert alone[0]["content"].shape == (4, 3, 16, 16)


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


def test_one_strength_alone_is_the_full_one(paths: tuple[list[Path], list[Path]]) -> None:
    """The discriminator, which sees outputs at full strength, sees all of them."""
    photos, paintings = (UncachedImages(part, side=24) for part in paths)
    dataset = PairDataset(photos, paintings, size=16, seed=3, full_share=1.0, strength=0.3)
    for position in range(10):
        assert dataset[position]["strength"].eq(0.3).all()
        assert dataset[position]["full"] == 1


def test_below_a_lower_full_strength_all_else_stays(paths: tuple[list[Path], list[Path]]) -> None:
    photos, paintings = (UncachedImages(part, side=24) for part in paths)
    half = PairDataset(photos, paintings, size=16, seed=3, full_share=0.5, strength=0.5)
    for position in range(10):
        pair, whole = half[position], stream(paths)[position]
        assert torch.equal(pair["strength"], whole["strength"] / 2)
        assert same(pair | {"strength": whole["strength"]}, whole)


def test_strengths_are_full_even_or_maps_in_their_shares() -> None:
    rng = np.random.default_rng(0)
    strengths = [draw_strength(0.4, rng) for _ in range(1000)]
    assert all(s.shape == (1, 4, 4) and s.min() >= 0 and s.max() <= 1 for s in strengths)
    full = [s for s in strengths if s.min() == 1]
    even = [s for s in strengths if s.min() == s.max() < 1]
    maps = [s for s in strengths if s.min() < s.max()]
    shares = [len(kind) / 1000 for kind in (full, even, maps)]
    assert shares == pytest.approx([0.4, 0.45, 0.15], abs=0.04)
    assert np.quantile([float(s.mean()) for s in even], [0.1, 0.9]) == pytest.approx(
        [0.1, 0.9], abs=0.05
    )
    assert min(float(s.amax() - s.amin()) for s in maps) > 0.3


def _measured_crop(rng: np.random.Generator, scale: float) -> tuple[float, ...]:
    """Left, top, width, height and flip of a random crop, read off a picture of coordinates."""
    across, down = np.meshgrid(np.arange(240), np.arange(180))
    ruler = np.stack([across, down, 0 * down], axis=-1).astype(np.uint8)
    x, y, _ = random_crop(ruler, 32, scale, rng).float()
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
    color = np.array([255, 128, 0], np.uint8)
    for _ in range(50):
        crop = random_crop(np.tile(color, (*size, 1)), 16, 0.1, rng)
        assert crop.is_contiguous()
        assert torch.equal(crop, torch.from_numpy(color)[:, None, None].expand(3, 16, 16))


def test_a_vanished_file_is_replaced_by_its_neighbor(
    paths: tuple[list[Path], list[Path]],
) -> None:
    before = stream(paths)[4]
    gone = which(before["content"])
    paths[0][gone].unlink()
    with pytest.warns(UserWarning, match=rf"photo-{gone}\.png; its neighbor takes its place"):
        after = stream(paths)[4]
    assert which(after["content"]) == (gone + 1) % PHOTOS
    for key in ("style", "strength", "full", "uniform", "position"):
        assert torch.equal(after[key], before[key])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert which(stream(paths)[5]["content"]) != gone


def test_a_vanished_file_is_mentioned_once(paths: tuple[list[Path], list[Path]]) -> None:
    for path in paths[0][:3]:
        path.unlink()
    pairs = stream(paths)
    with pytest.warns(UserWarning, match="its neighbor takes its place") as caught:
        met = {which(pairs[position]["content"]) for position in range(5 * PHOTOS)}
    assert met == {3, 4, 5, 6}
    names = [str(warning.message).split("photo-")[1][0] for warning in caught]
    assert sorted(names) == ["0", "1", "2"]


def test_a_whole_subfolder_may_vanish(paths: tuple[list[Path], list[Path]]) -> None:
    gone = [paths[0][0].with_name(f"gone-{i}.png") for i in range(900)]
    with pytest.warns(UserWarning, match=r"gone-\d+\.png; its neighbor takes its place"):
        assert which(stream(([*gone, paths[0][4]], paths[1]))[0]["content"]) == 4


def packed(strengths: Tensor) -> RawBatch:
    """A batch with these coarse strengths (B,1,4,4) and random pictures."""
    count = len(strengths)
    pictures = torch.from_numpy(
        np.random.default_rng(1).integers(0, 256, (2, count, 3, 24, 24), dtype=np.uint8)
    )
    return {
        "content": pictures[0],
        "style": pictures[1],
        "strength": strengths,
        "full": strengths.amin((1, 2, 3)).eq(1).float(),
        "uniform": torch.full((count, AUGMENT_NUMBERS), 0.25),
        "position": torch.arange(count),
    }


def drawn(count: int) -> Tensor:
    rng = np.random.default_rng(2)
    return torch.stack([draw_strength(0.2, rng) for _ in range(count)])


CPU = torch.device("cpu")


def test_unpacked_pictures_are_what_any_picture_is_as_a_tensor() -> None:
    batch = packed(drawn(5))
    pair = unpack(batch, CPU)
    for name in ("content", "style"):
        pictures, source = pair[name], batch[name]
        assert pictures.dtype == torch.float32
        assert pictures.is_contiguous(memory_format=torch.channels_last)
        for picture, pixels in zip(pictures, source, strict=True):
            expected = to_tensor(Image.fromarray(pixels.permute(1, 2, 0).numpy()))
            assert torch.equal(picture, expected)
    for key in ("full", "uniform", "position"):
        assert torch.equal(pair[key], batch[key])
    assert batch["content"].dtype == torch.uint8  # the packed batch is as it was


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=5))
def test_even_strengths_stay_exactly_even(values: list[float]) -> None:
    even = torch.tensor(values).view(-1, 1, 1, 1)
    strength = unpack(packed(even.expand(-1, 1, 4, 4)), CPU)["strength"]
    assert torch.equal(strength, even.expand(-1, 1, 24, 24))


def test_strength_maps_are_smooth_and_follow_the_coarse_ones() -> None:
    coarse = drawn(200)
    uneven = coarse[coarse.amin((1, 2, 3)) < coarse.amax((1, 2, 3))]
    maps = unpack(packed(uneven), CPU)["strength"]
    assert maps.shape == (len(uneven), 1, 24, 24)
    assert maps.dtype == torch.float32
    assert maps.min() >= 0
    assert maps.max() <= 1
    assert maps.diff(dim=-1).abs().max() < 0.35
    assert maps.diff(dim=-2).abs().max() < 0.35
    centers = maps.unfold(2, 6, 6).unfold(3, 6, 6)[..., 2:4, 2:4].mean((-1, -2))
    assert (centers - uneven).abs().max() < 0.15


def test_an_example_does_not_depend_on_its_batch() -> None:
    strengths = drawn(9)
    together = unpack(packed(strengths), CPU)["strength"]
    alone = [unpack(packed(strength[None]), CPU)["strength"] for strength in strengths]
    assert torch.equal(torch.cat(alone), together)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_unpacking_on_a_gpu_gives_the_same() -> None:
    batch = packed(drawn(9))
    here, there = unpack(batch, CPU), unpack(batch, torch.device("cuda"))
    for key in ("content", "style", "strength"):
        assert there[key].device.type == "cuda"
        assert there[key].max() <= 1
        torch.testing.assert_close(there[key].cpu(), here[key], rtol=0, atol=1e-6)
