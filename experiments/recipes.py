"""Recipes: named functions that return the full configuration of a training run.

    underdrawing train --recipe NAME --photos PHOTOS --paintings PAINTINGS

The first five are the rows of the table of 问答酱 (2025), in its order. A function added here is
available on the command line at once.

The defaults (256 px, batch 16, 5,000 steps) are for a GPU: 40 ms per step with width 128 on one
H200 (docs/speed.md). On a CPU start from the shipped model (``--init pretrained``) with
``--batch-size 4 --size 128`` and some hundred steps.

"Table" is the row of ``underdrawing reproduce --preset cpu`` where 0.48 of the style gap is closed,
van Gogh and ukiyo-e, three seeds (docs/results.md): 80 steps from the model of width 128 that was
shipped before, 2.7 s each on one CPU core (128 px, batch 4, float32).
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ..trainers.config import BalanceConfig, OptimizerConfig, StyleConfig, TrainConfig

Settings = Mapping[str, Any]  # "part.field" -> value


def with_settings(config: TrainConfig, *several: Settings) -> TrainConfig:
    """Return a configuration with some settings replaced, in order.

    Raises:
        ValueError: the settings contradict each other.
    """
    for name, value in (item for settings in several for item in settings.items()):
        part, _, key = name.rpartition(".")
        changed = replace(getattr(config, part), **{key: value}) if part else value
        config = replace(config, **{part or key: changed})
    return config


def pixel_style() -> TrainConfig:
    """Pixel loss + style loss: the baseline of the table.

    Command:  underdrawing train --recipe pixel-style
    Table:    SSIM 0.588, LPIPS 0.343, SSIM worst tenth 0.218
    """
    return with_settings(multi_layer(), {"recipe": "pixel-style", "content.kind": "pixel"})


def single_layer() -> TrainConfig:
    """Content loss on one layer, ``conv4_2``: the paper's L_content.

    Command:  underdrawing train --recipe single-layer
    Table:    SSIM 0.702, LPIPS 0.236, SSIM worst tenth 0.412
    """
    layers = (("conv4_2", 1.0),)
    return with_settings(multi_layer(), {"recipe": "single-layer", "content.layers": layers})


def multi_layer() -> TrainConfig:
    """Content loss on ``conv3_2 : conv4_2 : conv5_2`` = 0.2 : 0.5 : 0.3.

    Command:  underdrawing train --recipe multi-layer
    Table:    SSIM 0.705, LPIPS 0.235, SSIM worst tenth 0.414
    """
    return with_settings(attention(), {"recipe": "multi-layer", "attention.objective": "uniform"})


def attention() -> TrainConfig:
    """Multi-layer content loss weighted by the learned attention map; no discriminator.

    Command:  underdrawing train --recipe attention
    Table:    SSIM 0.701, LPIPS 0.238, SSIM worst tenth 0.411
    """
    return with_settings(TrainConfig(), {"recipe": "attention", "balance.adversarial": 0.0})


def attention_adversarial() -> TrainConfig:
    """Multi-layer content loss, learned attention map and PatchGAN.

    Command:  underdrawing train
    Table:    SSIM 0.700, LPIPS 0.239, SSIM worst tenth 0.409
    """
    return TrainConfig()


def paper_weights() -> TrainConfig:
    """The paper's starting weights, content 1e5 and style 1e2, with published losses and schedule.

    The paper's formula is a sum of unnormalized squares, but its recommended weights are for means
    over L2-normalized features. This recipe follows the latter, with the absolute Gram loss alone.

    Command:  underdrawing train --recipe paper-weights
    Expected: not measured
    """
    balance = BalanceConfig(kind="schedule", content=1e5, style=1e2, adversarial=1e2)
    style = StyleConfig(kind="gram", relative=False)
    return replace(TrainConfig(), recipe="paper-weights", balance=balance, style=style)


def gradient_balance() -> TrainConfig:
    """The default with gradient shares of content, style, adversarial term of 0.3 : 0.6 : 0.1.

    Command:  underdrawing train --recipe gradient-balance
    Expected: not measured
    """
    balance = BalanceConfig(kind="gradient", content=0.3, style=0.6, adversarial=0.1)
    return replace(TrainConfig(), recipe="gradient-balance", balance=balance)


def naive_attention() -> TrainConfig:
    """Attention map that minimizes the weighted loss (objective ``joint``) and hides the errors.

    Command:  underdrawing train --recipe naive-attention
    Expected: corr(A, E) -0.56; SSIM worst tenth 0.300 at the style gap of the table, and 0.414
              with uniform weights
    """
    return with_settings(attention(), {"recipe": "naive-attention", "attention.objective": "joint"})


def few_paintings() -> TrainConfig:
    """For 1 to 30 paintings: no discriminator, which would overfit, small batches, tight crops.

    Command:  underdrawing train --recipe few-paintings --init pretrained --steps 300
    Time:     25 min on one CPU core; 10 seconds on one H200 (width 128)
    Expected: 21 paintings by Monet, style gap closed 0.650: SSIM 0.583, LPIPS 0.360 (the shipped
              model at that gap: 0.519, 0.421)
    """
    return replace(
        attention(), recipe="few-paintings", steps=1000, batch_size=4, crop_scale=0.25,
        full_strength_prob=0.75, optimizer=OptimizerConfig(lr=5e-4, warmup=20),
    )  # fmt: skip


#: Name on the command line -> recipe.
RECIPES: dict[str, Callable[[], TrainConfig]] = {
    recipe.__name__.replace("_", "-"): recipe
    for recipe in (
        pixel_style, single_layer, multi_layer, attention, attention_adversarial, paper_weights,
        gradient_balance, naive_attention, few_paintings,
    )
}  # fmt: skip
