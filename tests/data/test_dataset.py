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
    unpack,
)
from underdrawing.data.image_cache import ResizedImages, build_cache
from underdrawing.data.images import to_tensor

PHOTOS, PAINTINGS, STEP = 7, 5, 20  # image i has the red level STEP * i; the rest is noise
CPU = torch.device("cpu")
Paths = tuple[list[Path], list[Path]]


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    rng = np.random.default_rng(0)

    def write(name: str, red: int) -> Path:
        pixels = rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)
        pixels[..., 0] = red
        path = tmp_path / f"{name}.png"
        Image.fromarray(pixels).save(path)
        return path

    photos = [write(f"photo-{i}", STEP * i) for i in range(PHOTOS)]
    return photos, [write(f"painting-{i}", STEP * i) for i in range(PAINTINGS)]


def pairs(paths: Paths, seed: int = 3, full_strength_prob: float = 0.5) -> PairDataset:
    photos, paintings = (ResizedImages(part, side=24) for part in paths)
    return PairDataset(photos, paintings, 16, seed, full_strength_prob)


def number(crop: Tensor) -> int:
    """Number of the image that a crop was taken from."""
    return round(float(crop[0].float().mean()) / STEP)


def same(a: RawBatch, b: RawBatch) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)  # type: ignore[literal-required]


# --- examples ---------------------------------------------------------------------------------


def test_examples_have_the_documented_shapes_and_ranges(paths: Paths) -> None:
    dataset = pairs(paths)
    for position in range(20):
        pair = dataset[position]
        assert pair["content"].shape == pair["style"].shape == (3, 16, 16)
        assert pair["content"].dtype == pair["style"].dtype == torch.uint8
        assert (pair["strength"].shape, pair["uniform"].shape) == ((1, 4, 4), (AUGMENT_NUMBERS,))
        assert pair["full"] == pair["strength"].eq(1).all()
        assert pair["position"] == position
        for values in (pair["strength"], pair["uniform"]):
            assert values.dtype == torch.float32
            assert (values.min() >= 0) & (values.max() <= 1)


def test_an_example_depends_on_seed_and_position_alone(paths: Paths) -> None:
    dataset, state = pairs(paths, full_strength_prob=0), torch.get_rng_state()
    examples = [dataset[position] for position in range(15)]
    assert torch.equal(torch.get_rng_state(), state)
    for position in reversed(range(15)):
        assert same(dataset[position], examples[position])
    assert same(pairs(paths, full_strength_prob=0)[13], examples[13])
    examples += [pairs(paths, seed=4, full_strength_prob=0)[position] for position in range(15)]
    for key in ("content", "style", "strength", "uniform"):
        assert len({pair[key].numpy().tobytes() for pair in examples}) == 30


def test_every_image_occurs_once_per_epoch_in_a_new_order(paths: Paths) -> None:
    dataset = pairs(paths)
    examples = [dataset[position] for position in range(PHOTOS * PAINTINGS)]
    photos = [number(pair["content"]) for pair in examples]
    paintings = [number(pair["style"]) for pair in examples]
    for order, length in ((photos, PHOTOS), (paintings, PAINTINGS)):
        epochs = [order[i : i + length] for i in range(0, len(order), length)]
        assert all(sorted(epoch) == list(range(length)) for epoch in epochs)
        assert any(a != b for a, b in pairwise(epochs))


def test_an_unreadable_image_is_replaced_by_the_next_with_one_warning(paths: Paths) -> None:
    before = pairs(paths)[4]
    gone = number(before["content"])
    paths[0][gone].unlink()
    dataset = pairs(paths)
    with pytest.warns(UserWarning, match=rf"photo-{gone}\.png; using the next image") as caught:
        examples = [dataset[position] for position in range(5 * PHOTOS)]
    assert len(caught) == 1
    assert {number(pair["content"]) for pair in examples} == set(range(PHOTOS)) - {gone}
    assert number(examples[4]["content"]) == (gone + 1) % PHOTOS
    assert same(examples[4] | {"content": before["content"]}, before)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pairs(paths)[5]


