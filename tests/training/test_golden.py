"""Training's arithmetic is what it was: losses of fifty steps of the CLIP stream and ten of both, as stored.

A change that moves them writes them anew, and says so in its commit:
``python tests/training/test_golden.py > tests/training/golden_losses.json``
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import pytest

STORED = Path(__file__).with_name("golden_losses.json")
LIBRARIES = ("torch", "torchvision", "timm", "open-clip-torch", "numpy")
# One thread, and code that any processor with AVX2 can run and runs alike, whatever its caches.
ARITHMETIC = {"OMP_NUM_THREADS": "1", "ATEN_CPU_CAPABILITY": "avx2", "MKL_CBWR": "COMPATIBLE"}
CONFIG = {
    "data": {"train_images": 200, "train_queries": 240, "val_images": 80, "val_queries": 60},
    "model": {"dim": 16, "word_dim": 8},
    "training": {"epochs": 2, "batch": 32, "learning_rate": 1e-3, "validation_share": 0.1},
}


def measure() -> dict[str, dict]:
    """Take the steps, and tell by what they were computed."""
    with tempfile.TemporaryDirectory() as folder:
        # A library chooses its instructions when it is loaded; features by others are not these.
        os.environ.update(ARITHMETIC, DWC_CACHE=folder)
        import torch

        from dwclib.streams import ClipStream
        from dwclib.training.config import parse_config
        from dwclib.training.runs import Run
        from dwclib.training.single import seed_everything, train

        torch.backends.mkldnn.set_flags(False)  # oneDNN cuts its sums to fit the caches
        run = Run(parse_config(CONFIG, "golden"), Path(folder) / "run", device="cpu")
        features, dataset = run.training.inputs["clip"], run.training.dataset
        seed_everything(0)
        stream = ClipStream(features.images.shape[1], dim=32)
        # More than half of the triplets: an epoch is one step, and its mean loss that of the step.
        clip = train(stream, features, dataset, epochs=50, batch=128, learning_rate=1e-3)
        log = run.train(stop_after=10, progress=False).log
    losses = {"clip": clip, "both, clip": [*log["loss_clip"]], "both, cnn": [*log["loss_cnn"]]}
    computed_by = {
        "machine": platform.machine(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        **{name: version(name) for name in LIBRARIES},
    }
    return {"computed by": computed_by, "losses": losses}


@pytest.fixture(scope="module")
def found() -> dict[str, dict]:
    """Measure in a process of its own, in which no library is loaded yet."""
    path = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, __file__], env={**os.environ, "PYTHONPATH": path},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(("what", "steps"), [("clip", 50), ("both, clip", 10), ("both, cnn", 10)])
def test_losses_are_the_stored_ones(found: dict[str, dict], what: str, steps: int) -> None:
    stored = json.loads(STORED.read_text())
    losses, expected = found["losses"][what], stored["losses"][what]
    assert len(losses) == steps
    here, there = found["computed by"], stored["computed by"]
    if here == there:
        assert losses == expected
    elif here["machine"] == there["machine"]:
        assert losses == pytest.approx(expected, rel=5e-3)
    else:  # another kind of processor draws other dropout
        assert sum(losses) == pytest.approx(sum(expected), rel=0.2)


if __name__ == "__main__":
    json.dump(measure(), sys.stdout, indent=1)
    print()
