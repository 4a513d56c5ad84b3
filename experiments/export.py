"""``underdrawing export``: a trained model as one ONNX file, which runs where there is no torch.

    underdrawing export RUN --onnx FILE --styles PAINTING...

Inputs are ``photo`` (B,3,H,W), ``code`` (B,D) and ``strength`` (B,1,H,W), outputs ``stylized``
(B,3,H,W) and ``attention`` (B,1,h,w), all float32 as ``Generator.forward`` has them, for any B, H
and W. The file's metadata entry ``styles`` is JSON: name -> style code.
"""

import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
import tyro
from torch import Tensor, nn

from ..data.files import write_atomic
from ..models.generator import MIN_SIDE, Generator
from ..trainers.model_files import load_model, model_folder
from ..trainers.style_codes import StyleCodes

INPUTS, OUTPUTS = ("photo", "code", "strength"), ("stylized", "attention")
AVERAGE = "average"  # the style that every file has: the mean of the training paintings' codes
TOLERANCE = 1e-3
CHECKED = ((1, 64, 96), (2, 75, 93), (1, 512, 509))  # pictures, height, width


@dataclass(frozen=True)
class ExportConfig:
    """Write a trained model as an ONNX file that needs neither torch nor this package."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder of the trained model; or `pretrained`, the model that is shipped."""
    onnx: Path
    """File to write."""
    styles: tuple[Path, ...] = ()
    """Paintings whose style codes go into the file, under their names without the suffix; beside
    them are the model's looks, and always 'average', the mean of the training paintings' codes."""


class Exported(nn.Module):
    """The generator with tensors alone for outputs."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, photo: Tensor, code: Tensor, strength: Tensor) -> tuple[Tensor, Tensor]:
        stylized = self.generator(photo, code, strength)
        return stylized.image, stylized.attention


def export(config: ExportConfig) -> float:
    """Write the file; returns the largest difference between ONNX Runtime's outputs and torch's.

    Raises:
        ValueError: the extra is not installed, there is no such model, a painting cannot be used
            or shares its name, or the outputs differ: then nothing is written.
        OSError: the file cannot be written.
    """
    if not installed():
        raise ValueError(
            "exporting takes packages that are not installed: pip install 'underdrawing[export]'"
        )
    run = model_folder(config.run)
    generator, trained = load_model(run)
    codes = StyleCodes(run, trained, torch.device("cpu"))
    styles = codes.styles | {AVERAGE: generator.code_mean[None]}
    for path in config.styles:
        if path.stem in styles:
            raise ValueError(f"there are two styles of the name {path.stem!r}: rename {path}")
        styles[path.stem] = codes.of(path)
    model = to_onnx(generator, styles)
    off = difference(generator, model, styles.values())
    if not off <= TOLERANCE:
        raise ValueError(
            f"ONNX Runtime's outputs differ from torch's by {off:.1e}, more than {TOLERANCE}: "
            f"{config.onnx} was not written"
        )
    write_atomic(config.onnx, model)
    return off


def installed() -> bool:
    """Whether the packages of the extra ``export`` are."""
    return all(find_spec(package) for package in ("onnxscript", "onnxruntime"))


@torch.no_grad()
def to_onnx(generator: Generator, styles: Mapping[str, Tensor]) -> bytes:
    """The ONNX file of a generator on the CPU, with named style codes (1,D)."""
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    batch = torch.export.Dim("batch")
    height, width = (torch.export.Dim(name, min=MIN_SIDE) for name in ("height", "width"))
    shape = {0: batch, 2: height, 3: width}
    photo, strength = torch.rand(2, 3, 75, 93), torch.rand(2, 1, 75, 93)
    inputs = (photo, generator.code_mean.expand(2, -1), strength)
    with warnings.catch_warnings(action="ignore"):  # it tells of its own workings
        program = torch.onnx.export(
            Exported(generator).eval(), inputs, dynamic_shapes=(shape, {0: batch}, shape),
            input_names=INPUTS, output_names=OUTPUTS, dynamo=True, verbose=False,
            custom_translation_table={torch.ops.aten.mean.dim: _mean},
        )  # fmt: skip
    assert program is not None
    ClearMetadataAndDocStringPass()(program.model)  # stack traces with this machine's paths
    codes = {name: code[0].tolist() for name, code in styles.items()}
    program.model.metadata_props["styles"] = json.dumps(codes)
    return program.model_proto.SerializeToString()


def _mean(x: Any, dim: Sequence[int], keepdim: bool = False, dtype: None = None) -> Any:
    """One axis after the other: ONNX Runtime adds up a whole plane in one float32 sum, and the
    colors of a large photo then come out wrong in the second decimal.
    """
    from onnxscript import opset18

    op: Any = opset18  # a script's constants are lists, whatever its signatures say
    for axis in dim:
        x = op.ReduceMean(x, [axis], keepdims=1)
    return x if keepdim else op.Squeeze(x, list(dim))


def open_session(model: bytes) -> Any:
    """ONNX Runtime's session of a model, on the CPU."""
    from onnxruntime import InferenceSession

    return InferenceSession(model, providers=["CPUExecutionProvider"])


def difference(generator: Generator, model: bytes, codes: Iterable[Tensor]) -> float:
    """The largest difference of outputs, over these codes, three sizes and all strengths.

    With gradients, since torch's own norms are less exact in the layout it takes without.
    """
    session, expected, off = open_session(model), Exported(generator), []
    for code, (batch, height, width) in product(codes, CHECKED):
        random = torch.Generator().manual_seed(height)
        coarse = torch.rand(batch, 3, 4, 4, generator=random)
        grain = torch.rand(batch, 3, height, width, generator=random)
        photo = torch.lerp(F.interpolate(coarse, (height, width), mode="bilinear"), grain, 0.1)
        strength = torch.rand(batch, 1, height, width, generator=random)
        strength[..., : width // 4], strength[..., -width // 4 :] = 0, 1
        inputs = (photo, code.expand(batch, -1), strength)
        feed = {name: x.numpy() for name, x in zip(INPUTS, inputs, strict=True)}
        for theirs, ours in zip(session.run(OUTPUTS, feed), expected(*inputs), strict=True):
            off.append((torch.from_numpy(theirs) - ours.detach()).abs().max())
    return torch.stack(off).max().item()  # not a number, if one is none


def command(arguments: list[str]) -> None:
    """Run the command."""
    config = tyro.cli(ExportConfig, prog="underdrawing export", args=arguments)
    off = export(config)
    print(f"{config.onnx}: ONNX Runtime's outputs differ from torch's by at most {off:.1e}")
