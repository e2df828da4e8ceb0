"""Grids: which runs are compared, declared in ``data/experiments/<name>.yml`` (notebook 11)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError

from dwclib.errors import ConfigError
from dwclib.files import ROOT
from dwclib.training.config import Config, read_recipe

GRIDS = ROOT / "data" / "experiments"


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


class _Declared(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class _Size(_Declared):
    recipe: str
    seeds: PositiveInt


class _File(_Declared):
    profiles: dict[str, _Size]
    changes: dict[str, dict[str, Any]] = {}
    variants: dict[str, dict[str, dict[str, Any]]] = Field(min_length=1)
    settings: dict[str, dict[str, Any]] = {"default": {}}
    probed: list[str] = []


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
    variants: dict[str, dict[str, dict[str, Any]]]
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
        for kind, names, known in (
            ("variant", variants, self.variants),
            ("setting", settings, self.settings),
        ):
            for name in names:
                if name not in known:
                    raise ConfigError(
                        f"there is no {kind} {name!r}",
                        where=f"grid {self.name}",
                        remedy=f"Use one of: {', '.join(known)}.",
                    )
        return self._replace(
            variants={name: self.variants[name] for name in variants or self.variants},
            settings={name: self.settings[name] for name in settings or self.settings},
        )


def read_grid(name: str, profile: str, *, folder: Path = GRIDS) -> Grid:
    """Read a grid's declaration, ``<folder>/<name>.yml``.

    Raises
    ------
    ConfigError
        For a grid or profile that there is not, an unknown key, or a configuration that cannot be.
    """
    path = folder / f"{name}.yml"
    if not path.exists():
        known = ", ".join(sorted(grid.stem for grid in folder.glob("*.yml")))
        raise ConfigError(f"there is no grid {name!r}", where=folder, remedy=f"Use one of: {known}.")
    try:
        declared = _File.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, ValidationError) as error:
        raise ConfigError(
            f"it declares no grid ({' '.join(str(error).split())})", where=path, remedy="See its neighbours."
        ) from error
    if profile not in declared.profiles:
        raise ConfigError(
            f"it has no profile {profile!r}", where=path, remedy=f"Use {' or '.join(declared.profiles)}."
        )
    size = declared.profiles[profile]
    grid = Grid(
        name,
        profile,
        read_recipe(size.recipe).but(**declared.changes),
        declared.variants,
        declared.settings,
        size.seeds,
        tuple(declared.probed),
    )
    grid.only(variants=grid.probed)
    grid.cells()  # so that a bad configuration is found now
    return grid
