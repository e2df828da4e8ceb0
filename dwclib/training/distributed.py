"""Training on several processes: together they take one process's step (notebook 15).

Each process holds the whole model and reads its slice of every batch. With the rows e_i of the batch cut into
the P processes' own, and L the loss of the whole batch, the chain rule gives

``dL/dw = sum_p sum_{i in p} dL/de_i de_i/dw = 1/P sum_p d(P L)/dw``, the last through the rows of p alone.

So every process gathers all rows (`gather`) and computes the whole L, with all negatives, soft labels and
lessons, but its gradient flows into its own rows only: that is the inner sum, in which dL/de_i already holds
what row i does as a negative of the other processes' queries. The outer sum is the business of torch's
DistributedDataParallel: it averages the processes' gradients, therefore each descends P L. Batch norm is the
one layer in which rows meet before that; torch can synchronise it on GPUs (`synchronise`). Starting, waiting
and sending are accelerate's.
"""

from __future__ import annotations

import atexit
import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from accelerate import Accelerator, utils
from accelerate.state import AcceleratorState
from jaxtyping import Shaped
from torch import Tensor, nn

from dwclib.errors import ConfigError, DwcError, TrainingError
from dwclib.training.checkpoints import checkpoints


def count() -> int:
    """Return how many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def number() -> int:
    """Return which of them this is; 0 is the main one, which alone writes."""
    return dist.get_rank() if count() > 1 else 0


def accelerator(folder: Path, *, device: str | None = None) -> Accelerator:
    """Join the processes that a launcher started, if there are several, and return accelerate's Accelerator.

    Parameters
    ----------
    folder : for TensorBoard.
    device : "cpu" or "cuda"; a GPU where there is one, by default.

    Raises
    ------
    ConfigError
        When the environment names other processes, and they cannot be joined, or there is no such device.
    """
    if "WORLD_SIZE" not in os.environ:  # accelerate keeps the device of the first run in a process for all
        AcceleratorState._reset_state(reset_partial_state=True)
    # Where there is no GPU, accelerate joins processes only if it is told to use the CPU.
    cpu = device == "cpu" or ("WORLD_SIZE" in os.environ and not torch.cuda.is_available())
    # The graph is the same in each step; editors that an ablation leaves out have no gradient in any.
    same = utils.DistributedDataParallelKwargs(static_graph=True)
    # One process may have to decode and encode a dataset for all.
    wishes = [utils.InitProcessGroupKwargs(timeout=timedelta(hours=3)), same]
    try:
        _tell_that_it_waits()
        found = Accelerator(  # whose own mixed precision a launcher could ask for, beside the recipe's
            cpu=cpu, mixed_precision="no", log_with="tensorboard", project_dir=folder, kwargs_handlers=wishes
        )
    except (ValueError, dist.DistError) as error:
        raise ConfigError(
            f"the other processes cannot be joined ({error})",
            where="WORLD_SIZE",
            remedy="Start all of them by torchrun or accelerate launch; to train on one, unset it.",
        ) from error
    found.state.__dict__ = dict(found.state.__dict__)  # its own: a later run may take another device
    asked = torch.device(device or found.device)
    if asked.type != found.device.type or asked.index not in (None, found.device.index or 0):
        raise ConfigError(
            f"{device!r} was asked for, and accelerate takes {str(found.device)!r}",
            where="device",
            remedy="Use cpu or cuda, or leave it out.",
        )
    return found


def _tell_that_it_waits() -> None:
    others = int(os.environ.get("WORLD_SIZE", "1")) - 1
    if others > 0 and not (dist.is_available() and dist.is_initialized()):
        where = ":".join(os.environ.get(name, "?") for name in ("MASTER_ADDR", "MASTER_PORT"))
        print(
            f"waiting for {others} other processes at {where}; unset WORLD_SIZE to train on one",
            file=sys.stderr,
        )


@atexit.register
def _leave() -> None:
    """Leave the other processes; torch aborts a process that ends without."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def gather(rows: Shaped[Tensor, "own ..."]) -> Shaped[Tensor, "batch ..."]:
    """Return the rows of all processes, in order; only one's own carry a gradient."""
    if count() == 1:
        return rows
    parts = list(utils.gather(rows.detach()).split(len(rows)))
    parts[number()] = rows
    return torch.cat(parts)


def seed(run: int, step: int) -> None:
    """Seed the dropout of one step, in each process its own: stopped and resumed, it is drawn the same."""
    utils.set_seed((run * 1_000_003 + step) * count() % 2**31, device_specific=True)


def synchronise(model: nn.Module) -> None:
    """Let a model's batch norm take its statistics over all processes, in place, where torch can: on GPUs.

    On several processes of CPUs, say that each goes on with the statistics of its own rows.
    """
    if count() == 1 or not any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in model.modules()):
        return
    if next(model.parameters()).is_cuda:
        from timm.layers import convert_sync_batchnorm

        convert_sync_batchnorm(model)
    elif number() == 0:
        warnings.warn(
            "batch norm is synchronised on GPUs only: here each process takes its own rows of a batch",
            stacklevel=2,
        )


@contextmanager
def one_voice(folder: Path) -> Iterator[None]:
    """Let one process tell what ended the training, in one sentence; the others leave without a word.

    Parameters
    ----------
    folder : the run's, from which the training can go on.

    Raises
    ------
    TrainingError
        When another process is gone.
    SystemExit
        When another process has spoken already.
    """
    try:
        yield
    except (DwcError, KeyboardInterrupt, RuntimeError) as error:
        lost = isinstance(error, dist.DistError) or "gloo" in str(error)  # which has no error of its own
        if count() == 1 or (isinstance(error, RuntimeError) and not lost):
            raise
        if not _is_first_to_tell(folder):
            raise SystemExit(130 if isinstance(error, KeyboardInterrupt) else 2) from None
        if not isinstance(error, RuntimeError):
            raise
        reason = re.sub(r"^\[.*?\] ", "", str(error)).split(". ")[0]  # no line of torch's source
        found = checkpoints(folder)
        again = f"goes on from {found[-1].name}" if found else "begins again, there is no checkpoint yet"
        raise TrainingError(
            f"another process of this training is gone ({reason})",
            where=folder,
            remedy=f"See what ended it, and run the same command again: training {again}.",
        ) from error


def _is_first_to_tell(folder: Path) -> bool:
    try:
        return dist.distributed_c10d._get_default_store().add(f"dwclib/told/{folder}", 1) == 1
    except RuntimeError:  # it went with the process that kept it
        return True
