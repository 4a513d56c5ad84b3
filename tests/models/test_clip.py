"""A tiny randomly initialized model of open_clip; no weights of a real one are needed."""

import json
import sys
from pathlib import Path

import pytest
import torch
from underdrawing.losses.text import TextLoss
from underdrawing.models.clip import load_clip
from underdrawing.models.pretrained import MissingWeightsError


@pytest.fixture
def tiny_clip(tmp_path: Path) -> Path:
    """Weights of ``tiny-clip``, which is registered in open_clip."""
    open_clip = pytest.importorskip("open_clip", reason="the extra `text` is not installed")
    vision = {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16}
    words = {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    config = {"embed_dim": 8, "vision_cfg": vision, "text_cfg": words}
    (tmp_path / "tiny-clip.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / "tiny-clip.json")
    torch.manual_seed(0)
    torch.save(open_clip.create_model("tiny-clip").state_dict(), tmp_path / "tiny.pt")
    return tmp_path / "tiny.pt"


def test_model_of_open_clip_gives_a_differentiable_loss(tiny_clip: Path) -> None:
    clip = load_clip("tiny-clip", str(tiny_clip))
    assert not any(p.requires_grad for p in clip.model.parameters())
    loss = TextLoss(clip.model, clip.embed_texts, "ink", clip.size, clip.mean, clip.std, 2, 1.0)
    assert (loss.size, loss.direction.shape) == (32, (8,))
    image = torch.rand(2, 3, 48, 40, requires_grad=True)
    value = loss(image, torch.rand(2, 3, 48, 40), torch.tensor([0, 5]))
    assert value.shape == (2,)
    (gradient,) = torch.autograd.grad(value.sum(), image)
    assert (gradient.abs().amax((1, 2, 3)) > 0).all()


def test_missing_weights_and_unknown_models_are_explained(tiny_clip: Path) -> None:
    for weights in ("absent.pt", "no-such-tag"):
        with pytest.raises(MissingWeightsError, match=r"--clip\.weights"):
            load_clip("tiny-clip", weights)
    with pytest.raises(ValueError, match="no model 'huge-clip'"):
        load_clip("huge-clip", str(tiny_clip))


def test_absent_package_counts_as_absent_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(MissingWeightsError, match=r"underdrawing\[text\]"):
        load_clip("ViT-B-32", "laion2b_s34b_b79k")
