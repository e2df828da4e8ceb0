"""Pictures of the book's world in HTML that brings along what it shows, on the site and in JupyterLab."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from html import escape

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from dwclib.book.live import shown
from dwclib.data.synthfashion import SynthFashion


def address(picture: UInt8[np.ndarray, "h w 3"]) -> str:
    """Return a picture as an address that holds it all."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "webp", quality=80)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"


def card(dataset: SynthFashion, image: int, *, kind: str = "", says: str = "", more: str = "") -> str:
    """Return one picture, and in words what it shows.

    Parameters
    ----------
    dataset, image : which.
    kind : "right" gives it a green frame and a tick, "reference" a blue frame.
    says : more for readers who do not see it.
    more : attributes in HTML.
    """
    words = escape(shown(dataset.garment(image)) + (f", {says}" if says else ""))
    picture = f'<img src="{address(dataset.pictures[image])}" alt="{words}" title="{words}">'
    return f'<span class="dwc-card {kind}"{more}>{picture}</span>'


def row(cards: Iterable[str], *, across: int) -> str:
    """Return cards side by side: so many to a line, or half as many on a phone."""
    room = f"--across: {across}; --narrow: {-(-across // 2)}"
    return f'<div class="dwc-row" style="{room}">{"".join(cards)}</div>'


def tick(weight: float) -> str:
    """Return a mark below a slider from 0 to 1, where the learned weight is."""
    return f'<div class="dwc-tick"><span style="--at: {weight:.4f}">learned {weight:.2f}</span></div>'


STYLE = """<style>
.dwc { max-width: 44rem; line-height: 1.4; }
.text_html:has(.dwc) { background: none !important; color: inherit !important; padding: 0 !important; }
.dwc [hidden] { display: none !important; }
.dwc p { margin: .5rem 0 .2rem; }
.dwc-row { display: grid; grid-template-columns: repeat(var(--across), minmax(0, 1fr)); gap: 6px; }
.dwc-card { display: block; position: relative; min-width: 0; }
.dwc-card img { display: block; width: 100% !important; height: auto; aspect-ratio: 1; box-sizing: border-box;
  margin: 0; padding: 0 !important; border: 1px solid rgba(128, 128, 128, .4); border-radius: 6px; }
.dwc-card.right img { border: 3px solid #00795A; }
.dwc-card.reference img { border: 3px solid #0072B2; }
.dwc-card.right::after { content: "✓"; position: absolute; right: 0; top: 0; width: 1.1rem;
  border-radius: 0 6px; font: 700 .8rem/1.1rem sans-serif; text-align: center; color: #fff;
  background: #00664a; }
.dwc-ask { display: grid; grid-template-columns: 84px minmax(0, 1fr); gap: 1rem; align-items: center; }
.dwc input[type="range"] { display: block; width: 100%; height: 28px; margin: 0; accent-color: #00795A; }
.dwc-ends { display: flex; justify-content: space-between; font-size: .85rem; }
.dwc select { max-width: 100%; font: inherit; }
.dwc-gates { display: grid; grid-template-columns: 1fr 1fr; gap: 1.2rem; }
.dwc-gates svg { width: 100%; height: 40px; border: solid rgba(128, 128, 128, .4); border-width: 1px 0; }
.dwc-gates [data-gate="image"] { fill: #0072B2; }
.dwc-gates [data-gate="text"] { fill: #B85000; }
.dwc-tick { position: relative; height: 1.5rem; font-size: .85rem; line-height: 1; }
.dwc-tick span { position: absolute; left: calc(8px + (100% - 16px) * var(--at)); transform: translateX(-50%);
  padding-top: 9px; white-space: nowrap; }
.dwc-tick span::before { content: ""; position: absolute; left: 50%; top: 0; height: 8px;
  border-left: 2px solid; }
@media (max-width: 600px) {
  .dwc-row { grid-template-columns: repeat(var(--narrow), minmax(0, 1fr)); }
  .dwc-ends { flex-wrap: wrap; }
  .dwc-ends output { order: 1; flex: 0 0 100%; text-align: center; }
}
</style>
"""
