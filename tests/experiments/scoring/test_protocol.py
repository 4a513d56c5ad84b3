from collections import Counter
from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from underdrawing.data.folders import split
from underdrawing.data.images import read_image, square
from underdrawing.experiments import evaluation
from underdrawing.experiments.scoring.protocol import (
    CONTROLS,
    Batch,
    Method,
    PairPaths,
    each,
    generator_painter,
    make_manifest,
    read_squares,
    score_painter,
    together,
)
from underdrawing.metrics.perceptual import LPIPS_LAYERS, lpips_vector
from underdrawing.metrics.scores import FeatureExtractor, MetricNetworks, Scores
from underdrawing.metrics.style_gap import ACTIVATION_STD, style_vector
from underdrawing.models.encoder import Encoder
from underdrawing.models.generator import Generator
from underdrawing.models.style_code import mean_std, style_code

CPU, SIZE = torch.device("cpu"), 24
HEADS = [torch.ones(3)] * len(LPIPS_LAYERS)
Network = Callable[[Tensor, Collection[str]], dict[str, Tensor]]


def toy_network(images: Tensor, layers: Collection[str]) -> dict[str, Tensor]:
    return {layer: ACTIVATION_STD.get(layer, 1.0) * images for layer in layers}


def toy_judges(network: Network = toy_network) -> MetricNetworks:
    """Judges of one network."""
    words = ("toy", "")
    return MetricNetworks(
        style=FeatureExtractor(network, ACTIVATION_STD, style_vector, words),
        perceptual=FeatureExtractor(network, LPIPS_LAYERS, lambda x: lpips_vector(x, HEADS), words),
        pooled=FeatureExtractor(
            network, ["relu4_3"], lambda x: x["relu4_3"].mean(dim=(2, 3)), words
        ),
        lpips_name="LPIPS",
        frechet_name="Fréchet (toy)",
        kernel_name="KID (toy)",
    )


def names(kind: str, count: int) -> list[Path]:
    return [Path(f"{kind}/{i}.png") for i in range(count)]


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 200))
def test_no_pair_comes_twice_and_both_sides_take_turns(n: int, m: int, pairs: int) -> None:
    photos, paintings = names("photos", n), names("paintings", m)
    manifest = make_manifest(photos, paintings, pairs)
    assert len(manifest) == len(set(manifest)) == min(pairs, n * m)
    assert manifest == make_manifest(photos, paintings, n * m)[:pairs]
    for files, used in zip((photos, paintings), zip(*manifest, strict=True), strict=True):
        turns = Counter(used)
        assert turns.keys() <= set(files)
        assert max(turns.values()) - min(turns[file] for file in files) <= 1


def test_asked_for_more_it_gives_all_combinations() -> None:
    photos, paintings = names("photos", 4), names("paintings", 6)
    manifest = make_manifest(photos, paintings, 10_000)
    assert set(manifest) == {(photo, painting) for photo in photos for painting in paintings}


@pytest.mark.parametrize("part", ["validation", "test"])
def test_the_first_pairs_are_of_all_folders(part: str) -> None:
    """As many of each kind as it has: though splits are listed folder by folder, and go by the
    names, too, so that those set aside of a large folder are its very first.
    """
    sizes = {"a": 2000, "b": 1000} | {f"small-{i:02}": 12 for i in range(20)}
    files = [Path(f"{name}/{name}-{i:04}.jpg") for name, n in sizes.items() for i in range(n)]
    listed = getattr(split(files), part)
    kinds = [path.parent.name.split("-")[0] for path in listed]
    assert kinds == ["a"] * 200 + ["b"] * 100 + ["small"] * 60
    chosen = make_manifest(listed, names("paintings", 7), 120)
    drawn = Counter(photo.parent.name.split("-")[0] for photo, _ in chosen)
    assert 55 < drawn["a"] < 78  # of 120, a third of them all, 67 are expected
    assert 24 < drawn["b"] < 43  # 33
    assert 12 < drawn["small"] < 28  # 20


def test_a_manifest_depends_on_names_alone() -> None:
    photos, paintings = names("photos", 40), names("paintings", 30)
    straight = make_manifest(photos, paintings, 50)
    assert make_manifest(photos[::-1], paintings[::-1], 50) == straight
    moved = make_manifest(names("else/where", 40), paintings, 50)
    assert [photo.name for photo, _ in moved] == [photo.name for photo, _ in straight]
    same_names = [Path(f"{folder}/0.png") for folder in "cab"]
    assert [photo for photo, _ in make_manifest(same_names, paintings, 3)] == sorted(same_names)


