"""Checkpoints: whole or not there, and refused when they are damaged or of another model."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import JSON, places
from torch import nn

from dwclib.errors import CheckpointError, DwcError
from dwclib.training.batches import batches
from dwclib.training.checkpoints import (
    checkpoints,
    load_checkpoint,
    load_model,
    prune,
    random_states,
    save_checkpoint,
    set_random_states,
)
from dwclib.training.config import parse_config
from dwclib.training.course import Course
from dwclib.training.runs import Run


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


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    """Train the quick stream for a few steps."""
    values = {
        "data": {"train_images": 60, "train_queries": 60, "val_images": 40, "val_queries": 20},
        "model": {"dim": 8, "streams": ["clip"]},
        "training": {"epochs": 4, "batch": 16, "validation_share": 0.1},
    }
    config = parse_config(values, "test")
    return Run(config, tmp_path_factory.mktemp("run"), device="cpu").train(stop_after=2, progress=False)


@pytest.fixture(scope="module")
def good(run: Run, tmp_path_factory) -> Path:
    """Return a copy of its checkpoint that no test changes."""
    return shutil.copytree(checkpoints(run.folder)[-1], tmp_path_factory.mktemp("good") / "step-00000002")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_damaged_byte_goes_unnoticed(good: Path, tmp_path, data) -> None:
    folder = tmp_path / "step-00000002"
    shutil.copytree(good, folder, dirs_exist_ok=True)
    path = folder / data.draw(st.sampled_from(sorted(path.name for path in good.iterdir())))
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="step-00000002"):
        load_checkpoint(folder)


def _put(state: dict, path: tuple, value) -> None:
    for key in path[:-1]:
        state = state[key]
    state[path[-1]] = value


TENSORS = st.sampled_from(
    [
        torch.zeros(1),
        torch.zeros(0),
        torch.ones(3, 3),
        torch.zeros((), dtype=torch.int64),
        torch.ones(8).double(),
    ]
)


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_a_hostile_checkpoint_in_good_order_is_refused_or_trains(run: Run, good: Path, data) -> None:
    """Its manifest is right: only keys, shapes and types tell. Nothing may crash, nor leave the folder."""
    state, folder = load_checkpoint(good), run.folder / good.name
    ways = [path for path in places(state) if path[:2] != ("random", "python")]
    _put(state, data.draw(st.sampled_from(ways)), data.draw(JSON | TENSORS))
    shutil.rmtree(folder)
    save_checkpoint(folder, state)
    try:
        course = Course(run)
        for batch in batches(run.training, run.config.training, epoch=0):
            course.trainer.step(batch)
        run.restore("last")
    except DwcError:
        pass


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("training", "optimizers", "clip", "state", 0, "exp_avg"), torch.zeros(1), r"\(1,\) float32 in the"),
        (
            ("training", "optimizers", "clip", "state", 0, "exp_avg_sq"),
            torch.zeros(8, 64).double(),
            "float64",
        ),
        (("training", "optimizers", "clip", "state", 99), {}, "is dict in the checkpoint and nothing here"),
        (("training", "schedulers", "clip", "step"), 1, "is int in the checkpoint and nothing here"),
        (("training", "schedulers", "clip", "last_epoch"), "2", "is str in the checkpoint and int here"),
        (("model", "clip.image_head.0.bias"), torch.zeros(9), r"\(9,\) float32 in the"),
        (("random", "numpy", 2), 10**6, "place 1000000"),
        (("random", "torch"), torch.zeros(3, dtype=torch.uint8), "cannot be read"),
        (("position", "best"), "../../elsewhere", "is str in the checkpoint and int here"),
        (("position",), {"step": 2}, "is nothing in the checkpoint"),
    ],
)
def test_what_a_checkpoint_holds_is_compared_with_what_takes_it(run: Run, good, path, value, message) -> None:
    state, folder = load_checkpoint(good), run.folder / good.name
    _put(state, path, value)
    shutil.rmtree(folder)
    save_checkpoint(folder, state)
    with pytest.raises(CheckpointError, match=message):
        Course(run)


def test_what_a_configuration_chooses_is_not_taken_from_a_checkpoint(run: Run, good: Path) -> None:
    state, folder = load_checkpoint(good), run.folder / good.name
    group = state["training"]["optimizers"]["clip"]["param_groups"][0]
    group |= {"weight_decay": 9.0, "capturable": True, "maximize": True, "lr": 0.5}
    shutil.rmtree(folder)
    save_checkpoint(folder, state)
    found = Course(run).trainer.optimizers["clip"].param_groups[0]
    assert (found["weight_decay"], found["capturable"], found["maximize"]) == (1e-6, False, False)
    assert found["lr"] == 0.5


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


@pytest.mark.skipif(sys.platform == "win32", reason="no limits on files")
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
    assert "CheckpointError" in found.stderr, found.stderr
    assert "cannot be written" in found.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]
    assert torch.equal(load_checkpoint(checkpoints(tmp_path)[-1])["model"]["w"], _state()["model"]["w"])


def test_pruning_keeps_the_latest_and_the_best(tmp_path) -> None:
    for step in range(1, 6):
        save_checkpoint(tmp_path / f"step-{step:08d}", {"step": step})
    prune(tmp_path, {"step-00000002"})
    assert [p.name for p in checkpoints(tmp_path)] == ["step-00000002", "step-00000004", "step-00000005"]
