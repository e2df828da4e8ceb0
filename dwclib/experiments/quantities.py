"""Headline quantities: ``data/quantities.yml`` names them, stored rows tell them; one name is one number."""

from __future__ import annotations

from pathlib import Path

from pydantic import RootModel

from dwclib.errors import ConfigError, check_choice
from dwclib.experiments.grid import read_grid
from dwclib.experiments.results import Results, differing
from dwclib.experiments.rows import Row, Stream
from dwclib.experiments.schema import Kept, Named, Plain, checked
from dwclib.experiments.statistics import Interval
from dwclib.experiments.store import FOLDER, load
from dwclib.files import DATA, read_yaml
from dwclib.training.config import Config, parse_config

QUANTITIES = DATA / "quantities.yml"


class Quantity(Kept):
    """Where a quantity's rows are: grid, variant, setting (the first by default), and stream."""

    grid: Plain
    variant: Named
    setting: str = ""
    stream: Stream


def read_quantities(path: Path = QUANTITIES) -> dict[str, Quantity]:
    """Return the headline quantities by name.

    Raises
    ------
    ConfigError
        When the file is damaged.
    """
    remedy = "See data/quantities.yml."
    return checked(RootModel[dict[Named, Quantity]], read_yaml(path), path, remedy=remedy).root


def quantity(
    name: str, measure: str, *, profile: str = "laptop", path: Path = QUANTITIES, folder: Path = FOLDER
) -> Interval:
    """Return a headline quantity with its 95 % interval, from the stored rows.

    Parameters
    ----------
    name, measure : which one, and what of it, such as "R@10".
    profile, folder : of the rows.
    path : of the names.

    Raises
    ------
    ConfigError
        For a name that is not declared, or a measure that its rows do not hold.
    ResultsError
        When a row is missing.
    """
    known, found = _rows_of(name, profile, path, folder)
    return found.value(known.variant, measure, stream=known.stream)


def row_of(name: str, config: Config, *, path: Path = QUANTITIES, folder: Path = FOLDER) -> Row:
    """Return the stored row of a headline quantity for a configuration and its seed, of the laptop's profile.

    A training from this configuration gives the row's numbers again.

    Parameters
    ----------
    name : of the quantity.
    config : of a run.
    path, folder : as `quantity` takes them.

    Raises
    ------
    ConfigError
        When the rows of the quantity have another configuration; its keys are named.
    ResultsError
        When a row is missing.
    """
    _, found = _rows_of(name, "laptop", path, folder)
    row = {row["seed"]: row for row in found.rows}.get(config.training.seed, found.rows[0])
    if keys := differing(parse_config(row["config"], "a stored row"), config):
        raise ConfigError(
            f"no row of {name!r} has this configuration: {', '.join(keys)} differ",
            where=path,
            remedy="Use the configuration that its grid declares, or name it something else.",
        )
    return row


def _rows_of(name: str, profile: str, path: Path, folder: Path) -> tuple[Quantity, Results]:
    declared = read_quantities(path)
    check_choice("quantity", name, declared, path)
    known, grid = declared[name], read_grid(declared[name].grid, profile)
    setting = known.setting or next(iter(grid.settings))
    return known, load(grid.only(variants=[known.variant], settings=[setting]), folder=folder)
