"""A metric's card: everything a reader needs to know before believing the number."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Card:
    """What a figure was measured with."""

    name: str  # as printed, e.g. "FID" or "Fréchet (VGG16 relu4_3)"
    network: str  # feature network and layer, or "none"
    weights_sha256: str  # of its weights, or ""
    pictures: int  # N outputs
    reference: str  # what they are compared with, and how many
    resolution: str  # how pictures were brought to size
    note: str = ""
