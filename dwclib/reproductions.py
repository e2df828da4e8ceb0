"""Reproductions: what each recipe of a real dataset should reach, and what somebody measured with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from dwclib import machine
from dwclib.config import RECIPES, PhotoConfig, read_recipe
from dwclib.errors import ConfigError
from dwclib.experiments import FOLDER
from dwclib.files import atomic
from dwclib.reported import TITLES, reported

if TYPE_CHECKING:
    from dwclib.runs import Run

MEASURED = FOLDER / "reproductions"


def real_recipes() -> list[str]:
    """Return the names of the recipes of real datasets, in order."""
    names = sorted(path.stem for path in RECIPES.glob("*.yml"))
    return [name for name in names if isinstance(read_recipe(name).data, PhotoConfig)]


def expected(recipe: str) -> dict[int, float]:
    """Return DWC's reported Recall@K, in per cent, for a recipe; empty where no source reports any.

    A faster schedule is held against the same numbers: they are what it should reach.
    """
    category, row = recipe.removesuffix("-fast").partition("-")[2], _reported(recipe)
    columns = {k: f"{category} R@{k}".strip() for k in (1, 10, 50)}
    return {k: float(row[column]) for k, column in columns.items() if column in row}


def measured(recipe: str, *, folder: Path = MEASURED) -> dict[str, Any] | None:
    """Return what `keep` wrote for a recipe, None where nobody has run it yet."""
    path = folder / f"{recipe}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def keep(recipe: str, run: Run, *, folder: Path = MEASURED) -> Path:
    """Write a trained run's recalls, with configuration, machine and versions, as a recipe's measured result.

    Raises
    ------
    ConfigError
        When the run was trained by another configuration than the recipe's; only the folder of the data and
        the files of the weights may differ.
    """
    if _method(run.config.model_dump()) != _method(read_recipe(recipe).model_dump()):
        raise ConfigError(
            f"the run was not trained by the recipe {recipe!r}",
            where=run.folder,
            remedy=f"Train with data/recipes/{recipe}.yml as it is, or name the recipe that was used.",
        )
    found = {name: {f"R@{k}": round(v, 3) for k, v in r.items()} for name, r in run.recall().items()}
    config = run.config.model_dump()
    config["data"].pop("root", None)
    content = {"recall": found, "standing": run.standing(), "config": config, **machine.stamp()}
    path = folder / f"{recipe}.json"
    with atomic(path) as target:
        target.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return path


def reproductions(*, folder: Path = MEASURED) -> pd.DataFrame:
    """Return a table: one row per recipe, with what is reported and what was measured."""
    return pd.DataFrame(_row(name, folder) for name in real_recipes()).set_index("recipe")


def reproductions_page(*, folder: Path = MEASURED) -> str:
    """Return the page of reproductions, in Markdown."""
    table = reproductions(folder=folder).reset_index()
    lines = ["| " + " | ".join(table.columns) + " |", "|" + "---|" * len(table.columns)]
    lines += ["| " + " | ".join(row) + " |" for row in table.itertuples(index=False)]
    done = int((table["measured here"] != "").sum())
    return _PAGE.format(table="\n".join(lines), done=done, recipes=len(table))


def _reported(recipe: str) -> dict[str, Any]:
    """Return DWC's row of the reported results of a recipe's dataset."""
    dataset = recipe.removesuffix("-fast").partition("-")[0]
    row = reported(dataset).loc["DWC"].to_dict() if dataset in TITLES else {}
    return {str(column): value for column, value in row.items()}


def _row(recipe: str, folder: Path) -> dict[str, str]:
    found = measured(recipe, folder=folder)
    recall = list(found["recall"].values())[-1] if found else {}
    return {
        "recipe": recipe,
        "protocol": _reported(recipe).get("protocol", ""),
        "reported for DWC": ", ".join(f"R@{k} {value:.2f}" for k, value in expected(recipe).items()),
        "measured here": ", ".join(f"{name} {value:.2f}" for name, value in recall.items()),
        "stands on": found["standing"] if found else "",
        "on": f"{found['device']}, {found['date']}" if found else "",
    }


def _method(config: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration without what depends on the machine: folders and files."""
    data = {key: value for key, value in config["data"].items() if key != "root"}
    model = {key: value for key, value in config["model"].items() if not key.endswith("_weights")}
    training = {key: value for key, value in config["training"].items() if key not in ("workers", "seed")}
    return {"data": data, "model": model, "training": training}


_PAGE = """# Reproducing the reported results

One recipe per dataset and category, with the published hyper-parameters, and beside it a faster one. Each is
one command (notebook 14 says what the folder must hold):

```
python -m dwclib train data/recipes/fashioniq-dress.yml --data PATH --out runs/dress
python -m dwclib evaluate runs/dress --publish fashioniq-dress
```

The second command fills the row below. A cell that is empty was never run, and nothing is guessed: {done} of
{recipes} recipes have been run so far. What is reported comes from the page of
[reported results](reported.md); the `-fast` recipes are held against the same numbers. No source that this
book quotes reports DWC on CSS3D or CIRR.

{table}

Without a network, the weights are files: `--encoder-weights FILE` for CLIP, `--cnn-weights FILE` for
ResNet-50, and `--encoder NAME` takes any other model of open_clip. Each recall says on how many of the
annotated queries it stands: real copies of FashionIQ lack thousands of images, and `missing: drop` in the
recipe's `data` section leaves out the queries that need them.
"""
