"""Films of known motion: it is known rightly, and flicker that was put in is found."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from underdrawing.experiments import flicker as module
from underdrawing.experiments.flicker import CAMERAS, FlickerConfig, flicker, make_film, measure
from underdrawing.metrics.flicker import warping_error


@pytest.fixture
def photo() -> Tensor:
    coarse = torch.rand(1, 3, 26, 39, generator=torch.Generator().manual_seed(0))
    return F.interpolate(coarse, (260, 390), mode="bicubic").clamp(0, 1)


@pytest.mark.parametrize("camera", CAMERAS)
def test_the_motion_is_the_films(photo: Tensor, camera: str) -> None:
    film = make_film(photo, CAMERAS[camera], 0)
    assert warping_error(film.frames, film.motions) < 1.5
    noisy = make_film(photo, CAMERAS[camera], 4)
    assert 3 < warping_error(noisy.frames, noisy.motions) < 7


def test_flicker_is_found_and_reduced(photo: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FRAMES", 5)
    random = torch.Generator().manual_seed(0)

    def paint(frame: Tensor) -> Tensor:
        return (1 - frame + 0.1 * torch.randn(frame.shape, generator=random)).clamp(0, 1)

    found = measure(make_film(photo, CAMERAS["pan"], 0), paint)
    assert found["frame by frame"] > 20 > 3 * found["source"]
    assert found["steady"] < 0.6 * found["frame by frame"]


def test_figures_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    painter = SimpleNamespace(code=lambda style: None, stylize=lambda photo, code: 1 - photo)
    monkeypatch.setattr(module, "load", lambda run, device: painter)
    monkeypatch.setattr(module, "FRAMES", 2)
    monkeypatch.setattr(module, "PHOTOS", {"test": ("skimage/data/coffee.png",)})
    figures = flicker(FlickerConfig(tmp_path, "style", tmp_path / "flicker.json"))
    assert json.loads((tmp_path / "flicker.json").read_text()) == figures
    assert set(figures) == {
        f"{film}, noise {noise}" for film in (*CAMERAS, "passing disc") for noise in (0, 4)
    }
    assert figures["still, noise 0"]["steady"] < 0.01
    assert (
        figures["passing disc, noise 0"]["ghost"] < 0.2 * figures["passing disc, noise 0"]["change"]
    )
