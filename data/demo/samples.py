"""Built-in sample data: photos from installed packages, and procedural paintings."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image, ImageOps
from tqdm.auto import tqdm

from ..folders import Collection, find_images
from ..images import read_image
from .paintings import TECHNIQUES, paint_canvas, scene

NAME = "samples-v3"  # change when the images change
SIDE = 256  # shorter side of a photo
SHAPES = ((256, 320), (288, 288), (320, 256))  # of paintings, (H,W)
PAINTINGS = {"train": 16, "validation": 4, "test": 5}  # per technique
FIRST_SCENE = {"train": 0, "validation": 10_000, "test": 20_000}

# Split by photo, so that no two tiles of one photo are in different splits.
PHOTOS = {
    "train": (
        "skimage/data/astronaut.png",
        "skimage/data/camera.png",
        "skimage/data/coins.png",
        "skimage/data/motorcycle_left.png",
        "sklearn/datasets/images/flower.jpg",
    ),
    "validation": ("skimage/data/rocket.jpg",),
    "test": (
        "sklearn/datasets/images/china.jpg",
        "skimage/data/chelsea.png",
        "skimage/data/coffee.png",
    ),
}


def sample_collections(cache: Path) -> tuple[Collection, Collection]:
    """Return the sample photos and paintings; the first call writes them, in under a minute.

    Photos come from the scikit-image and scikit-learn packages, whole and in tiles. Paintings show
    procedural scenes and, for training only, training photos. No photo or scene is in two splits.

    Raises:
        ValueError: scikit-image or scikit-learn is not installed.
    """
    folder = cache / NAME
    if not folder.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f"{NAME}-", dir=cache) as scratch:
            draft = Path(scratch) / NAME
            photos = {split: _write_photos(split, draft) for split in PHOTOS}
            _write_paintings(photos["train"], draft)
            try:
                draft.rename(folder)
            except OSError:
                if not folder.is_dir():  # otherwise another process wrote the same images
                    raise
    return _collection(folder / "photos"), _collection(folder / "paintings")


def _collection(folder: Path) -> Collection:
    train, validation, test = (tuple(find_images(folder / split)) for split in PHOTOS)
    return Collection(train, validation, test)


def shipped(name: str) -> Path:
    """Locate a file ``package/path`` of an installed package without importing the package.

    Raises:
        ValueError: the package is not installed.
    """
    package, path = name.split("/", 1)
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ValueError(
            "the sample photos are part of scikit-image and scikit-learn, and one of them is not "
            "installed: pip install 'underdrawing[demo]'"
        )
    return Path(spec.origin).parent / path


def _write_photos(split: str, draft: Path) -> list[Image.Image]:
    """Write and return the images of a split's photos."""
    folder = draft / "photos" / split
    folder.mkdir(parents=True)
    images = []
    for name in PHOTOS[split]:
        for number, image in enumerate(_whole_and_tiles(read_image(shipped(name)))):
            image.save(folder / f"{Path(name).stem}-{number}.png")
            images.append(image)
    return images


def _whole_and_tiles(photo: Image.Image) -> Iterator[Image.Image]:
    """Yield the photo and its non-overlapping tiles, each with a shorter side of `SIDE`."""
    rows, cols = photo.height // SIDE, photo.width // SIDE
    height, width = photo.height // rows, photo.width // cols
    corners = [(x * width, y * height) for y in range(rows) for x in range(cols)]
    tiles = [photo.crop((x, y, x + width, y + height)) for x, y in corners]
    for image in [photo, *tiles] if len(tiles) > 1 else [photo]:
        scale = SIDE / min(image.size)
        size = (round(image.width * scale), round(image.height * scale))
        yield image.resize(size, Image.Resampling.LANCZOS)


def _write_paintings(photos: list[Image.Image], draft: Path) -> None:
    """Write the paintings of all splits."""
    jobs = [(s, t, k) for s, count in PAINTINGS.items() for t in TECHNIQUES for k in range(count)]
    for split, technique, number in tqdm(jobs, "rendering the sample paintings"):
        seed = list(TECHNIQUES).index(technique) * PAINTINGS[split] + number
        height, width = SHAPES[number % len(SHAPES)]
        if split == "train" and number % 3 == 1:
            photo = ImageOps.fit(photos[5 * (seed // 3) % len(photos)], (width, height))
            source = np.asarray(photo, np.float32) / 255
        else:
            source = scene(FIRST_SCENE[split] + seed, height, width)
        painting = (paint_canvas(technique, source, seed) * 255).round().astype(np.uint8)
        path = draft / "paintings" / split / f"{technique}-{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(painting).save(path)