def test_a_fraction_of_the_photos_are_other_paintings(paths: Paths) -> None:
    """Decided per position, without effect on the other examples and on the paintings."""
    plain, mixed = pairs(paths), pairs(paths)
    mixed.paintings_as_photos = 0.2
    drawn = [mixed.indices(position) for position in range(2000)]
    fraction = sum(is_painting for is_painting, _, _ in drawn) / len(drawn)
    assert fraction == pytest.approx(0.2, abs=0.03)
    assert all(photo != painting for is_painting, photo, painting in drawn if is_painting)
    assert {photo for is_painting, photo, _ in drawn if is_painting} == set(range(PAINTINGS))
    for position, (is_painting, photo, painting) in enumerate(drawn[:30]):
        example = mixed[position]
        assert (number(example["content"]), number(example["style"])) == (photo, painting)
        assert is_painting or same(example, plain[position])
    single = pairs((paths[0], paths[1][:1]))  # is never its own photo
    single.paintings_as_photos = 1.0
    assert not any(single.indices(position)[0] for position in range(50))


def test_many_unreadable_images_in_a_row_are_skipped(paths: Paths) -> None:
    gone = [paths[0][0].with_name(f"gone-{i}.png") for i in range(900)]
    with pytest.warns(UserWarning, match=r"gone-\d+\.png; using the next image"):
        assert number(pairs(([*gone, paths[0][4]], paths[1]))[0]["content"]) == 4
    with pytest.raises(ValueError, match=r"900 images in a row are unreadable; .*gone-\d+"):
        pairs((gone, paths[1]))[0]


# --- strengths and crops ----------------------------------------------------------------------


def test_strengths_are_full_constant_or_maps_in_their_shares() -> None:
    rng = np.random.default_rng(0)
    strengths = [draw_strength(0.4, rng) for _ in range(1000)]
    assert all(s.shape == (1, 4, 4) and s.min() >= 0 and s.max() <= 1 for s in strengths)
    full = [s for s in strengths if s.min() == 1]
    constant = [float(s.mean()) for s in strengths if s.min() == s.max() < 1]
    maps = [s for s in strengths if s.min() < s.max()]
    shares = [len(kind) / 1000 for kind in (full, constant, maps)]
    assert shares == pytest.approx([0.4, 0.45, 0.15], abs=0.04)
    assert np.quantile(constant, [0.1, 0.9]) == pytest.approx([0.1, 0.9], abs=0.05)
    assert min(float(s.amax() - s.amin()) for s in maps) > 0.3
    assert all(draw_strength(1.0, rng).eq(1).all() for _ in range(20))


def _measure_crop(rng: np.random.Generator, scale: float) -> tuple[float, ...]:
    """Left, top, width, height and mirroring of a random crop of an image of coordinates."""
    across, down = np.meshgrid(np.arange(240), np.arange(180))
    ruler = np.stack([across, down, 0 * down], axis=-1).astype(np.uint8)
    x, y, _ = random_crop(ruler, 32, scale, rng).float()
    width, height = (
        (end - start).mean() / 16 * 32 for start, end in ((x[:, 8], x[:, 24]), (y[8], y[24]))
    )
    left, top = x.mean() - width.abs() / 2, y.mean() - height / 2
    return float(left), float(top), float(width.abs()), float(height), float(width < 0)


def test_crops_have_the_documented_areas_aspects_and_places() -> None:
    rng = np.random.default_rng(0)
    left, top, width, height, mirrored = np.array([_measure_crop(rng, 0.4) for _ in range(400)]).T
    area, aspect = width * height / 180**2, width / height
    assert ((area > 0.38) & (area < 1.02) & (aspect > 0.73) & (aspect < 1.36)).all()
    assert np.quantile(area, [0.1, 0.5, 0.9]) == pytest.approx([0.46, 0.69, 0.92], abs=0.05)
    assert np.quantile(aspect, [0.1, 0.5, 0.9]) == pytest.approx([0.80, 1, 1.26], abs=0.05)
    assert mirrored.mean() == pytest.approx(0.5, abs=0.08)
    for start, extent, side in ((left, width, 240), (top, height, 180)):
        assert ((start > -2) & (start + extent < side + 2)).all()
        roomy = side - extent > 20
        place = start[roomy] / (side - extent)[roomy]
        assert np.quantile(place, [0.1, 0.9]) == pytest.approx([0.1, 0.9], abs=0.1)


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (200, 3)])
def test_images_of_any_size_can_be_cropped(size: tuple[int, int]) -> None:
    rng, color = np.random.default_rng(0), np.array([255, 128, 0], np.uint8)
    for _ in range(50):
        crop = random_crop(np.tile(color, (*size, 1)), 16, 0.1, rng)
        assert torch.equal(crop, torch.from_numpy(color)[:, None, None].expand(3, 16, 16))


