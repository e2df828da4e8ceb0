"""Batches read ahead by workers: what they need, and Ctrl-C, which is not theirs."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml

from dwclib.data.triplets import Triplets
from dwclib.encoders import Features
from dwclib.errors import ConfigError
from dwclib.training.batches import SHARED_MEMORY, batches
from dwclib.training.checkpoints import checkpoints
from dwclib.training.config import TrainingConfig
from dwclib.training.splits import Split

WITH_FORKSERVER = """
import multiprocessing, sys
from dwclib.__main__ import main

if __name__ == "__main__":
    multiprocessing.set_start_method("forkserver")
    sys.exit(main(sys.argv[1:]))
"""
SMALL = {
    "data": {"train_images": 200, "train_queries": 240, "val_images": 80, "val_queries": 60},
    "model": {"dim": 16, "streams": ["clip"]},
    "training": {"epochs": 200, "batch": 32, "workers": 1, "validation_share": 0.1, "checkpoint_every": 3},
}


def _split(queries: int = 20) -> Split:
    dataset = Triplets(
        name="toy",
        image_ids=tuple(f"i{i}" for i in range(2 * queries)),
        identities=np.arange(2 * queries),
        references=np.arange(queries),
        targets=np.arange(queries, 2 * queries),
        captions=(("is red",),) * queries,
        gallery=np.arange(2 * queries),
    )
    images = torch.arange(2.0 * queries)[:, None].expand(-1, 25_000).clone()  # 0.1 MB each
    return Split(dataset, {"clip": Features(images, torch.zeros(queries, 1))})


def _read(**settings) -> list:
    config = TrainingConfig(**{"batch": 4, **settings})
    return [batch.identities.tolist() for batch in batches(_split(), config, epoch=0)]


def _interrupts() -> tuple:
    """Return what Ctrl-C does here, and whether it is held back."""
    held_back = signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    return signal.getsignal(signal.SIGINT), held_back


def test_workers_read_what_the_process_itself_reads():
    alone, before = _read(), _interrupts()
    assert len(alone) == 5
    assert sorted(identity for batch in alone for identity in batch) == list(range(20, 40))
    assert _read(workers=2) == alone
    assert _interrupts() == before


@pytest.mark.skipif(not SHARED_MEMORY.is_dir(), reason="shared memory is not a folder here")
def test_a_small_shared_memory_is_told_before_workers_wait_for_ever(monkeypatch):
    monkeypatch.setattr(multiprocessing, "get_start_method", lambda: "fork")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=3_000_000))
    assert len(_read()) == 5
    assert len(_read(workers=1)) == 5  # 2 batches of 4 references and 4 targets: 1.6 MB
    with pytest.raises(
        ConfigError, match=r"2 workers need 3\.2 MB in /dev/shm, which has 3\.0\. Use workers: 0"
    ):
        _read(workers=2)
    monkeypatch.setattr(multiprocessing, "get_start_method", lambda: "forkserver")
    with pytest.raises(ConfigError, match=r"1 workers need 5\.6 MB"):
        _read(workers=1)


@pytest.mark.skipif(sys.platform == "win32", reason="no groups of processes")
def test_ctrl_c_saves_also_where_workers_begin_afresh(tmp_path):
    """The terminal sends it to all processes; forkserver is what Linux has of macOS's way to begin them."""
    (tmp_path / "train.py").write_text(WITH_FORKSERVER)
    (tmp_path / "run.yml").write_text(yaml.safe_dump(SMALL))
    command = [sys.executable, "train.py", "train", "run.yml", "--out", "run", "--device", "cpu"]
    process = subprocess.Popen(
        command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env=os.environ | {"PYTHONPATH": os.getcwd()},
    )  # fmt: skip
    try:
        deadline = time.time() + 120
        while not (tmp_path / "run").exists() or len(checkpoints(tmp_path / "run")) < 2:  # the second epoch
            assert process.poll() is None, process.communicate()
            assert time.time() < deadline
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=120)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130, errors
    assert f"saved after step {int(checkpoints(tmp_path / 'run')[-1].name[5:])}" in errors
    assert "Traceback" not in errors
