"""``underdrawing export``: export a model to ONNX.

    underdrawing export RUN --onnx FILE --styles PAINTING...
    underdrawing export RUN --web DIR      # a static page that stylizes photos in the browser

Inputs are ``photo`` (B,3,H,W), ``reduced`` (the photo again, or a smaller copy for larger strokes),
``code`` (B,D) and ``strength`` (B,1,H,W), outputs ``stylized`` (B,3,H,W) and ``attention``
(B,1,h,w), all float32 as in ``Generator.forward``, for any batch, height and width. The metadata
entry ``styles`` is JSON: name -> style code.
"""

import base64
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
from PIL import ImageOps
from torch import Tensor, nn

from ..data.files import one_line, write_atomic
from ..data.images import encode_image, read_image
from ..models.generator import MIN_SIDE, Generator, reduce_photo
from ..trainers.model_files import load_model, model_folder
from ..trainers.stylizer import Stylizer
from .main import parse_options
from .paths import check_output

INPUTS, OUTPUTS = ("photo", "reduced", "code", "strength"), ("stylized", "attention")
TOLERANCE = 1e-3
CHECKED_SIZES = ((1, 64, 96, 1), (2, 75, 93, 1.7), (1, 512, 509, 2))  # batch, H, W, stroke size
PAGE = Path(__file__).parent / "demo" / "web"  # HTML, script and sample photo
PAGE_FILES = (*(path.name for path in PAGE.iterdir()), "model.onnx", "styles.json")
THUMBNAIL = 192  # pixels per side
LARGE_SIZE = (1, 2048, 2048, 1)  # checked with one code: float32 sums over large planes lose digits


@dataclass(frozen=True)
class ExportConfig:
    """Export a trained model as an ONNX file, as a page for the browser, or as both."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run directory of the model, or `pretrained` for the shipped model."""
    onnx: Path | None = None
    """ONNX file to write; it runs without torch and without this package."""
    styles: tuple[Path, ...] = ()
    """Paintings to add under their file names, beside the named styles and `average`."""
    web: Path | None = None
    """Folder to write: a static page that stylizes the visitor's photos in the browser."""


