"""Pictures of a report as HTML that holds them."""

import base64
import io
from collections.abc import Sequence
from html import escape

from torch import Tensor

from ..data.images import to_image
from ..trainers.pictures import overlay
from .gallery import Picture
from .report_table import stacked

JPEG_QUALITY = 88


def pictures_html(pictures: Sequence[Picture]) -> str:
    """All pairs."""
    pairs = stacked(pair(picture, i) for i, picture in enumerate(pictures, start=1))
    return f"""<h3>Pictures</h3>
<p class="hint">Held-out pairs and what every trained row makes of them. Attention A lies over the
greyed photo on a fixed scale, so that a flat map looks flat; its mean is one:
<span class="scale">A = 0 <i></i> A ≥ 3</span></p>
{pairs}"""


def pair(picture: Picture, i: int) -> str:
    """Photo, painting, every output, the attention maps."""
    figures = [
        captioned(picture.content, "photo", f"The photo of pair {i}", "source"),
        captioned(picture.style, "painting", f"The painting of pair {i}", "source"),
        *(
            captioned(output, title, f"Pair {i} by the row {title}")
            for title, output in picture.outputs.items()
        ),
        *(
            captioned(
                overlay(picture.content[None], attention[None])[0],
                f"A of {title}",
                f"Where the attention of {title} lies on the photo of pair {i}",
                "attention",
            )
            for title, attention in picture.attention.items()
        ),
    ]
    return f"""<section class="pair">
<h4>Pair {i}</h4>
<div class="pictures">
{stacked(figures)}
</div>
</section>"""


def captioned(image: Tensor, caption: str, alt: str, kind: str = "output") -> str:
    """A picture (3,H,W) with its caption."""
    height, width = image.shape[-2:]
    size = f'width="{width}" height="{height}"'  # room is kept before it is decoded
    return (
        f'<figure class="{kind}"><img src="{data_uri(image)}" {size} alt="{escape(alt)}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def data_uri(image: Tensor) -> str:
    """A picture (3,H,W) as a JPEG inside its own address."""
    buffer = io.BytesIO()
    to_image(image).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
