"""Reproductions: what each recipe of a real dataset should reach, and what somebody measured with it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd
from pydantic import Field

from dwclib.errors import ConfigError, check_choice
from dwclib.experiments import machine
from dwclib.experiments.reported import TITLES, reported
from dwclib.experiments.rows import Stream
from dwclib.experiments.schema import Percent, Stamped, read_sealed, sealed
from dwclib.experiments.store import FOLDER
from dwclib.files import write_json
from dwclib.training.config import RECIPES, Config, read_recipe

if TYPE_CHECKING:
    from dwclib.training.runs import Run

MEASURED = FOLDER / "reproductions"


def real_recipes() -> list[str]:
    """Return the recipes of real datasets: their names begin with the dataset's."""
    names = sorted(path.stem for path in RECIPES.glob("*.yml"))
    return [name for name in names if name.split("-")[0] == read_recipe(name).data.dataset != "synthfashion"]


def expected(recipe: str) -> dict[int, float]:
    """Return DWC's reported Recall@K, in per cent, for a recipe; empty where no source reports any.

    A faster schedule is held against the same numbers: they are what it should reach.
    """
    category, row = recipe.removesuffix("-fast").partition("-")[2], _reported(recipe)
    columns = {k: f"{category} R@{k}".strip() for k in (1, 10, 50)}
    return {k: float(row[column]) for k, column in columns.items() if column in row}


class _Measured(Stamped):
    checksum: str
    recall: dict[Stream, dict[str, Percent]] = Field(min_length=1)
    standing: str
    config: dict[str, Any]


def measured(recipe: str) -> dict[str, Any] | None:
    """Return what `keep` wrote for a recipe, None where nobody has run it yet.

    Raises
    ------
    ConfigError
        For a recipe that there is not.
    ResultsError
        When the file is damaged.
    """
    check_choice("recipe", recipe, real_recipes(), RECIPES)
    path = MEASURED / f"{recipe}.json"
    return read_sealed(path, _Measured) if path.exists() else None


class Cost(NamedTuple):
    """What training by a recipe takes: operations of the CNN stream for one triplet, and both streams' size.

    Fields
    ------
    flop : floating-point operations, forward and backward, of a triplet of 224 x 224 pictures.
    weights : trained numbers of both streams.
    """

    flop: float
    weights: int


def cost_of(recipe: str, *, clip_dim: int = 1024, words: int = 5_000, length: int = 20) -> Cost:
    """Count what a recipe's training takes, on its networks with random weights; CLIP runs once, before.

    Parameters
    ----------
    recipe : its name.
    clip_dim : width of its CLIP's features.
    words, length : of the vocabulary and of a text.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from dwclib.encoders import Features
    from dwclib.training.model import build_model

    stand_in = Features(torch.zeros(1, clip_dim), torch.zeros(1, clip_dim))
    config = read_recipe(recipe).but(model={"cnn_weights": None})
    model = build_model(config, {"clip": stand_in, "cnn": stand_in}, words).train()
    pictures = torch.zeros(2, config.data.size, config.data.size, 3, dtype=torch.uint8)
    stream, texts = model["cnn"], torch.ones(2, length, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        query = stream.compose(stream.encode(pictures), texts).query
        (query * stream.embed_target(stream.encode(pictures))).sum().backward()
    weights = sum(parameter.numel() for parameter in model.parameters())
    return Cost(counter.get_total_flops() / len(pictures), weights)


def is_trained_by(config: Config, recipe: str) -> bool:
    """Tell whether a configuration is a recipe's, whatever the machine.

    The folder of the data, the files of weights, the seed, the reading processes and whether triplets without
    photos were dropped may differ: a result names the queries that it stands on.
    """
    return _method(config) == _method(read_recipe(recipe))


def keep(recipe: str, run: Run, recall: Mapping[str, Mapping[int, float]]) -> Path:
    """Write a trained run's recalls, with configuration, machine and versions, as a recipe's measured result.

    Parameters
    ----------
    recipe : its name.
    run : trained by it.
    recall : what the run's `recall` returned, by the recipe's protocol.

    Raises
    ------
    ConfigError
        When the run was trained by another configuration than the recipe's, as `is_trained_by` says.
    """
    check_choice("recipe", recipe, real_recipes(), RECIPES)
    if not is_trained_by(run.config, recipe):
        raise ConfigError(
            f"the run was not trained by the recipe {recipe!r}",
            where=run.folder,
            remedy=f"Train with data/recipes/{recipe}.yml as it is, or name the recipe that was used.",
        )
    found = {name: {f"R@{k}": round(v, 3) for k, v in r.items()} for name, r in recall.items()}
    told = {"recall": found, "standing": run.standing(), "config": _choices(run.config), **machine.stamp()}
    path = MEASURED / f"{recipe}.json"
    write_json(path, sealed(told))
    return path


def reproductions() -> pd.DataFrame:
    """Return a table: one row per recipe, with what is reported and what was measured."""
    return pd.DataFrame(_row(name) for name in real_recipes()).set_index("recipe")


def _reported(recipe: str) -> dict[str, Any]:
    """Return DWC's row of the reported results of a recipe's dataset."""
    dataset = recipe.removesuffix("-fast").partition("-")[0]
    row = reported(dataset).loc["DWC"].to_dict() if dataset in TITLES else {}
    return {str(column): value for column, value in row.items()}


def _row(recipe: str) -> dict[str, str]:
    found = measured(recipe)
    recall = list(found["recall"].values())[-1] if found else {}
    return {
        "recipe": recipe,
        "protocol": _reported(recipe).get("protocol", ""),
        "reported for DWC": ", ".join(f"R@{k} {value:.2f}" for k, value in expected(recipe).items()),
        "measured here": ", ".join(f"{name} {value:.2f}" for name, value in recall.items()),
        "stands on": found["standing"] if found else "",
        "on": f"{found['device']}, {found['date']}" if found else "",
    }


def _choices(config: Config) -> dict[str, Any]:
    """Return what was chosen, without a folder of this machine."""
    return {**config.choices(), "training.epochs": config.training.epochs}


def _method(config: Config) -> dict[str, Any]:
    """Return a configuration without what depends on the machine; of weights, whether there are any."""
    found = _choices(config)
    found |= {key: found[key] is not None for key in ("model.clip_weights", "model.cnn_weights")}
    return {key: value for key, value in found.items() if key != "training.seed"}
