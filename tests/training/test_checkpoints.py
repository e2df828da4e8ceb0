"""Checkpoints: whole or not there, and refused when they are damaged or of another model."""

from __future__ import annotations

import os
import random
import resource
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from dwclib.errors import CheckpointError
from dwclib.training.checkpoints import (
    checkpoints,
    load_checkpoint,
    load_model,
    prune,
    random_states,
    save_checkpoint,
    set_random_states,
)


def _state() -> dict:
    return {
        "model": {"w": torch.arange(6.0).reshape(2, 3)},
        "by number": {0: [1, 2.5, None], 1: torch.tensor(7)},
        "nan": float("nan"),
        "position": {"step": 3, "best": {"score": 0.1 + 0.2, "name": ""}},
    }


def test_what_was_saved_is_loaded_to_the_last_bit(tmp_path) -> None:
    save_checkpoint(tmp_path / "step-00000003", _state())
    found = load_checkpoint(tmp_path / "step-00000003")
    assert torch.equal(found["model"]["w"], _state()["model"]["w"])
    assert found["by number"][0] == [1, 2.5, None]
    assert int(found["by number"][1]) == 7
    assert np.isnan(found["nan"])
    assert found["position"] == _state()["position"]
    assert sorted(p.name for p in (tmp_path / "step-00000003").iterdir()) == [
        "manifest.json",
        "state.json",
        "tensors.safetensors",
    ]


def test_an_optimiser_goes_on_as_if_it_had_not_stopped(tmp_path) -> None:
    torch.manual_seed(0)
    layer, twin = nn.Linear(3, 2), nn.Linear(3, 2)
    optimizers = [torch.optim.Adam(m.parameters(), fused=True) for m in (layer, twin)]

    def step(module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        module(torch.ones(1, 3)).sum().backward()
        optimizer.step()

    step(layer, optimizers[0])
    save_checkpoint(tmp_path / "c", {"model": layer.state_dict(), "optimizer": optimizers[0].state_dict()})
    found = load_checkpoint(tmp_path / "c")
    load_model(twin, found["model"], "c")
    optimizers[1].load_state_dict(found["optimizer"])
    twin.weight.grad, twin.bias.grad = layer.weight.grad.clone(), layer.bias.grad.clone()
    for module, optimizer in zip((layer, twin), optimizers, strict=True):
        step(module, optimizer)
    assert torch.equal(layer.weight, twin.weight)


def test_random_numbers_go_on_where_they_were(tmp_path) -> None:
    def draw() -> list[float]:
        return [random.random(), float(np.random.rand()), float(torch.rand(()))]  # noqa: NPY002

    draw()
    save_checkpoint(tmp_path / "c", random_states())
    expected = draw()
    draw()
    set_random_states(load_checkpoint(tmp_path / "c"), "c")
    assert draw() == expected


@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_damaged_checkpoint_is_named(tmp_path, name: str, damage: str) -> None:
    folder = tmp_path / "step-00000003"
    save_checkpoint(folder, _state())
    content = (folder / name).read_bytes()
    (folder / name).unlink()
    if damage == "cut":
        (folder / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match="step-00000003"):
        load_checkpoint(folder)


def test_another_format_is_refused(tmp_path) -> None:
    save_checkpoint(tmp_path / "c", _state())
    text = (tmp_path / "c" / "manifest.json").read_text()
    (tmp_path / "c" / "manifest.json").write_text(text.replace('"format": 2', '"format": 9'))
    with pytest.raises(CheckpointError, match="format 9"):
        load_checkpoint(tmp_path / "c")


@pytest.mark.parametrize(
    ("other", "message"),
    [(nn.Linear(3, 4), r"weight is \(2, 3\) float32 in the checkpoint and \(4, 3\)"),
     (nn.Linear(3, 2).double(), r"weight is \(2, 3\) float32 in the checkpoint and \(2, 3\) float64"),
     (nn.Linear(3, 2, bias=False), r"bias is \(2,\) float32 in the checkpoint and nothing"),
     (nn.Sequential(nn.Linear(3, 2)), "0.weight is nothing in the checkpoint")],
)  # fmt: skip
def test_another_architecture_is_refused_by_the_first_difference(other: nn.Module, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        load_model(other, nn.Linear(3, 2).state_dict(), "run")


def test_a_full_disk_is_told_and_the_last_good_checkpoint_stays(tmp_path) -> None:
    """A limit on the size of files does to `write` what a full disk does."""
    save_checkpoint(tmp_path / "step-00000001", _state())
    code = (
        "import sys, torch, resource, signal; from pathlib import Path; import safetensors.torch\n"
        "from dwclib.training.checkpoints import save_checkpoint\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))\n"
        "save_checkpoint(Path(sys.argv[1]), {'w': torch.zeros(100_000)})\n"
    )
    target = tmp_path / "step-00000002"
    found = subprocess.run(
        [sys.executable, "-c", code, str(target)],
        capture_output=True, text=True, check=False, env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 20_000
    assert "CheckpointError" in found.stderr, found.stderr
    assert "cannot be written" in found.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]
    assert torch.equal(load_checkpoint(checkpoints(tmp_path)[-1])["model"]["w"], _state()["model"]["w"])


def test_pruning_keeps_the_latest_and_the_best(tmp_path) -> None:
    for step in range(1, 6):
        save_checkpoint(tmp_path / f"step-{step:08d}", {"step": step})
    prune(tmp_path, {"step-00000002"})
    assert [p.name for p in checkpoints(tmp_path)] == ["step-00000002", "step-00000004", "step-00000005"]
