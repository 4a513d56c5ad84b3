import hashlib
import shutil
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from underdrawing.data.folders import Collection as Images
from underdrawing.data.folders import split
from underdrawing.data.images import read_image
from underdrawing.experiments.scoring import protocol
from underdrawing.experiments.scoring.protocol import (
    CONTROLS,
    Method,
    PairBatch,
    PairPaths,
    each,
    find_boundaries,
    make_manifest,
    read_squares,
    score_methods,
)
from underdrawing.metrics.perceptual import LPIPS_LAYERS
from underdrawing.metrics.scores import FeatureExtractor, MetricNetworks, Network, Scores
from underdrawing.metrics.style_gap import ACTIVATION_STD
from underdrawing.models.style_code import style_code
from underdrawing.trainers.config import TrainConfig
from underdrawing.trainers.model_files import Model, build_encoder, build_generator

CPU, SIZE = torch.device("cpu"), 24


def names(kind: str, count: int) -> list[Path]:
    return [Path(f"{kind}/{i}.png") for i in range(count)]


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 200))
def test_manifest_has_distinct_pairs_and_uses_images_equally_often(n: int, m: int, k: int) -> None:
    photos, paintings = names("photos", n), names("paintings", m)
    manifest = make_manifest(photos, paintings, k)
    assert len(manifest) == len(set(manifest)) == min(k, n * m)
    assert manifest == make_manifest(photos, paintings, n * m)[:k]
    for files, used in zip((photos, paintings), zip(*manifest, strict=True), strict=True):
        counts = Counter(used)
        assert counts.keys() <= set(files)
        assert max(counts.values()) - min(counts[file] for file in files) <= 1


@pytest.mark.parametrize("part", ["validation", "test"])
def test_manifest_draws_from_all_folders_in_proportion(part: str) -> None:
    sizes = {"a": 2000, "b": 1000} | {f"small-{i:02}": 12 for i in range(20)}
    files = [Path(f"{name}/{name}-{i:04}.jpg") for name, n in sizes.items() for i in range(n)]
    digests = {path: hashlib.sha256(b"of " + path.name.encode()).hexdigest() for path in files}
    photos = getattr(split(digests), part)
    held_out = Counter(path.parent.name.split("-")[0] for path in photos)
    pairs = make_manifest(photos, names("paintings", 7), 120)
    drawn = Counter(photo.parent.name.split("-")[0] for photo, _ in pairs)
    for kind, count in held_out.items():
        expected = 120 * count / held_out.total()
        assert abs(drawn[kind] - expected) < 2 * expected**0.5


