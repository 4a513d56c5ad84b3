from importlib.util import find_spec
from pathlib import Path

import pytest
from underdrawing.data.demo import samples
from underdrawing.data.demo.paintings import TECHNIQUES
from underdrawing.data.demo.samples import sample_collections
from underdrawing.data.folders import Collection

COUNTS = {"train": 4, "validation": 1, "test": 1}
Samples = tuple[Path, Collection, Collection]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Samples:
    """The cache directory, and samples with few and small paintings."""
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(samples, "PAINTINGS", COUNTS)
        patch.setattr(samples, "SHAPES", ((48, 64), (56, 56)))
        photos, paintings = sample_collections(cache)
    return cache, photos, paintings


def test_no_photo_is_in_two_splits(small: Samples) -> None:
    _, photos, _ = small
    sources = [{p.stem.rsplit("-", 1)[0] for p in paths} for paths in photos.splits.values()]
    assert all(sources)
    assert len(set.union(*sources)) == sum(map(len, sources))


def test_every_technique_is_in_every_split(small: Samples) -> None:
    cache, _, paintings = small
    for split, count in COUNTS.items():
        expected = {f"{technique}-{k:02}.png" for technique in TECHNIQUES for k in range(count)}
        paths = getattr(paintings, split)
        assert {path.name for path in paths} == expected
        assert all(path.parent == cache / samples.NAME / "paintings" / split for path in paths)


def test_no_scene_is_in_two_splits() -> None:
    scenes = [
        samples.FIRST_SCENE[split] + serial
        for split, count in samples.PAINTINGS.items()
        for serial in range(count * len(TECHNIQUES))
    ]
    assert len(set(scenes)) == len(scenes)


def test_samples_are_written_once(small: Samples, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, photos, paintings = small
    monkeypatch.delattr(samples, "paint_canvas")
    monkeypatch.delattr(samples, "read_image")
    assert sample_collections(cache) == (photos, paintings)
    assert list(cache.iterdir()) == [cache / samples.NAME]


def test_a_failure_leaves_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(samples, "PHOTOS", {"train": samples.PHOTOS["validation"]})
    monkeypatch.setattr(samples, "paint_canvas", fail)
    with pytest.raises(RuntimeError):
        sample_collections(tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_missing_package_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = find_spec
    monkeypatch.setattr(samples, "find_spec", lambda x: None if x == "sklearn" else found(x))
    with pytest.raises(ValueError, match=r"pip install 'underdrawing\[demo\]'"):
        sample_collections(tmp_path)
    assert list(tmp_path.iterdir()) == []
