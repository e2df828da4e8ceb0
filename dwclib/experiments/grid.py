"""Grids: which runs are compared, declared in ``data/experiments/<name>.yml`` (notebook 11)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import Field

from dwclib.errors import NO_DATA, ConfigError, check_choice
from dwclib.experiments.schema import PLAIN, Kept, Named, Plain, checked
from dwclib.files import DATA, read_yaml
from dwclib.training.config import Config, read_recipe

GRIDS = DATA / "experiments"
MOST = 1_000  # seeds, and of variants times settings
Variants = dict[str, dict[str, dict[str, Any]]]  # name -> section of the configuration -> key -> value


class Cell(NamedTuple):
    """One run of a grid: a variant of the configuration, in a setting of the world's dials, from a seed."""

    variant: str
    setting: str
    seed: int
    config: Config

    @property
    def key(self) -> tuple[str, str, int]:
        """What tells the cell from the others of its grid."""
        return self.variant, self.setting, self.seed


class _Size(Kept):
    recipe: Plain
    seeds: Annotated[int, Field(ge=1, le=MOST)]
    epochs: int | None = None  # the recipe's, where none are named


class _File(Kept):
    profiles: dict[Plain, _Size]
    changes: dict[str, dict[str, Any]] = Field({})
    variants: dict[Named, dict[str, dict[str, Any]]] = Field(min_length=1)
    each: dict[Named, dict[str, dict[str, Any]]] = Field({})
    settings: dict[Named, dict[str, Any]] = Field({"default": {}}, min_length=1)
    probed: list[str] = Field([])


class Grid(NamedTuple):
    """Runs to compare: every variant, in every setting, from every seed.

    Fields
    ------
    name, profile : of the file of results.
    base : the configuration that everything departs from.
    variants : changes of its sections by name, ``{"hard labels": {"training": {"alpha": 0.0}}}``.
    settings : changes of its data by name, ``{"noisy": {"train_dials": {"noise": 0.3}}}``.
    seeds : how many, from 0 on.
    probed : variants whose modality weights and gaps are measured too (`dwclib.experiments.probes`).
    """

    name: str
    profile: str
    base: Config
    variants: Variants
    settings: dict[str, dict[str, Any]]
    seeds: int
    probed: tuple[str, ...] = ()

    def cells(self) -> list[Cell]:
        """Return all runs; those that read the same data stand together."""
        return [
            Cell(variant, setting, seed, self._config(changes, data, seed))
            for setting, data in self.settings.items()
            for variant, changes in self.variants.items()
            for seed in range(self.seeds)
        ]

    def _config(self, changes: dict[str, dict[str, Any]], data: dict[str, Any], seed: int) -> Config:
        training = {**changes.get("training", {}), "seed": seed}
        sections = {**changes, "data": {**changes.get("data", {}), **data}, "training": training}
        return self.base.but(**sections)

    def only(self, *, variants: Sequence[str] = (), settings: Sequence[str] = ()) -> Grid:
        """Return the grid of some variants and settings; of all, where none are named.

        Raises
        ------
        ConfigError
            For a variant or a setting that the grid does not have.
        """
        for name in variants:
            check_choice("variant", name, self.variants, f"grid {self.name}")
        for name in settings:
            check_choice("setting", name, self.settings, f"grid {self.name}")
        return self._replace(
            variants={name: self.variants[name] for name in variants or self.variants},
            settings={name: self.settings[name] for name in settings or self.settings},
        )


def grid_names(folder: Path = GRIDS) -> list[str]:
    """Name the grids that are declared in a folder.

    Raises
    ------
    ConfigError
        When there is none.
    """
    names = sorted(path.stem for path in folder.glob("*.yml") if re.match(PLAIN, path.stem))
    if not names:
        raise ConfigError("there is no grid", where=folder, remedy=NO_DATA)
    return names


def read_grid(name: str, profile: str, *, folder: Path = GRIDS) -> Grid:
    """Read a grid's declaration, ``<folder>/<name>.yml``.

    Raises
    ------
    ConfigError
        For a grid or profile that there is not, an unknown key, or a configuration that cannot be.
    """
    check_choice("grid", name, grid_names(folder), folder)
    path = folder / f"{name}.yml"
    declared = checked(_File, read_yaml(path), path, remedy="See its neighbours.")
    check_choice("profile", profile, declared.profiles, path)
    variants = _each(declared.variants, declared.each)
    if (count := len(variants) * len(declared.settings)) > MOST:
        raise ConfigError(f"{count} variants in settings are too many", where=path, remedy=f"Use {MOST}.")
    size = declared.profiles[profile]
    length = {} if size.epochs is None else {"training": {"epochs": size.epochs}}
    grid = Grid(
        name,
        profile,
        read_recipe(size.recipe).but(**declared.changes).but(**length),
        variants,
        declared.settings,
        size.seeds,
        tuple(declared.probed),
    )
    grid.only(variants=grid.probed)
    grid._replace(seeds=1).cells()  # so that a bad configuration is found now
    return grid


def _each(variants: Variants, choices: Variants) -> Variants:
    """Return each variant with each choice: "sum at rate 0.001". Without a choice, they stay as they are."""
    return {
        f"{name} at {choice}": {
            key: {**changes.get(key, {}), **more.get(key, {})} for key in {**changes, **more}
        }
        for name, changes in variants.items()
        for choice, more in choices.items()
    } or variants
