"""What the dials of the published pages, book/_static/dials.js, need of a notebook's numbers."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from IPython.display import HTML
from jaxtyping import UInt8


def dial_data(name: str, **data: Any) -> HTML:
    """Return numbers for a dial as a part of the page that is seen by its script and by no reader.

    Parameters
    ----------
    name : of the dial, as a ``<div class="dial" data-dial="...">`` of the same page has it.
    **data : what the function of that name in the script takes. Arrays and tensors keep five digits.
    """
    text = json.dumps(data, default=_plain).replace("<", "\\u003c")
    return HTML(f'<script type="application/json" data-dial="{name}">{text}</script>')


def _plain(array: Any) -> Any:
    found = np.asarray(array)
    return (found.astype(float).round(5) if found.dtype.kind == "f" else found).tolist()


def in_one_row(*pictures: UInt8[np.ndarray, "h w 3"]) -> str:
    """Return pictures side by side, as one image whose address holds it all."""
    from dwclib.book.cards import address

    return address(np.concatenate(pictures, axis=1))
