import pytest
from underdrawing.experiments.style_args import parse_mix, parse_pairs, title


def test_a_mixture() -> None:
    assert parse_mix("a.jpg:0.7,look:3") == {"a.jpg": 0.7, "look": 3.0}
    assert parse_mix("C:\\a.jpg:1") == {"C:\\a.jpg": 1.0}


@pytest.mark.parametrize("words", ["", "a.jpg", "a:", "a:x", ":1", "a:1,", "a:1,a:2"])
def test_what_is_no_mixture(words: str) -> None:
    with pytest.raises(ValueError, match="STYLE:WEIGHT"):
        parse_mix(words)


def test_styles_by_color() -> None:
    assert parse_pairs("black=a.jpg,#fff=b=c.jpg") == {"black": "a.jpg", "#fff": "b=c.jpg"}


@pytest.mark.parametrize("words", ["", "a", "a=", "=a", "a=b,", "a=b,a=c"])
def test_what_is_no_pairs(words: str) -> None:
    with pytest.raises(ValueError, match="KEY=STYLE"):
        parse_pairs(words)


def test_the_title_is_without_folders_and_suffixes() -> None:
    assert title(["x/night.jpg", "monet"]) == "night+monet"