# --- batches ----------------------------------------------------------------------------------


def raw_batch(strengths: Tensor) -> RawBatch:
    """A batch with these coarse strengths (B,1,4,4) and random images."""
    rng, count = np.random.default_rng(1), len(strengths)
    images = torch.from_numpy(rng.integers(0, 256, (2, count, 3, 24, 24), dtype=np.uint8))
    return {
        "content": images[0],
        "style": images[1],
        "strength": strengths,
        "full": strengths.amin((1, 2, 3)).eq(1).float(),
        "uniform": torch.full((count, AUGMENT_NUMBERS), 0.25),
        "position": torch.arange(count),
    }


def strengths(count: int) -> Tensor:
    rng = np.random.default_rng(2)
    return torch.stack([draw_strength(0.2, rng) for _ in range(count)])


def test_unpack_converts_images_as_to_tensor_does() -> None:
    raw = raw_batch(strengths(5))
    batch = unpack(raw, CPU)
    for images, source in ((batch["content"], raw["content"]), (batch["style"], raw["style"])):
        assert images.is_contiguous(memory_format=torch.channels_last)
        for image, pixels in zip(images, source, strict=True):
            expected = to_tensor(Image.fromarray(pixels.permute(1, 2, 0).numpy()))
            assert torch.equal(image, expected)


def test_strengths_are_upsampled_smoothly_and_constant_ones_stay_exact() -> None:
    coarse = strengths(200)
    maps = unpack(raw_batch(coarse), CPU)["strength"]
    assert maps.shape == (200, 1, 24, 24)
    assert (maps.min() >= 0) & (maps.max() <= 1)
    assert max(maps.diff(dim=dim).abs().max() for dim in (-1, -2)) < 0.35
    centers = maps.unfold(2, 6, 6).unfold(3, 6, 6)[..., 2:4, 2:4].mean((-1, -2))
    assert (centers - coarse).abs().max() < 0.15
    constant = coarse.amin((1, 2, 3)) == coarse.amax((1, 2, 3))
    assert constant.sum() > 50
    assert torch.equal(maps[constant], coarse[constant, :, :1, :1].expand(-1, 1, 24, 24))
    alone = [unpack(raw_batch(strength[None]), CPU)["strength"] for strength in coarse[:9]]
    assert torch.equal(torch.cat(alone), maps[:9])


# --- order and workers ------------------------------------------------------------------------


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(0, 50), st.integers(0, 10), st.integers(1, 3), st.sampled_from([1, 2, 4]))
def test_ranks_share_the_batches_of_one(start: int, steps: int, share: int, world: int) -> None:
    batch, stop = 4 * share, start + steps
    ranks = [PositionSampler(start, stop, batch, rank, world) for rank in range(world)]
    shares = [np.reshape([*rank], (steps, batch // world)) for rank in ranks]
    assert np.hstack(shares).ravel().tolist() == list(range(start * batch, stop * batch))
    assert [len(rank) for rank in ranks] == [share.size for share in shares]


@pytest.fixture
def restore_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("restore_threads")
def test_workers_and_cache_do_not_change_the_batches(paths: Paths, tmp_path: Path) -> None:
    photos, paintings = (build_cache(part, 24, tmp_path, part[0].stem) for part in paths)
    assert photos.files
    cached = PairDataset(photos, paintings, 16, 3, 0.5)
    alone, with_workers, from_cache = (
        list(make_loader(dataset, PositionSampler(2, 5, 4), workers))
        for dataset, workers in ((pairs(paths), 0), (pairs(paths), 2), (cached, 1))
    )
    assert torch.cat([batch["position"] for batch in alone]).tolist() == list(range(8, 20))
    assert all(same(a, b) for a, b in zip(alone, with_workers, strict=True))
    assert all(same(a, b) for a, b in zip(alone, from_cache, strict=True))
    assert alone[0]["content"].shape == (4, 3, 16, 16)
