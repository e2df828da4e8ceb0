"""What stands in files: checked key by key, and against its checksum, before anything of it is used."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dwclib.data.datasets import Section
from dwclib.errors import ConfigError, DwcError, ResultsError, brief
from dwclib.files import fingerprint, read_json

M = TypeVar("M", bound=BaseModel)
PLAIN = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,99}$"  # what may name a file
Plain = Annotated[str, Field(pattern=PLAIN)]
Named = Annotated[str, Field(min_length=1, max_length=200)]
Percent = Annotated[float, Field(ge=0, le=100)]
REMEDY = "Bring the file back (git checkout), or remove it and compute it anew."


class Kept(Section):
    """A part of a file: no unknown key, no value of another type, and no number that is none."""

    model_config = ConfigDict(allow_inf_nan=False)


class Stamped(Kept):
    """A measured result, with what `machine.stamp` says."""

    device: str
    versions: dict[str, str]
    date: str


def checked(
    model: type[M], content: Any, where: str | Path, *, remedy: str, kind: type[DwcError] = ConfigError
) -> M:
    """Return what a file holds, if it is what the model says; the first key that is not is told."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        key = brief(".".join(map(str, first["loc"])) or "the whole")
        raise kind(f"it is damaged at {key} ({first['msg']})", where=where, remedy=remedy) from error


def read_sealed(path: Path, model: type[BaseModel], *, remedy: str = REMEDY) -> dict[str, Any]:
    """Read a JSON file that holds its own checksum.

    Raises
    ------
    ResultsError
        When it cannot be read, is not what the model says, or is not what was written.
    """
    try:
        content = read_json(path)
        checked(model, content, path, remedy=remedy, kind=ResultsError)
        written = content.pop("checksum")
        if fingerprint(content) == written:
            return content
    except (ConfigError, RecursionError) as error:
        raise ResultsError(getattr(error, "problem", "deep"), where=path, remedy=remedy) from error
    raise ResultsError("it is damaged: another checksum", where=path, remedy=remedy)


def sealed(content: dict[str, Any]) -> dict[str, Any]:
    """Return a file's content with its checksum in front."""
    return {"checksum": fingerprint(content), **content}