class TensorOutputs(nn.Module):
    """The generator with a tuple of tensors as output."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.generator = generator

    def forward(
        self, photo: Tensor, reduced: Tensor, code: Tensor, strength: Tensor
    ) -> tuple[Tensor, Tensor]:
        stylized = self.generator(photo, code, strength, reduced=reduced)
        return stylized.image, stylized.attention


def export(config: ExportConfig) -> float:
    """Write the files; return the maximum difference between ONNX Runtime and torch.

    Raises:
        ValueError: neither file nor folder is named, the extra is not installed, there is no such
            model, a painting cannot be used or has the name of another style, or the difference
            exceeds ``TOLERANCE``.
        OSError: a file cannot be written.
    """
    if not targets(config):
        raise ValueError("nothing to write: name a file with --onnx, or a folder with --web")
    if not all(find_spec(package) for package in ("onnxscript", "onnxruntime")):
        raise ValueError("export needs more packages: pip install 'underdrawing[export]'")
    if config.onnx:
        check_output(config.onnx, [".onnx"], config.styles)
    if config.web:
        for name in PAGE_FILES:
            check_output(config.web / name, [Path(name).suffix], config.styles)
    run = model_folder(config.run)
    stylizer = Stylizer(load_model(run), run, torch.device("cpu"))
    generator, codes = stylizer.generator, stylizer.codes
    if "average" in codes.styles:
        raise ValueError(
            f"two styles are named 'average': remove that of {config.run} with `styles --remove`"
        )
    styles = codes.styles | {"average": generator.code_mean[None]}
    for path in config.styles:
        if path.stem in styles:
            raise ValueError(f"two styles are named {path.stem!r}: rename {path}")
        styles[path.stem] = codes.code(path)
    model = to_onnx(generator, styles)
    difference = max_difference(generator, model, styles.values())
    if not difference <= TOLERANCE:  # also for NaN
        raise ValueError(
            f"ONNX Runtime differs from torch by {difference:.1e}, more than {TOLERANCE}: "
            f"{targets(config)} was not written"
        )
    if config.onnx:
        write_atomic(config.onnx, model)
    if config.web:
        named = {name: code for name, code in styles.items() if name != "average"}
        write_page(config.web, model, stylizer, named or styles)
    return difference


def targets(config: ExportConfig) -> str:
    """Name the file and the folder to write."""
    return one_line(" and ".join(str(path) for path in (config.onnx, config.web) if path))


def write_page(
    folder: Path, model: bytes, stylizer: Stylizer, styles: Mapping[str, Tensor]
) -> None:
    """Write the page: HTML, script, sample photo, model, and styles as JSON.

    ``styles.json`` maps a name to its style code and a thumbnail (data URI), the sample photo
    stylized.
    """
    sample = ImageOps.fit(read_image(PAGE / "sample.jpg"), (THUMBNAIL, THUMBNAIL))
    entries = {}
    for name, code in styles.items():
        values = [float(str(value)) for value in code[0].numpy()]  # the digits of a float32
        image = encode_image(stylizer.stylize(sample, code), ".jpg")
        thumbnail = "data:image/jpeg;base64," + base64.b64encode(image).decode()
        entries[name] = {"code": values, "thumbnail": thumbnail}
    for path in PAGE.iterdir():
        write_atomic(folder / path.name, path.read_bytes())
    write_atomic(folder / "model.onnx", model)
    write_atomic(folder / "styles.json", json.dumps(entries))


@torch.no_grad()
def to_onnx(generator: Generator, styles: Mapping[str, Tensor]) -> bytes:
    """Convert a generator on the CPU and style codes (1,D) by name to the bytes of an ONNX file."""
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    batch = torch.export.Dim("batch")
    height, width, reduced_height, reduced_width = (
        torch.export.Dim(name, min=MIN_SIDE)
        for name in ("height", "width", "reduced_height", "reduced_width")
    )
    shape = {0: batch, 2: height, 3: width}
    reduced_shape = {0: batch, 2: reduced_height, 3: reduced_width}
    photo, reduced, strength = (torch.rand(2, *s) for s in ((3, 75, 93), (3, 43, 58), (1, 75, 93)))
    inputs = (photo, reduced, generator.code_mean.expand(2, -1), strength)
    with warnings.catch_warnings(action="ignore"):  # about the exporter's internals
        program = torch.onnx.export(
            TensorOutputs(generator).eval(), inputs,
            dynamic_shapes=(shape, reduced_shape, {0: batch}, shape),
            input_names=INPUTS, output_names=OUTPUTS, dynamo=True, verbose=False,
            custom_translation_table={torch.ops.aten.mean.dim: _mean},
        )  # fmt: skip
    assert program is not None
    ClearMetadataAndDocStringPass()(program.model)  # stack traces contain paths of this machine
    codes = {name: code[0].tolist() for name, code in styles.items()}
    program.model.metadata_props["styles"] = json.dumps(codes)
    return program.model_proto.SerializeToString()


def _mean(x: Any, dim: Sequence[int], keepdim: bool = False, dtype: None = None) -> Any:
    """Average over one axis after the other.

    ONNX Runtime sums a whole plane in one float32 accumulator, which shifts the colors of a large
    photo in the second decimal.
    """
    from onnxscript import opset18 as op

    for axis in dim:
        x = op.ReduceMean(x, [axis], keepdims=1)  # type: ignore[arg-type]
    return x if keepdim else op.Squeeze(x, list(dim))  # type: ignore[arg-type]


@torch.no_grad()
def max_difference(generator: Generator, model: bytes, codes: Iterable[Tensor]) -> float:
    """Return the maximum difference of outputs over codes, four sizes and all strengths.

    That of an attention map is relative to its maximum.
    """
    from onnxruntime import InferenceSession

    session = InferenceSession(model, providers=["CPUExecutionProvider"])
    reference, differences = TensorOutputs(generator), []
    codes = list(codes)
    checks = [*product(codes, CHECKED_SIZES), (codes[0], LARGE_SIZE)]
    for code, (batch, height, width, stroke_size) in checks:
        random = torch.Generator().manual_seed(height)
        photo = torch.rand(batch, 3, 4, 4, generator=random)
        photo = F.interpolate(photo, (height, width), mode="bilinear")
        strength = torch.rand(batch, 1, height, width, generator=random)
        strength[..., : width // 4], strength[..., -width // 4 :] = 0, 1
        inputs = (photo, reduce_photo(photo, stroke_size), code.expand(batch, -1), strength)
        feed = {name: x.numpy() for name, x in zip(INPUTS, inputs, strict=True)}
        for onnx, torch_ in zip(session.run(OUTPUTS, feed), reference(*inputs), strict=True):
            scale = torch_.abs().max().clamp_min(1)  # A may be far above 1
            differences.append((torch.from_numpy(onnx) - torch_).abs().max() / scale)
    return torch.stack(differences).max().item()  # NaN if any is NaN


def command(arguments: list[str]) -> None:
    """Run the command."""
    config = parse_options(ExportConfig, prog="underdrawing export", args=arguments)
    difference = export(config)
    print(f"{targets(config)}: maximum difference between ONNX Runtime and torch {difference:.1e}")