@pytest.mark.parametrize(("n", "m"), [(0, 3), (3, 0), (0, 0)])
def test_nothing_to_score_on_is_said_in_words(n: int, m: int) -> None:
    with pytest.raises(ValueError, match=rf"\({n} photos, {m} paintings\).* at least 3 pictures"):
        make_manifest(names("photos", n), names("paintings", m), 5)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], list[Path]]:
    """Dark photos and lighter, reddish paintings, none of them square."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)

    def picture(name: str, low: tuple[int, int, int], span: int) -> Path:
        forms = rng.integers(0, span, (5, 6, 3), dtype=np.uint8) + np.array(low, np.uint8)
        path = folder / f"{name}.png"
        Image.fromarray(forms).resize((48, 40), Image.Resampling.BILINEAR).save(path)
        return path

    photos = [picture(f"photo-{i}", (60, 60, 60), 60) for i in range(6)]
    return photos, [picture(f"painting-{i}", (140, 110, 80), 40) for i in range(4)]


@pytest.fixture(scope="module")
def manifest(pictures: tuple[list[Path], list[Path]]) -> list[PairPaths]:
    return make_manifest(*pictures, 22)


def remove_stale_parts(
    methods: dict[str, Method], manifest: list[PairPaths], network: Network = toy_network,
    batch_size: int = 8,
) -> dict[str, Scores]:  # fmt: skip
    paintings = sorted({painting for _, painting in manifest})
    networks = toy_judges(network)
    return score_painter(each(methods), manifest, paintings, networks, SIZE, CPU, batch_size)


def evaluate(
    method: Method, manifest: list[PairPaths], network: Network = toy_network, batch_size: int = 8
) -> Scores:
    return remove_stale_parts({"toy": method}, manifest, network, batch_size)["toy"]


def test_squares_are_read_in_order(pictures: tuple[list[Path], list[Path]]) -> None:
    images = read_squares(pictures[0], SIZE, CPU)
    assert images.shape == (6, 3, SIZE, SIZE)
    expected = [square(read_image(path), SIZE) for path in pictures[0]]
    assert torch.equal(images, torch.stack(expected))


def test_identity_keeps_everything_and_closes_nothing(manifest: list[PairPaths]) -> None:
    scores = evaluate(CONTROLS["identity"], manifest)
    assert scores.ssim == pytest.approx(1, abs=1e-6)
    assert scores.ssim_worst == pytest.approx(1, abs=1e-6)
    assert scores.lpips == pytest.approx(0, abs=1e-6)
    assert scores.style_gap == pytest.approx(0, abs=1e-6)
    assert (scores.pairs, scores.left_out) == (22, 0)


def test_the_painting_as_output_closes_the_gap(manifest: list[PairPaths]) -> None:
    scores = evaluate(CONTROLS["style image as output"], manifest)
    assert scores.style_gap == pytest.approx(1, abs=1e-6)
    assert scores.ssim < 0.9


def test_color_only_closes_the_gap_of_a_judge_that_sees_only_color(
    manifest: list[PairPaths],
) -> None:
    scores = evaluate(CONTROLS["color only"], manifest)
    assert scores.style_gap == pytest.approx(1, abs=0.05)  # bytes and clamping
    painted = evaluate(CONTROLS["style image as output"], manifest)
    assert scores.ssim > painted.ssim + 0.1


def test_color_only_has_the_paintings_mean_and_deviation(
    pictures: tuple[list[Path], list[Path]],
) -> None:
    content, style = (read_squares(paths[:4], SIZE, CPU) for paths in pictures)
    output = CONTROLS["color only"](content, style)
    assert output.min() > 0
    assert output.max() < 1
    for ours, theirs in zip(mean_std(output), mean_std(style), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-3)


def test_color_only_is_clamped_and_leaves_a_flat_photo_flat() -> None:
    generator = torch.Generator().manual_seed(0)
    content = torch.rand(1, 3, 16, 16, generator=generator)
    style = torch.rand(1, 3, 16, 16, generator=generator).round()  # more contrast than has room
    output = CONTROLS["color only"](content, style)
    assert (output.min(), output.max()) == (0, 1)
    flat = CONTROLS["color only"](torch.full_like(content, 0.3), style)
    torch.testing.assert_close(flat, style.mean(dim=(2, 3), keepdim=True).expand_as(flat))


def test_outputs_are_scored_as_the_bytes_of_a_saved_picture(manifest: list[PairPaths]) -> None:
    seen: list[Tensor] = []

    def network(images: Tensor, layers: Collection[str]) -> dict[str, Tensor]:
        seen.append(images)
        return toy_network(images, layers)

    scores = evaluate(lambda content, style: content + 0.4 / 255, manifest, network)
    assert scores.lpips == pytest.approx(0, abs=1e-6)
    assert scores.ssim == pytest.approx(1, abs=1e-6)
    levels = torch.cat(seen) * 255
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-4)


def test_a_sweep_scores_each_method_as_if_alone(manifest: list[PairPaths]) -> None:
    scores = remove_stale_parts(CONTROLS, manifest)
    assert list(scores) == list(CONTROLS)
    for name, method in CONTROLS.items():
        assert scores[name] == evaluate(method, manifest)


def test_every_picture_goes_through_the_network_once(manifest: list[PairPaths]) -> None:
    pictures = Counter[frozenset[str]]()  # by the layers asked for

    def network(images: Tensor, layers: Collection[str]) -> dict[str, Tensor]:
        pictures[frozenset(layers)] += len(images)
        return toy_network(images, layers)

    remove_stale_parts(CONTROLS, manifest, network)
    assert pictures == {
        frozenset([*ACTIVATION_STD, *LPIPS_LAYERS]): (1 + len(CONTROLS)) * 22,  # photos, outputs
        frozenset(ACTIVATION_STD): 22,  # paintings
        frozenset(["relu4_3"]): 4,  # reference paintings
    }


def test_more_methods_read_no_more_files(
    manifest: list[PairPaths], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []

    def spy(path: Path) -> Image.Image:
        read.append(path)
        return read_image(path)

    monkeypatch.setattr(evaluation, "read_image", spy)
    remove_stale_parts(CONTROLS, manifest)
    assert len(read) == 2 * 22 + 4


def test_scores_come_in_manifest_order_whatever_the_batch(manifest: list[PairPaths]) -> None:
    def half(content: Tensor, style: Tensor) -> Tensor:
        return 0.5 * content + 0.5 * style

    whole, cut = (evaluate(half, manifest, batch_size=size) for size in (22, 5))
    backwards = evaluate(half, manifest[::-1])
    for figure, column in whole.per_pair.items():
        assert cut.per_pair[figure] == pytest.approx(column, rel=1e-4)
        assert backwards.per_pair[figure] == pytest.approx(column[::-1], rel=1e-4)
        assert len(set(column)) > 15


def test_scores_say_which_pictures_each_pair_is_of(manifest: list[PairPaths]) -> None:
    scores = evaluate(CONTROLS["identity"], manifest, batch_size=5)
    for numbers, column in zip(
        (scores.photo, scores.painting), zip(*manifest, strict=True), strict=True
    ):
        files = list(dict.fromkeys(column))
        assert [files[number] for number in numbers] == list(column)
        assert max(numbers) == len(files) - 1


def test_many_pairs_of_few_photos_have_no_kid(manifest: list[PairPaths]) -> None:
    assert len(manifest) > 20
    assert evaluate(CONTROLS["color only"], manifest).kernel is None


def test_the_method_sees_each_pair_once_in_batches(manifest: list[PairPaths]) -> None:
    sizes: list[int] = []

    def spy(content: Tensor, style: Tensor) -> Tensor:
        assert content.shape == style.shape == (len(content), 3, SIZE, SIZE)
        assert not torch.is_grad_enabled()
        sizes.append(len(content))
        return content

    evaluate(spy, manifest, batch_size=8)
    assert sizes == [8, 8, 6]


def test_a_painter_is_told_which_pairs_it_paints(manifest: list[PairPaths]) -> None:
    cond_strength: list[PairPaths] = []

    def spy(batch: Batch) -> dict[str, Tensor]:
        cond_strength.extend(batch.pairs)
        photos, paintings = zip(*batch.pairs, strict=True)
        assert torch.equal(batch.content, read_squares(photos, SIZE, CPU))
        assert torch.equal(batch.style, read_squares(paintings, SIZE, CPU))
        return {"toy": batch.content}

    paintings = sorted({painting for _, painting in manifest})
    score_painter(spy, manifest, paintings, toy_judges(), SIZE, CPU, batch_size=5)
    assert cond_strength == manifest


def test_painters_work_together_in_order() -> None:
    content, style = torch.rand(2, 1, 3, 4, 4)
    one, two = each({"a": lambda c, s: c}), each({"b": lambda c, s: s, "c": lambda c, s: c + s})
    outputs = together(one, two)(Batch([], content, style))
    assert list(outputs) == ["a", "b", "c"]
    assert torch.equal(outputs["b"], style)
    assert torch.equal(outputs["c"], content + style)


def test_a_generator_paints_at_each_strength_and_looks_at_the_paintings_once() -> None:
    torch.manual_seed(0)
    encoder = Encoder("vgg16", ["relu1_1", "relu2_1"])
    content, style = torch.rand(2, 2, 3, 32, 40)
    code = style_code(style, encoder(style))
    generator = Generator(code.shape[1], width=8, blocks=1).eval()
    torch.nn.init.normal_(generator.paint.conv.weight)
    styles: list[Tensor] = []
    encoder.register_forward_hook(lambda module, given, result: styles.append(given[0]))
    strengths = {"photo": 0.0, "half": 0.5, "full": 1.0}
    stylizer = generator_painter(generator, encoder, encoder.taps, strengths)
    outputs = stylizer(Batch([], content, style))
    assert list(outputs) == list(strengths)
    for name, strength in strengths.items():
        assert torch.equal(outputs[name], generator(content, code, strength).image)
    assert torch.equal(outputs["photo"], content)
    assert not torch.equal(outputs["full"], content)
    assert len(styles) == 1
