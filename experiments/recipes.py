"""Recipes: named functions, each returning a run's full configuration.

    underdrawing train --recipe attention-adversarial --photos PHOTOS --paintings PAINTINGS

The first seven are the rows of the table, the paper's in its order; every later one says in its
first line what it changes. Add your own here: it is on the command line at once.
"""

from collections.abc import Callable
from dataclasses import replace

from ..trainers.config import BalanceConfig, StyleConfig, TrainConfig


def pixel_style() -> TrainConfig:
    """The table's baseline: pixel loss and style loss. No features of the photo are compared.

    Command: ``underdrawing train --recipe pixel-style``
    """
    config = multi_layer()
    return replace(config, recipe="pixel-style", content=replace(config.content, kind="pixel"))


def single_layer() -> TrainConfig:
    """Content-aware, one layer: ``conv4_2``, the paper's L_content.

    Command: ``underdrawing train --recipe single-layer``
    """
    config = multi_layer()
    content = replace(config.content, layers=(("conv4_2", 1.0),))
    return replace(config, recipe="single-layer", content=content)


def multi_layer() -> TrainConfig:
    """Content-aware, several layers: ``conv3_2 : conv4_2 : conv5_2`` = 0.2 : 0.5 : 0.3.

    Command: ``underdrawing train --recipe multi-layer``
    """
    config = attention()
    return replace(
        config, recipe="multi-layer", attention=replace(config.attention, objective="uniform")
    )


def attention() -> TrainConfig:
    """Multi-layer content weighted by the learned attention map; no discriminator.

    Command: ``underdrawing train --recipe attention``
    """
    config = attention_adversarial()
    return replace(config, recipe="attention", balance=replace(config.balance, adversarial=0.0))


def attention_strength() -> TrainConfig:
    """The learned attention map weighs the content loss, and the strength follows it, as s^A.

    Command: ``underdrawing train --recipe attention-strength``
    """
    config = attention()
    return replace(
        config, recipe="attention-strength", attention=replace(config.attention, strength=True)
    )


def attention_gate() -> TrainConfig:
    """The map mixes the photo's features into the painting's, and learns from that alone.

    Command: ``underdrawing train --recipe attention-gate``
    """
    config = attention()
    return replace(
        config, recipe="attention-gate", attention=replace(config.attention, objective="gate")
    )


def attention_adversarial() -> TrainConfig:
    """Everything: multi-layer content, learned attention, PatchGAN. The default.

    Command: ``underdrawing train --photos PHOTOS --paintings PAINTINGS``
    """
    return TrainConfig()


def paper_weights() -> TrainConfig:
    """The paper's own start: content 1e5, style 1e2, published losses, content weight shifted.

    Its content weight belongs to a sum of *unnormalized* squares in its formula but to means over
    L2-normalized features in its text's recommendation; we take the latter, without our relative
    Gram loss.
    Command: ``underdrawing train --recipe paper-weights``
    """
    config = attention_adversarial()
    balance = BalanceConfig(kind="schedule", content=1e5, style=1e2, adversarial=1e2)
    return replace(
        config, recipe="paper-weights", balance=balance, style=StyleConfig(relative=False)
    )


def gradient_balance() -> TrainConfig:
    """The default, with the terms' gradient shares at the output held at 0.3 : 0.6 : 0.1.

    Command: ``underdrawing train --recipe gradient-balance``
    """
    balance = BalanceConfig(kind="gradient", content=0.3, style=0.6, adversarial=0.1)
    return replace(attention_adversarial(), recipe="gradient-balance", balance=balance)


def naive_attention() -> TrainConfig:
    """Attention as a plain minimizer (objective ``joint``), kept to show how it collapses.

    Command: ``underdrawing train --recipe naive-attention``
    """
    config = attention()
    return replace(
        config, recipe="naive-attention", attention=replace(config.attention, objective="joint")
    )


def few_paintings() -> TrainConfig:
    """For 1 to 24 paintings: no discriminator, which would know them by heart; smaller crops, and
    more of them at full strength.

    From a trained model (``--init``) it takes 300 steps.
    Command: ``underdrawing train --recipe few-paintings --photos PHOTOS --paintings PAINTINGS``
    """
    return replace(
        attention(), recipe="few-paintings", steps=1000, crop_scale=0.25, full_strength_prob=0.75
    )


_ALL: tuple[Callable[[], TrainConfig], ...] = (
    pixel_style,
    single_layer,
    multi_layer,
    attention,
    attention_strength,
    attention_gate,
    attention_adversarial,
    paper_weights,
    gradient_balance,
    naive_attention,
    few_paintings,
)
#: Name on the command line -> recipe.
RECIPES = {recipe.__name__.replace("_", "-"): recipe for recipe in _ALL}
