from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from underdrawing.data.dataset import PairDataset, PositionSampler, RawBatch, make_loader
from underdrawing.data.device_images import DeviceImages

CPU = torch.device("cpu")


def images(*shapes: tuple[int, int]) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in shapes]


def batches(photos: Any, paintings: Any, size: int, scale: float) -> list[RawBatch]:
    dataset = PairDataset(photos, paintings, size, 0, 0.5, scale, paintings_as_photos=0.3)
    return list(islice(make_loader(dataset, PositionSampler(0, 4, 6), workers=0), 4))


@pytest.mark.parametrize(("size", "scale"), [(32, 0.1), (32, 0.9), (96, 0.4)])
def test_crops_equal_those_of_the_loader_bit_for_bit(size: int, scale: float) -> None:
    """Reduced and enlarged, images of several sizes, one exactly as large as the crops."""
    photos, paintings = images((90, 61), (32, 32), (64, 120)), images((50, 70), (200, 133))
    stored = DeviceImages([photos, paintings], size, CPU)
    drawn = batches(stored.collections[0], stored.collections[1], size, scale)
    for found, expected in zip(drawn, batches(photos, paintings, size, scale), strict=True):
        found = stored.crop(found)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert torch.equal(found[name], value), name  # type: ignore


class Damaged:
    """Images of which the second is unreadable."""

    def __init__(self, images: list[np.ndarray]) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> np.ndarray:
        if index == 1:
            raise ValueError("damaged")
        return self.images[index]


def test_an_unreadable_image_is_replaced_by_the_next() -> None:
    photos = images((40, 40), (50, 50), (60, 60))
    stored = DeviceImages([Damaged(photos), photos], 32, CPU)
    assert [image.height for image in stored.collections[0]] == [40, 60, 60]
