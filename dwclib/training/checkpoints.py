"""Checkpoints: all that a training needs to go on as if it had never stopped, as safetensors and JSON.

A checkpoint is a folder ``step-00000123`` that appears in one rename: ``tensors.safetensors`` holds every
tensor, ``state.json`` everything else, with the places of the tensors in it.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dwclib.errors import CheckpointError
from dwclib.files import atomic

FORMAT = 1


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
            save_file(tensors, target / "tensors.safetensors")
            text = json.dumps({"format": FORMAT, "state": plain})
            (target / "state.json").write_text(text, encoding="utf-8")
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"the checkpoint cannot be written ({error})",
            where=folder,
            remedy="Make room and run again; training goes on from the checkpoint before.",
        ) from error


def load_checkpoint(folder: Path) -> dict[str, Any]:
    """Read what `save_checkpoint` wrote; tensors are on the CPU.

    Raises
    ------
    CheckpointError
        When a file is missing, cut short, or of another format.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        found = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        if found["format"] != FORMAT:
            raise ValueError(f"format {found['format']}, not {FORMAT}")
        return _unpacked(found["state"], load_file(folder / "tensors.safetensors"))
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CheckpointError(
            f"the checkpoint cannot be read ({error})",
            where=folder,
            remedy="Remove this folder: training goes on from the checkpoint before it.",
        ) from error


def checkpoints(run: Path) -> list[Path]:
    """Return the checkpoints of a run, the oldest first."""
    return sorted(path for path in run.glob("step-*") if path.is_dir())


def prune(run: Path, keep: set[str], *, latest: int = 2) -> None:
    """Remove all but the `latest` checkpoints of a run and those whose names are in `keep`."""
    for path in checkpoints(run)[:-latest]:
        if path.name not in keep:
            shutil.rmtree(path)


def load_model(model: nn.Module, state: Mapping[str, Tensor], where: str | Path) -> None:
    """Load weights into a model.

    Raises
    ------
    CheckpointError
        When they belong to another architecture; the first difference is named.
    """
    own = model.state_dict()
    for name in [*own, *state]:
        found = [tuple(d[name].shape) if name in d else "nothing" for d in (state, own)]
        if found[0] != found[1]:
            raise CheckpointError(
                f"{name} is {found[0]} in the checkpoint and {found[1]} in the model",
                where=where,
                remedy="Use the configuration that the checkpoint was trained with, or another folder.",
            )
    model.load_state_dict(state)


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


def set_random_states(states: Mapping[str, Any]) -> None:
    """Take up what `random_states` returned."""
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(states["torch"])
    if states["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(states["cuda"])


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
