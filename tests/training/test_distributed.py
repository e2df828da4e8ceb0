"""Two processes that train one model do what one process does, and end as one.

Batch norm cannot be synchronised on CPUs. Where two processes are compared with one, it is in eval mode.
"""

from __future__ import annotations

import inspect
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
import yaml
from accelerate import PartialState

from dwclib.errors import ConfigError
from dwclib.training import distributed
from dwclib.training.batches import batches
from dwclib.training.checkpoints import checkpoints, load_checkpoint
from dwclib.training.config import Config, parse_config
from dwclib.training.runs import Run

ACCELERATE = ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0"]
TORCHRUN = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
# Adam divides a gradient by its own size, the rounding of those near zero too: only small steps keep two
# float32 computations together.
SMALL = {
    "data": {"train_images": 200, "train_queries": 240, "val_images": 80, "val_queries": 60},
    "model": {"dim": 16, "word_dim": 8, "dropout": 0.0},
    "training": {"epochs": 2, "batch": 32, "learning_rate": 1e-5, "checkpoint_every": 3, "log_every": 2,
                 "validation_share": 0.1},
}  # fmt: skip


def frozen(run):
    """Keep a run's batch norm in eval mode, here and in the processes that are started."""
    from torch.nn.modules.batchnorm import _BatchNorm

    for part in run.model.modules():
        if isinstance(part, _BatchNorm):
            part.eval()
            part.train = lambda mode=True, part=part: part
    return run


WORKER = """
import sys
from pathlib import Path
from dwclib.training import distributed
from dwclib.training.batches import batches
from dwclib.training.config import read_config
from dwclib.errors import ConfigError
from dwclib.training.runs import Run

out, written = Path(sys.argv[1]), []

def watch(event, arguments):
    if event == "open" and isinstance(arguments[0], str) and set(str(arguments[1])) & set("wax+"):
        written.append(arguments[0])
    elif event in ("os.mkdir", "os.rename", "os.remove"):
        written.append(str(arguments[0]))

def begun(name, config):
    return Run(config, out / name, device="cpu")

sys.addaudithook(watch)
config = read_config(out / "config.yml")
run = frozen(begun("two", config)).train(progress=False)
number = distributed.number()
inside = [path for path in written if path.startswith(str(out / "two"))]
frozen(begun("begun by one", config)).train(progress=False)
frozen(begun("ablated", config.but(model={"editors": "image"}))).train(stop_after=3, progress=False)
dropping = config.but(model={"dropout": 0.5})
begun("calm", dropping).train(progress=False)
for stop in (2, 7, None):
    begun("stopped", dropping).train(progress=False, stop_after=stop)
read = [batch.identities.tolist() for batch in batches(run.training, config.training, epoch=0, first=0)]
try:
    begun("odd", config.but(training={"batch": 33}))
    said = "nothing"
except ConfigError as error:
    said = str(error)
except SystemExit as leaving:
    said = f"left with {leaving.code}"
(out / f"told by {number}.yml").write_text(repr({"wrote": len(inside), "said": said, "read": read}))
"""

