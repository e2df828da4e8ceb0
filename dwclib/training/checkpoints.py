"""Checkpoints: all that a training needs to go on as if it had never stopped, as safetensors and JSON.

A checkpoint is a folder ``step-00000123`` that appears in one rename: ``tensors.safetensors`` holds every
tensor, ``state.json`` everything else, with the places of the tensors in it, and ``manifest.json`` the
SHA-256 of both. What is read must be as it was written, and of the form that the reader expects.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from dwclib.errors import CheckpointError, ConfigError, brief
from dwclib.files import atomic, text_of

if TYPE_CHECKING:
    from dwclib.training.alternate import AlternateTraining

FORMAT = 2
_FOREIGN = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
TENSORS, STATE = FILES = ("tensors.safetensors", "state.json")


def save_checkpoint(folder: Path, state: Mapping[str, Any]) -> None:
    """Write a state of nested dictionaries, lists, tensors and plain values to a new folder.

    Raises
    ------
    CheckpointError
        When it cannot be written, for want of space, say; nothing of it is left then.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {}
    plain = _packed(state, "state", tensors)
    try:
        with atomic(folder) as target:
            target.mkdir()
            save_file(tensors, target / TENSORS)
            (target / STATE).write_text(json.dumps(plain), encoding="utf-8")
            digests = {name: _sha256(target / name) for name in FILES}
            manifest = {"format": FORMAT, "name": folder.name, "sha256": digests}
            (target / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"the checkpoint cannot be written ({error})",
            where=folder,
            remedy="Make room and run again; training goes on from the checkpoint before.",
        ) from error


def load_checkpoint(folder: Path, *parts: str) -> dict[str, Any]:
    """Read what `save_checkpoint` wrote; tensors are on the CPU.

    Parameters
    ----------
    *parts : of the state that are needed; all that there are by default.

    Raises
    ------
    CheckpointError
        When a file or a part is missing, of another format, or not as it was written.
    """
    from safetensors.torch import load_file

    with _reading(folder):
        found = _unpacked(_written(folder, *FILES), load_file(folder / TENSORS))
        return {part: found[part] for part in parts or found}


def look_into(folder: Path, part: str) -> Any:
    """Read a part of a checkpoint's state that holds no tensors, and nothing else of it.

    Raises
    ------
    CheckpointError
        As `load_checkpoint` does.
    """
    with _reading(folder):
        return _unpacked(dict(_written(folder, STATE)["items"])[part], {})


def checkpoints(run: Path) -> list[Path]:
    """Return the checkpoints of a run, the oldest first; a copy by another name is none."""
    return sorted(path for path in run.glob("step-" + 8 * "[0-9]") if path.is_dir())


def name_of(step: int) -> str:
    """Return the name of the checkpoint after a step."""
    return f"step-{step:08d}"


def step_of(checkpoint: Path) -> int:
    """Return the step after which a checkpoint was written."""
    return int(checkpoint.name.removeprefix("step-"))


def prune(run: Path, keep: set[str], *, latest: int = 2) -> None:
    """Remove all but the `latest` checkpoints of a run and those whose names are in `keep`."""
    for path in checkpoints(run)[:-latest]:
        if path.name not in keep:
            shutil.rmtree(path)


def load_model(model: nn.Module, state: Any, where: str | Path) -> None:
    """Load weights, by name, into a model.

    Raises
    ------
    CheckpointError
        When they belong to another architecture; the first difference is named.
    """
    check_form(state, model.state_dict(), where, "model")
    model.load_state_dict(state)


def check_form(found: Any, expected: Any, where: str | Path, path: str = "") -> None:
    """Compare what a checkpoint holds with what takes its place: keys, lengths, shapes and types, no values.

    Parameters
    ----------
    found, expected : nested dictionaries, lists, tensors and plain values.
    where, path : of the checkpoint; in it.

    Raises
    ------
    CheckpointError
        At the first difference.
    """
    if isinstance(found, Mapping) and isinstance(expected, Mapping):
        for key in {**expected, **found}:
            inner = f"{path}.{key}".lstrip(".")
            check_form(found.get(key, _Nothing), expected.get(key, _Nothing), where, inner)
    elif _form(found) != _form(expected):
        raise CheckpointError(
            f"{path} is {_form(found)} in the checkpoint and {_form(expected)} here",
            where=where,
            remedy="Use the configuration and the torch that it was trained with, or another folder.",
        )
    elif isinstance(expected, (list, tuple)):
        for place, items in enumerate(zip(found, expected, strict=True)):
            check_form(*items, where, f"{path}.{place}")


