from dataclasses import FrozenInstanceError, asdict

import pytest
from underdrawing.metrics.cards import Card

CARD = Card("SSIM", "none", "", 48, "the photo of each pair", "256 px")


def test_a_card_says_everything_and_needs_no_note() -> None:
    assert asdict(CARD) == {
        "name": "SSIM",
        "network": "none",
        "weights_sha256": "",
        "pictures": 48,
        "reference": "the photo of each pair",
        "resolution": "256 px",
        "note": "",
    }


def test_a_card_cannot_be_changed_afterwards() -> None:
    with pytest.raises(FrozenInstanceError):
        CARD.pictures = 49  # type: ignore[misc]