def test_manifest_depends_on_the_content_of_files_and_has_no_pair_twice(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    contents = [rng.bytes(9) for _ in range(12)]

    def manifest(order: list[int], folder: Path) -> list[tuple[bytes, bytes]]:
        """Pairs, by content, of files that are named in this order; copies included."""
        folder.mkdir()
        for name, i in enumerate(order):
            (folder / f"{name:02}").write_bytes(contents[i])
        distinct = Images((), (), tuple(folder.iterdir())).distinct("test")
        assert len(distinct) == len(contents)
        return [(a.read_bytes(), b.read_bytes()) for a, b in make_manifest(distinct, distinct, 99)]

    first = manifest([*range(12)], tmp_path / "a")
    assert len(set(first)) == 99
    assert manifest([*range(11, -1, -1), 3, 5], tmp_path / "b") == first


def test_references_are_distinct_paintings_that_are_no_style(tmp_path: Path) -> None:
    files = [tmp_path / f"{i}" for i in range(8)]
    for i, path in enumerate(files):
        path.write_bytes(bytes([i % 6]))  # the last two are copies of the first two
    paintings = Images(tuple(files[:4]), (), tuple(files[4:]))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(bytes([3]))
    manifest = [(Path("photo"), files[6]), (Path("photo"), elsewhere)]
    found = {path.read_bytes()[0] for path in protocol.reference_paintings(paintings, manifest)}
    assert found == {1, 2, 4, 5}
    assert len(protocol.reference_paintings(paintings, manifest)) == 4


def test_manifest_without_pairs_raises() -> None:
    for n, m, pairs, message in (
        (0, 3, 5, r"\(0 photos, 3 paintings\).* at least 3 images"),
        (3, 0, 5, r"\(3 photos, 0 paintings\).* at least 3 images"),
        (3, 3, 0, "pairs is 0; it must be at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            make_manifest(names("photos", n), names("paintings", m), pairs)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], list[Path]]:
    """Dark photos and lighter, reddish paintings, 48x40 pixels."""
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)

    def save(name: str, low: tuple[int, int, int], span: int) -> Path:
        coarse = rng.integers(0, span, (5, 6, 3), dtype=np.uint8) + np.array(low, np.uint8)
        path = folder / f"{name}.png"
        Image.fromarray(coarse).resize((48, 40), Image.Resampling.BILINEAR).save(path)
        return path

    photos = [save(f"photo-{i}", (60, 60, 60), 60) for i in range(6)]
    return photos, [save(f"painting-{i}", (140, 110, 80), 40) for i in range(4)]


@pytest.fixture(scope="module")
def manifest(images: tuple[list[Path], list[Path]]) -> list[PairPaths]:
    return make_manifest(*images, 22)


@pytest.fixture
def networks(pixel_networks: Callable[..., MetricNetworks]) -> MetricNetworks:
    return pixel_networks()


def score_all(
    methods: dict[str, Method], manifest: list[PairPaths], networks: MetricNetworks, batch: int = 8
) -> dict[str, Scores]:
    paintings = sorted({painting for _, painting in manifest})
    references = protocol.reference_features(paintings, networks, SIZE, CPU)
    return score_methods(each(methods), manifest, references, networks, SIZE, CPU, batch)


def test_control_scores(manifest: list[PairPaths], networks: MetricNetworks) -> None:
    scores = score_all(CONTROLS, manifest, networks)
    assert list(scores) == ["identity", "color only", "style image as output"]
    identity, color, painting = scores.values()
    assert identity.ssim == pytest.approx(1, abs=1e-6)
    assert identity.ssim_worst == pytest.approx(1, abs=1e-6)
    assert identity.lpips == pytest.approx(0, abs=1e-6)
    assert identity.style_gap == pytest.approx(0, abs=1e-6)
    assert painting.style_gap == pytest.approx(1, abs=1e-6)
    # The toy features are pixels, so color statistics are all of the style.
    assert color.style_gap == pytest.approx(1, abs=0.05)  # rounding and clamping
    assert color.ssim > painting.ssim + 0.1


def test_methods_scored_together_have_the_scores_of_each_alone(
    manifest: list[PairPaths], networks: MetricNetworks
) -> None:
    scores = score_all(CONTROLS, manifest, networks)
    for name, method in CONTROLS.items():
        assert score_all({name: method}, manifest, networks) == {name: scores[name]}


def test_each_image_is_read_and_encoded_once_for_all_methods_and_outputs_as_8_bits(
    manifest: list[PairPaths], pixel_networks: Callable[..., MetricNetworks],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    encoded: list[tuple[frozenset[str], Tensor]] = []
    read: list[Path] = []

    def recorded(network: Network) -> Network:
        def record(images: Tensor, layers: Collection[str]) -> dict[str, Tensor]:
            assert not torch.is_grad_enabled()
            encoded.append((frozenset(layers), images))
            return network(images, layers)

        return record

    def red(images: Tensor, layers: Collection[str]) -> dict[str, Tensor]:
        return {"map": images[:, :1]}

    def read_and_count(path: Path) -> Image.Image:
        read.append(path)
        return read_image(path)

    monkeypatch.setattr(protocol, "read_image", read_and_count)
    extract = FeatureExtractor(recorded(red), ["map"], lambda x: x["map"], "toy", "")
    networks = replace(pixel_networks(recorded), saliency=extract)
    toy: dict[str, Method] = {"toy": lambda content, style: content + 0.4 / 255}
    scores = score_all(CONTROLS | toy, manifest, networks)
    assert scores["toy"].lpips == pytest.approx(0, abs=1e-6)
    levels = torch.cat([images for _, images in encoded]) * 255
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-4)
    assert scores["identity"].ssim_salient == pytest.approx(1, abs=1e-6)
    assert scores["identity"].ssim_center == pytest.approx(1, abs=1e-6)
    counts = Counter[frozenset[str]]()
    for layers, images in encoded:
        counts[layers] += len(images)
    assert len(read) == 2 * 22 + 4
    assert counts == {
        frozenset([*ACTIVATION_STD, *LPIPS_LAYERS]): (1 + 4) * 22,  # photos, outputs of 4 methods
        frozenset(ACTIVATION_STD): 22,  # paintings
        frozenset(["relu4_3"]): 4,  # reference paintings
        frozenset(["map"]): 22,  # saliency of the photos, not of outputs
    }


def test_per_pair_scores_follow_the_manifest_for_any_batch_size(
    manifest: list[PairPaths], networks: MetricNetworks
) -> None:
    half: dict[str, Method] = {"half": lambda content, style: 0.5 * content + 0.5 * style}
    whole, split_up = (score_all(half, manifest, networks, size)["half"] for size in (22, 5))
    reversed_ = score_all(half, manifest[::-1], networks)["half"]
    for metric, column in whole.per_pair.items():
        assert split_up.per_pair[metric] == pytest.approx(column, rel=1e-4)
        assert reversed_.per_pair[metric] == pytest.approx(column[::-1], rel=1e-4)
        assert len(set(column)) > 15
    for ids, paths in zip((whole.photo, whole.painting), zip(*manifest, strict=True), strict=True):
        files = list(dict.fromkeys(paths))
        assert [files[i] for i in ids] == list(paths)


def test_boundaries_are_cropped_like_their_photos(tmp_path: Path) -> None:
    photo, folder = tmp_path / "a.png", tmp_path / "drawn"
    folder.mkdir()
    coarse = np.random.default_rng(0).integers(0, 256, (4, 6), dtype=np.uint8)
    for path, size in ((photo, (61, 41)), (folder / "a.png", (90, 60)), (folder / "b.png", (9, 6))):
        Image.fromarray(coarse).resize(size, Image.Resampling.BILINEAR).save(path)
    found = find_boundaries(folder, [(photo, photo), (tmp_path / "c.png", photo)])
    assert found == {photo: folder / "a.png"}
    drawn = protocol.read_boundaries([tmp_path / "c.png", photo], found, SIZE, CPU)
    assert drawn is not None
    assert drawn[0].isnan().all()
    torch.testing.assert_close(drawn[1], read_squares([photo], SIZE, CPU)[0, :1], atol=0.03, rtol=0)
    assert find_boundaries(None, [(photo, photo)]) == {}


def test_boundaries_that_fit_no_photo_are_refused(tmp_path: Path) -> None:
    for name, size in (
        ("a.jpg", (60, 40)), ("a.png", (40, 60)), ("one/b.png", (60, 40)), ("b.png", (60, 40)),
    ):  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", size).save(tmp_path / name)
    for names, message in (
        (["c.jpg"], r"no boundaries for any of the 1 held-out photos; .* e.g. c.png for c.jpg$"),
        (["a.jpg"], r"a.png has 40x60 pixels but its photo .* has 60x40;"),
        (["one/b.png", "other/b.png"], "share the boundaries"),
        (["b.png"], "photos themselves"),
    ):
        pairs = [(tmp_path / name, tmp_path / "p.jpg") for name in names]
        with pytest.raises(ValueError, match=message):
            find_boundaries(tmp_path, pairs)


def test_boundaries_kept_follow_the_manifest(
    manifest: list[PairPaths], images: tuple[list[Path], list[Path]],
    networks: MetricNetworks, tmp_path: Path,
) -> None:  # fmt: skip
    for photo in images[0][::2]:
        shutil.copy(photo, tmp_path / f"{photo.stem}.png")
    boundaries = find_boundaries(tmp_path, manifest)
    assert list(boundaries) == images[0][::2]
    scores = score_methods(each(CONTROLS), manifest, [], networks, SIZE, CPU, 5, boundaries)
    assert scores["identity"].boundaries == pytest.approx(1, abs=1e-4)
    for (photo, _), kept in zip(
        manifest, scores["style image as output"].per_pair["boundaries"], strict=True
    ):
        assert np.isnan(kept) == (photo not in boundaries)
        assert not kept > 0.6


@torch.no_grad()
def test_trained_method_stylizes_at_each_strength(tiny: Callable[..., TrainConfig]) -> None:
    config = tiny()
    torch.manual_seed(0)
    generator = build_generator(config).eval()
    for parameter in generator.to_residual.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    content, style = torch.rand(2, 2, 3, 32, 40)
    layers = list(config.style.layers)
    code = style_code(style, build_encoder(config, layers)[0](style))
    strengths = {"photo": 0.0, "half": 0.5, "full": 1.0}
    stylize = protocol.trained_method(Model(generator, config), CPU, strengths)
    outputs = stylize(PairBatch([], content, style))
    assert list(outputs) == list(strengths)
    for name, strength in strengths.items():
        assert torch.equal(outputs[name], generator(content, code, strength).image)
    assert torch.equal(outputs["photo"], content)
    assert not torch.equal(outputs["full"], content)
