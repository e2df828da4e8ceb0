"""Reported results: the numbers of the literature that this book quotes, with their source and protocol."""

from __future__ import annotations

import pandas as pd

from dwclib.files import DATA

REPORTED = DATA / "reported"
SOURCES = {
    "S1": "README of github.com/fuxianghuang1/Multimodal-Composite-Editing-and-Retrieval (2024-10-27), kept "
    "by DWC's first author",
    "S2": 'Table 1 of "Heterogeneous Uncertainty-Guided Composed Image Retrieval" (AAAI 2026), which repeats '
    "the FashionIQ row",
}
TITLES = {"fashioniq": "FashionIQ", "shoes": "Shoes", "fashion200k": "Fashion200K"}
SHOWN = {"fashioniq": "average R@10", "shoes": "R@10", "fashion200k": "R@10"}


def reported(dataset: str) -> pd.DataFrame:
    """Return a dataset's reported results, one method a row; what no source gives is missing.

    Parameters
    ----------
    dataset : "fashioniq", "shoes" or "fashion200k".
    """
    return pd.read_csv(REPORTED / f"{dataset}.csv", index_col="method")
