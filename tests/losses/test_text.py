"""Directional text loss, on a toy model whose embedding is the mean color."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from underdrawing.losses import text
from underdrawing.losses.text import SOURCE, TextLoss, cut_patches


class ColorModel(nn.Module):
    def encode_image(self, images: Tensor) -> Tensor:
        return images.mean((2, 3))


def embed_texts(texts: Sequence[str]) -> Tensor:
    """Photos are gray; anything else is red."""
    gray, red = torch.tensor([1.0, 1, 1]), torch.tensor([1.0, 0, 0])
    return torch.stack([gray if SOURCE in x else red for x in texts])


def make_loss(patches: int = 0, patch_weight: float = 1.0) -> TextLoss:
    return TextLoss(
        ColorModel(), embed_texts, "red", 16, (0, 0, 0), (1, 1, 1), patches, patch_weight
    )


PHOTO = torch.full((2, 3, 32, 40), 0.5)
POSITION = torch.tensor([3, 8])
RED, BLUE = torch.tensor([0.6, 0.1, 0.1]), torch.tensor([0.1, 0.1, 0.6])


def painted(color: Tensor) -> Tensor:
    return color.view(1, 3, 1, 1).expand_as(PHOTO).clone()


@pytest.mark.parametrize("patches", [0, 3])
def test_loss_is_the_angle_between_the_changes_of_image_and_text(patches: int) -> None:
    loss = make_loss(patches)
    red, blue = (loss(painted(color), PHOTO, POSITION) for color in (RED, BLUE))
    assert red.shape == (2,)
    assert (red < 0.1).all()  # near patches do not count at all
    gray = torch.full((3,), 3**-0.5)
    change = BLUE / BLUE.norm() - gray
    goal = torch.tensor([1.0, 0, 0]) - gray
    expected = 1 - torch.cosine_similarity(change, goal, dim=0)
    count = 2 if patches else 1
    torch.testing.assert_close(blue, (count * expected).expand(2), rtol=1e-3, atol=1e-4)


def test_gradient_turns_the_image_to_the_text() -> None:
    image, loss = painted(torch.tensor([0.45, 0.5, 0.55])).requires_grad_(), make_loss(4)
    before = loss(image, PHOTO, POSITION)
    (gradient,) = torch.autograd.grad(before.sum(), image)
    moved = (image - 2 * gradient).clamp(0, 1)
    assert (loss(moved, PHOTO, POSITION) < before).all()
    assert (gradient.mean((2, 3))[:, 0] < 0).all()  # more red


def test_patches_near_the_text_are_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    image = painted(RED)
    whole = make_loss(0)(image, PHOTO, POSITION)
    assert torch.equal(make_loss(4)(image, PHOTO, POSITION), whole)
    monkeypatch.setattr(text, "THRESHOLD", 0.0)
    assert (make_loss(4)(image, PHOTO, POSITION) > whole).all()


def test_patches_depend_on_the_position_alone_and_lie_in_the_image() -> None:
    y, x = torch.meshgrid(torch.linspace(0, 1, 64), torch.linspace(0, 1, 64), indexing="ij")
    images = torch.stack([x, y, torch.ones_like(x)])[None].expand(2, -1, -1, -1)
    both = cut_patches(images, POSITION, 5)
    assert both.shape == (10, 3, 16, 16)
    alone = torch.cat([cut_patches(images[:1], POSITION[[i]], 5) for i in (0, 1)])
    torch.testing.assert_close(both, alone)
    assert both[:, 2].min() > 0.49  # black outside
    spans = [both[:, c].amax((1, 2)) - both[:, c].amin((1, 2)) for c in (0, 1)]
    assert all((span > 0.1).all() and (span < 0.26).all() for span in spans)
    slants = both[:, 0, -1] - both[:, 0, 0], both[:, 1, :, -1] - both[:, 1, :, 0]
    assert all(slant.abs().amax(1).mean() > 0.02 for slant in slants)  # 0 for a rectangle
    assert both[:, 0].mean((1, 2)).std() > 0.1  # all over the image
