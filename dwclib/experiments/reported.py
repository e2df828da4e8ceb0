"""Reported results: the numbers of the literature that this book quotes, with their source and protocol."""

from __future__ import annotations

import pandas as pd

from dwclib.errors import ResultsError, check_choice
from dwclib.experiments.schema import REMEDY
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

    Raises
    ------
    ConfigError
        For another dataset.
    ResultsError
        When the file cannot be read, or holds what is no recall in per cent or a source that is not named.
    """
    check_choice("dataset", dataset, TITLES, REPORTED)
    path = REPORTED / f"{dataset}.csv"
    try:
        table = pd.read_csv(path, index_col="method")
        recalls = table.drop(columns=["protocol", "source"]).astype(float)
    except (OSError, ValueError, KeyError) as error:
        raise ResultsError(f"it cannot be read ({error})", where=path, remedy=REMEDY) from error
    sources = {key for keys in table["source"].astype(str) for key in keys.split("; ")}
    right = bool((recalls.isna() | ((recalls >= 0) & (recalls <= 100))).to_numpy().all())
    if not (right and table.index.is_unique and sources <= set(SOURCES)):
        raise ResultsError("it holds what is no reported recall", where=path, remedy=REMEDY)
    return table