def check_same(found: Any, own: Mapping[str, Any], where: Path) -> None:
    """Compare what identifies a checkpoint's run, by name, with one's own.

    Raises
    ------
    ConfigError
        At the first difference; it names the key and both values.
    """
    for key, value in own.items():
        before = found.get(key) if isinstance(found, Mapping) else None
        if value != before:
            raise ConfigError(
                f"{key} is {brief(value)} and was {brief(before)} when the run in it began",
                where=where,
                remedy="Go back to that, or name a new folder.",
            )


def load_training(trainer: AlternateTraining, state: Any, where: str | Path) -> None:
    """Let a trainer take up what its `state_dict` returned.

    Only moments, counts and rates are taken over; all that a configuration chooses stays the trainer's own.

    Raises
    ------
    CheckpointError
        When it is another trainer's; the fused optimiser would read beyond moments that are too small.
    """
    expected = trainer.state_dict()
    for name, optimizer in trainer.optimizers.items():
        with _reading(Path(where)):
            found = set(state["optimizers"][name]["state"])
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        expected["optimizers"][name]["state"] = {
            number: {"step": torch.zeros(()), "exp_avg": parameter, "exp_avg_sq": parameter}
            for number, parameter in enumerate(parameters)
            if number in found  # one that no loss reaches never has any
        }
    check_form(state, expected, where, "training")
    for name, own in expected["optimizers"].items():
        for group, ours in zip(state["optimizers"][name]["param_groups"], own["param_groups"], strict=True):
            group |= {key: value for key, value in ours.items() if key != "lr"}
    trainer.load_state_dict(state)


def random_states() -> dict[str, Any]:
    """Return the states of Python's, NumPy's and torch's random numbers."""
    numpy_state: Any = np.random.get_state()  # noqa: NPY002  libraries draw from it
    name, keys, *rest = numpy_state
    return {
        "python": random.getstate(),
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), *rest],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_states(states: Any, where: str | Path) -> None:
    """Take up what `random_states` returned.

    Raises
    ------
    CheckpointError
        When these are no such states.
    """
    with _reading(Path(where)):
        version, numbers, gauss = states["python"]
        random.setstate((version, tuple(numbers), gauss))
        name, keys, place, *rest = states["numpy"]
        if not 0 <= place <= len(keys):  # NumPy would read beyond its numbers
            raise ValueError(f"place {place}")
        np.random.set_state((name, keys.numpy().astype(np.uint32), place, *rest))  # noqa: NPY002
        torch.set_rng_state(states["torch"])
        for device, state in zip(range(torch.cuda.device_count()), states["cuda"], strict=False):
            torch.cuda.set_rng_state(state, device)


@contextmanager
def _reading(folder: Path) -> Iterator[None]:
    """Tell in one way what damaged files raise."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, *_FOREIGN, SafetensorError) as error:
        raise CheckpointError(
            f"the checkpoint cannot be read ({error})",
            where=folder,
            remedy="Remove this folder: training goes on from the checkpoint before it.",
        ) from error


def _written(folder: Path, *names: str) -> Any:
    """Return the state without its tensors, once these files are known to be as they were written."""
    manifest = json.loads(text_of(folder / "manifest.json"))
    if manifest["format"] != FORMAT:
        raise ValueError(f"format {manifest['format']}, not {FORMAT}")
    if manifest["name"] != folder.name:
        raise ValueError(f"it was written as {manifest['name']}")
    for name in names:
        if _sha256(folder / name) != manifest["sha256"][name]:
            raise ValueError(f"{name} is not as it was written")
    return json.loads(text_of(folder / STATE))


def _sha256(path: Path) -> str:
    if not path.is_file():
        raise ValueError(f"{path.name} is missing")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _Nothing:
    """Stands where one of two dictionaries has no entry."""


def _form(value: Any) -> str:
    if value is _Nothing:
        return "nothing"
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, (list, tuple)):
        return f"a list of {len(value)}"
    return type(value).__name__


def _packed(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """Move tensors out, by name; write dictionaries as pairs, because JSON's keys are strings only."""
    if isinstance(value, Tensor):
        tensors[path] = value.detach().to("cpu", copy=True).contiguous()
        return {"tensor": path}
    if isinstance(value, Mapping):
        return {"items": [[key, _packed(item, f"{path}.{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        return [_packed(item, f"{path}.{place}", tensors) for place, item in enumerate(value)]
    return value


def _unpacked(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, dict) and "tensor" in value:
        return tensors[value["tensor"]]
    if isinstance(value, dict):
        return {key: _unpacked(item, tensors) for key, item in value["items"]}
    if isinstance(value, list):
        return [_unpacked(item, tensors) for item in value]
    return value