TALKER = """
import sys
from pathlib import Path
import torch
from dwclib.training import distributed

out = Path(sys.argv[1])
distributed.accelerator(out, device="cpu")
number = distributed.number()
mine = torch.arange(6.0).view(2, 3) + 10 * number
mine.requires_grad_()
rows = distributed.gather(mine)
(rows.square().sum() / 2).backward()
flags = distributed.gather(torch.tensor([number == 1]))
drawn = []
for step in range(3):
    distributed.seed(7, step)
    drawn.append(torch.rand(1).item())
(out / f"told by {number}.yml").write_text(repr({
    "rows": rows.tolist(), "own": torch.equal(mine.grad, mine), "flags": flags.tolist(), "drawn": drawn,
}))
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Run:
    """Train with one process and nothing else."""
    return frozen(Run(_config(), tmp_path_factory.mktemp("one") / "run", device="cpu")).train(progress=False)


@pytest.fixture(scope="module")
def together(whole: Run, tmp_path_factory) -> Path:
    """Let two processes train all that these tests look at; starting them takes longer than that."""
    out = tmp_path_factory.mktemp("two")
    (out / "config.yml").write_text(yaml.safe_dump(_config().model_dump()))
    (out / "worker.py").write_text(inspect.getsource(frozen) + WORKER)
    frozen(Run(_config(), out / "begun by one", device="cpu")).train(stop_after=5, progress=False)
    done = subprocess.run(
        [sys.executable, "-m", *TORCHRUN, str(out / "worker.py"), str(out)],
        env=_environment(), capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return out


def _config() -> Config:
    return parse_config(SMALL, "test")


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}


def _losses(folder: Path) -> pd.DataFrame:
    log = pd.read_csv(folder / "log.csv", float_precision="round_trip")
    return log[["step", "loss_clip", "loss_cnn"]]


def _told(out: Path, number: int) -> dict:
    return yaml.safe_load((out / f"told by {number}.yml").read_text())


def _launch(folder: Path, config: Config) -> subprocess.Popen:
    recipe = folder.with_suffix(".yml")
    recipe.write_text(yaml.safe_dump(config.model_dump()))
    command = [sys.executable, "-m", *ACCELERATE, "-m", "dwclib", "train", str(recipe), "--out", str(folder)]
    return subprocess.Popen(
        [*command, "--device", "cpu"],
        env=_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def _process(launcher: subprocess.Popen, number: int) -> psutil.Process:
    children = psutil.Process(launcher.pid).children(recursive=True)
    return next(child for child in children if child.environ().get("RANK") == str(number))


def test_three_processes_tell_each_other_everything_in_order(tmp_path: Path) -> None:
    (tmp_path / "talker.py").write_text(TALKER)
    done = subprocess.run(
        [sys.executable, "-m", *TORCHRUN[:-1], "3", str(tmp_path / "talker.py"), str(tmp_path)],
        env=_environment(), capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for number in range(3):
        told = _told(tmp_path, number)
        assert told["rows"] == [
            [row + 10 * n for row in line] for n in range(3) for line in ([0, 1, 2], [3, 4, 5])
        ]
        assert told["own"]
        assert told["flags"] == [False, True, False]
    assert len({draw for number in range(3) for draw in _told(tmp_path, number)["drawn"]}) == 9


def test_two_processes_have_the_losses_of_one(whole: Run, together: Path) -> None:
    losses = _losses(together / "two")
    pd.testing.assert_frame_equal(losses, _losses(whole.folder), rtol=1e-5)
    assert losses["loss_clip"].iloc[-1] < 0.9 * losses["loss_clip"].iloc[0]


def test_editors_that_are_left_out_keep_no_process_waiting(together: Path, tmp_path: Path) -> None:
    config = _config().but(model={"editors": "image"})
    alone = frozen(Run(config, tmp_path / "one", device="cpu")).train(stop_after=3, progress=False)
    pd.testing.assert_frame_equal(_losses(together / "ablated"), _losses(alone.folder), rtol=1e-5)


def test_batch_norm_of_each_process_is_its_own(whole: Run, together: Path) -> None:
    one, two = (_losses(folder)["loss_cnn"] for folder in (whole.folder, together / "calm"))
    assert 1e-4 < abs(one[0] - two[0]) / one[0] < 0.5


def test_two_processes_have_the_weights_and_gradients_of_one(whole: Run, together: Path, tmp_path) -> None:
    one, two = (load_checkpoint(checkpoints(folder)[-1]) for folder in (whole.folder, together / "two"))
    untrained = Run(_config(), tmp_path / "untrained", device="cpu").model.state_dict()
    for name, weights in one["model"].items():
        way = (weights - untrained[name]).float().norm()
        apart = (weights - two["model"][name]).float().norm()
        # A gradient near zero may change its sign by rounding, and Adam then steps the other way: a few such
        # entries are a small part of the way, a wrong gradient is as long as all of it.
        assert apart <= 0.1 * way + 1e-9, name
    for stream in ("clip", "cnn"):
        moments = [state["training"]["optimizers"][stream]["state"] for state in (one, two)]
        for number, expected in moments[0].items():
            found = moments[1][number]
            for kind in ("exp_avg", "exp_avg_sq"):
                assert (found[kind] - expected[kind]).norm() < 0.02 * expected[kind].norm() + 1e-9, number


def test_each_process_reads_its_half_of_every_batch(whole: Run, together: Path) -> None:
    read = batches(whole.training, whole.config.training, epoch=0, first=0)
    halves = [_told(together, number)["read"] for number in (0, 1)]
    both = [first + second for first, second in zip(*halves, strict=True)]
    assert both == [batch.identities.tolist() for batch in read]


def test_only_the_main_process_writes(together: Path) -> None:
    assert _told(together, 0)["wrote"] > 0
    assert _told(together, 1)["wrote"] == 0
    assert list(_losses(together / "two")["step"]) == list(range(1, 13))
    assert len(pd.read_csv(together / "two" / "recall.csv")) == 6
    assert len(list((together / "two" / "tensorboard").rglob("*tfevents*"))) == 1


def test_two_processes_go_on_with_what_one_began(whole: Run, together: Path) -> None:
    pd.testing.assert_frame_equal(_losses(together / "begun by one"), _losses(whole.folder), rtol=1e-5)


def test_one_process_goes_on_with_what_two_began(whole: Run, together: Path, tmp_path: Path) -> None:
    shutil.copytree(together / "two", tmp_path / "run")
    shutil.rmtree(checkpoints(tmp_path / "run")[-1])
    resumed = frozen(Run(_config(), tmp_path / "run", device="cpu")).train(progress=False)
    assert resumed.is_finished
    pd.testing.assert_frame_equal(_losses(resumed.folder), _losses(whole.folder), rtol=1e-5)


def test_dropout_is_drawn_again_as_it_would_have_been(together: Path) -> None:
    calm = _losses(together / "calm")
    pd.testing.assert_frame_equal(_losses(together / "stopped"), calm, check_exact=True)
    assert not np.allclose(calm["loss_clip"], _losses(together / "two")["loss_clip"])


def test_a_batch_that_cannot_be_shared_is_refused_by_one_voice(together: Path) -> None:
    said = sorted(_told(together, number)["said"] for number in (0, 1))
    assert said[0] == "left with 2"
    assert said[1].startswith("training.batch: a batch of 33 triplets cannot be shared by 2 processes.")


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_all_and_training_goes_on(together: Path, tmp_path: Path, victim: int) -> None:
    config = _config().but(model={"dropout": 0.5})
    launcher = _launch(tmp_path / "killed", config)
    deadline = time.time() + 900
    while not checkpoints(tmp_path / "killed"):
        assert launcher.poll() is None, launcher.communicate()
        assert time.time() < deadline
        time.sleep(0.02)
    _process(launcher, victim).kill()
    _, errors = launcher.communicate(timeout=900)
    assert launcher.returncode != 0
    told = [line for line in errors.splitlines() if "error: " in line and "is gone" in line]
    assert len(told) == 1, errors
    last = checkpoints(tmp_path / "killed")[-1]
    assert f"{last.parent}: another process" in told[0]
    assert f"goes on from {last.name}" in told[0]
    assert errors.count("UserWarning: batch norm is synchronised on GPUs only") == 1
    if victim == 1:
        again = _launch(tmp_path / "killed", config)
        output, errors = again.communicate(timeout=900)
        assert again.returncode == 0, errors
        assert output.count("both  R@1") == 1
        pd.testing.assert_frame_equal(
            _losses(tmp_path / "killed"), _losses(together / "calm"), check_exact=True
        )


def test_a_shell_that_still_names_other_processes_is_told(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "dwclib",
        "train",
        "data/recipes/synthfashion-smoke.yml",
        "--device",
        "cpu",
    ]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "run")],
        env={**_environment(), "WORLD_SIZE": "2"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.count("error: WORLD_SIZE: the other processes cannot be joined") == 1
    assert "Traceback" not in done.stderr


def test_a_process_says_for_whom_it_waits(tmp_path: Path) -> None:
    (tmp_path / "joins.py").write_text(TALKER)
    left = {"WORLD_SIZE": "3", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "0"}
    waiting = subprocess.Popen(
        [sys.executable, str(tmp_path / "joins.py"), str(tmp_path)],
        env={**_environment(), **left}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    said = waiting.stderr.readline()
    waiting.kill()
    waiting.communicate()
    assert said == "waiting for 2 other processes at localhost:0; unset WORLD_SIZE to train on one\n"


def test_each_run_of_a_process_has_the_device_that_it_asks_for(tmp_path: Path) -> None:
    first = distributed.accelerator(tmp_path, device="cpu")
    PartialState().device = torch.device("meta")  # as if a run had been on another device
    assert distributed.accelerator(tmp_path, device="cpu").device.type == "cpu"
    PartialState().device = torch.device("meta")
    assert first.device.type == "cpu"
    if not torch.backends.mps.is_available():
        with pytest.raises(ConfigError, match="device: 'mps' was asked for"):
            distributed.accelerator(tmp_path, device="mps")
