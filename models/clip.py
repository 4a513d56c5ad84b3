"""CLIP-like models of ``open_clip`` (extra ``text``), frozen."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .pretrained import MissingWeightsError


class Clip(NamedTuple):
    """A frozen model, and the directions of texts in its space."""

    model: nn.Module
    embed_texts: Callable[[Sequence[str]], Tensor]  # (N,D)
    size: int  # of its images in pixels
    mean: Sequence[float]
    std: Sequence[float]


def load_clip(name: str, weights: str) -> Clip:
    """Load a model of ``open_clip`` by name, e.g. ``ViT-B-32``.

    ``weights`` is a file, or one of the model's tags there, which is looked up in the cache of the
    Hugging Face hub and downloaded where there is a network.

    Raises:
        MissingWeightsError: no package ``open_clip``, or no weights.
        ValueError: no such model.
    """
    try:
        import open_clip
    except ImportError:
        raise MissingWeightsError(
            "no weights for text: run `pip install 'underdrawing[text]'`"
        ) from None
    if name not in open_clip.list_models():
        raise ValueError(f"open_clip has no model {name!r}; set clip.model to one that it lists")
    try:
        model = open_clip.create_model(name, weights, require_pretrained=True)
    except Exception as error:  # the hub and the readers of files fail in many ways
        raise MissingWeightsError(
            f"no weights for {name}: {weights} is no file with them, nor a tag of open_clip that "
            "is cached or can be downloaded; name a file with --clip.weights"
        ) from error
    model.requires_grad_(False).eval()
    tokenizer, images = open_clip.get_tokenizer(name), open_clip.get_model_preprocess_cfg(model)
    size = images["size"]

    @torch.no_grad()
    def embed_texts(texts: Sequence[str]) -> Tensor:
        return model.encode_text(tokenizer(list(texts)))

    side = size if isinstance(size, int) else size[0]
    return Clip(model, embed_texts, side, images["mean"], images["std"])
