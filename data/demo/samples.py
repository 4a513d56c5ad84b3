"""Sample data that needs no internet: real photos out of two wheels, paintings of the studio."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image, ImageOps
from tqdm.auto import tqdm

from ..folders import Collection, find_images
from ..images import read_image
from .paintings import HANDS, paint_canvas
from .scenes import scene

NAME = "samples-v1"  # another number when the pictures change
SIDE = 256  # shorter side of a photo
SHAPES = ((256, 320), (288, 288), (320, 256))  # of canvases, (H,W)
CANVASES = {"train": 12, "validation": 3, "test": 4}  # per hand
FIRST_SCENE = {"train": 0, "validation": 10_000, "test": 20_000}

# Split by photo, so that no two tiles of one photo are on both sides.
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
    """Photos and paintings to try everything on; prepared once, in under a minute.

    The photos are real ones from the scikit-image and scikit-learn wheels, whole and in tiles. The
    paintings are the studio's, of procedural scenes and (training only) of training photos. No
    photo and no motif is in two splits.

    Args:
        cache: folder under which the PNG files are written, in `samples-v1`.

    Returns:
        The photos and the paintings.

    Raises:
        ValueError: scikit-image or scikit-learn is not installed.
    """
    folder = cache / NAME
    if not folder.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f"{NAME}-", dir=cache) as scratch:
            draft = Path(scratch) / NAME
            photos = {split: _prepare_photos(split, draft) for split in PHOTOS}
            _prepare_paintings(photos["train"], draft)
            _publish(draft, folder)
    return _listed(folder / "photos"), _listed(folder / "paintings")


def _publish(draft: Path, folder: Path) -> None:
    try:
        draft.rename(folder)
    except OSError:
        if not folder.is_dir():  # otherwise another process was first, with the same pictures
            raise


def _listed(folder: Path) -> Collection:
    return Collection(**{split: tuple(find_images(folder / split)) for split in PHOTOS})


def _prepare_photos(split: str, draft: Path) -> list[Image.Image]:
    """Write the pictures of a split's photos, and return them."""
    folder = draft / "photos" / split
    folder.mkdir(parents=True)
    pictures = []
    for name in PHOTOS[split]:
        for number, picture in enumerate(_whole_and_tiles(read_image(shipped(name)))):
            picture.save(folder / f"{Path(name).stem}-{number}.png")
            pictures.append(picture)
    return pictures


def shipped(name: str) -> Path:
    """Where a file `package/path` was installed, found without importing the package.

    Raises:
        ValueError: the package is not installed.
    """
    package, path = name.split("/", 1)
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ValueError(
            "the sample photos come with scikit-image and scikit-learn, and one of them is not "
            "installed: pip install 'underdrawing[demo]'"
        )
    return Path(spec.origin).parent / path


def _whole_and_tiles(photo: Image.Image) -> Iterator[Image.Image]:
    """The photo, and as many tiles that do not overlap as it has room for; each to `SIDE`."""
    rows, cols = photo.height // SIDE, photo.width // SIDE
    height, width = photo.height // rows, photo.width // cols
    corners = [(x * width, y * height) for y in range(rows) for x in range(cols)]
    tiles = [photo.crop((x, y, x + width, y + height)) for x, y in corners]
    for picture in [photo, *tiles] if len(tiles) > 1 else [photo]:
        scale = SIDE / min(picture.size)
        size = (round(picture.width * scale), round(picture.height * scale))
        yield picture.resize(size, Image.Resampling.LANCZOS)


def _prepare_paintings(photos: list[Image.Image], draft: Path) -> None:
    """Paint and write the canvases of all splits."""
    jobs = [(s, hand, k) for s, count in CANVASES.items() for hand in HANDS for k in range(count)]
    for split, hand, number in tqdm(jobs, "painting the sample canvases"):
        serial = list(HANDS).index(hand) * CANVASES[split] + number
        height, width = SHAPES[number % len(SHAPES)]
        if split == "train" and number % 3 == 1:
            photo = ImageOps.fit(photos[5 * (serial // 3) % len(photos)], (width, height))
            motif = np.asarray(photo, np.float32) / 255
        else:
            motif = scene(FIRST_SCENE[split] + serial, height, width)
        canvas = (paint_canvas(hand, motif, serial) * 255).round().astype(np.uint8)
        path = draft / "paintings" / split / f"{hand}-{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(canvas).save(path)
