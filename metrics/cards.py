"""Metadata of a metric: network, weights, number of images, reference, resolution."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Card:
    """How one metric was computed."""

    name: str  # as printed, e.g. "FID" or "Fréchet (VGG16 relu4_3)"
    network: str  # feature network and layer, or "none"
    weights_sha256: str  # "" without a network
    images: int  # number of outputs; of distinct ones for distances between sets
    reference: str  # what the outputs are compared with
    resolution: str  # how images were resized
    note: str = ""
