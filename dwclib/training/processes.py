"""Training on several processes: what they tell each other, so that together they take one process's step.

Each process holds the whole model and reads its slice of every batch. With the rows e_i of the batch cut into
the processes' own, and L the loss of the whole batch, the chain rule gives

``dL/dw = sum_p sum_{i in p} dL/de_i de_i/dw``.

So every process gathers all rows (`gather`) and computes the whole L, with all negatives, soft labels and
lessons, but its gradient flows into its own rows only: that is the inner sum, in which dL/de_i already holds
what row i does as a negative of the other processes' queries. `sum_gradients` is the outer sum, with a factor
of one. Batch norm is the one layer in which rows meet before that; `synchronise` lets its statistics, and
their gradients, be those of the whole batch.
"""

from __future__ import annotations

import atexit
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import lru_cache
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn import functional

from dwclib.errors import ConfigError, DwcError, TrainingError
from dwclib.training.checkpoints import checkpoints

# Messages of fewer bytes go over `_wires`. Each fits into the system's buffer of a connection, whose reader
# has read all before it: so no two processes wait for each other to read.
WIRED = 32_768 if sys.platform == "linux" else 8_000
PATIENT = timedelta(days=7)  # of the start, in which one process may have to decode a dataset for all


class LostError(Exception):
    """Another process of this training does not answer any more."""


def count() -> int:
    """Return how many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def number() -> int:
    """Return which of them this is; 0 is the main one, which alone writes."""
    return dist.get_rank() if count() > 1 else 0


def timeout() -> timedelta:
    """Return how long to wait for a process that does not answer: ``$DWC_TIMEOUT`` seconds, 60 by default.

    Raises
    ------
    ConfigError
        When it is no positive number.
    """
    text = os.environ.get("DWC_TIMEOUT", "60")
    try:
        if float(text) > 0:
            return timedelta(seconds=float(text))
    except (ValueError, OverflowError):
        pass
    raise ConfigError(
        f"{text!r} is no number of seconds", where="DWC_TIMEOUT", remedy="Use 60, or more for a slow network."
    )


def accelerator(folder: Path, *, device: str | None = None) -> Any:
    """Join the processes that a launcher started, if there are several, and return accelerate's Accelerator.

    Parameters
    ----------
    folder : for TensorBoard.
    device : "cpu" or "cuda"; a GPU where there is one, by default.
    """
    from accelerate import Accelerator
    from accelerate.utils import InitProcessGroupKwargs

    # Where there is no GPU, accelerate joins processes only if it is told to use the CPU.
    cpu = device == "cpu" or ("WORLD_SIZE" in os.environ and not torch.cuda.is_available())
    patience = InitProcessGroupKwargs(timeout=timeout())
    with _connected(dist.DistError):
        found = Accelerator(cpu=cpu, log_with="tensorboard", project_dir=folder, kwargs_handlers=[patience])
    if count() > 1:
        atexit.register(_leave)
    return found


def gather(rows: Shaped[Tensor, "own ..."]) -> Shaped[Tensor, "batch ..."]:
    """Return the rows of all processes, in order; only one's own carry a gradient."""
    if count() == 1:
        return rows
    found, own = rows.new_empty((count() * len(rows), *rows.shape[1:])), rows.detach().contiguous()
    if own.nbytes < WIRED and _are_neighbours():
        _pass_around(own, found)
    else:
        with _connected():
            dist.all_gather_into_tensor(found, own)
    parts = list(found.split(len(rows)))
    parts[number()] = rows
    return torch.cat(parts)


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace each gradient by its sum over the processes, all in one message."""
    if count() == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    with _connected():
        dist.all_reduce(flat)
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view(gradient.shape))


def any_of(flag: bool, device: torch.device) -> bool:
    """Return whether the flag is true in any process."""
    return bool(gather(torch.tensor([flag], device=device)).any())


def wait() -> None:
    """Wait until every process is here."""
    if count() > 1:
        with _connected():
            dist.barrier()


@contextmanager
def first_here(place: int) -> Iterator[None]:
    """Let one process of each machine go first: it fills the caches, and the others read them.

    Parameters
    ----------
    place : this process's number on its machine; 0 goes first.
    """
    if count() == 1:
        yield
        return
    with _connected():
        group = cast(dist.ProcessGroup, dist.new_group(backend="gloo", timeout=PATIENT))
        if place != 0:
            dist.barrier(group)
    yield
    with _connected():
        if place == 0:
            dist.barrier(group)
        dist.barrier(group)  # reading takes a while, too
        dist.destroy_process_group(group)


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
    except (DwcError, KeyboardInterrupt, LostError) as error:
        if not _is_first_to_tell(folder):
            raise SystemExit(130 if isinstance(error, KeyboardInterrupt) else 2) from None
        if not isinstance(error, LostError):
            raise
        found = checkpoints(folder)
        again = f"goes on from {found[-1].name}" if found else "begins again, there is no checkpoint yet"
        raise TrainingError(
            f"another process of this training is gone ({error})",
            where=folder,
            remedy=f"See what ended it, and run the same command again: training {again}.",
        ) from error


def seed(run: int, step: int) -> None:
    """Seed the dropout of one step, in each process its own: stopped and resumed, it is drawn the same."""
    drawn = np.random.SeedSequence([run, step, count(), number()]).generate_state(1, np.uint64)
    torch.manual_seed(int(drawn[0]))


def synchronise(model: nn.Module) -> None:
    """Let a model's batch norm take its statistics over all processes; with one process, change nothing.

    Parameters
    ----------
    model : is changed in place, on its device; its parameters stay, and their names. A GPU gets torch's own
        synchronised layers, which exist for GPUs only.

    Raises
    ------
    ConfigError
        On a CPU, for a kind of batch norm of which no synchronised one exists.
    """
    if count() == 1:
        return
    if next(model.parameters()).is_cuda:
        from timm.layers import convert_sync_batchnorm

        convert_sync_batchnorm(model)
        return
    for layer in model.modules():
        if type(layer) in (nn.BatchNorm1d, nn.BatchNorm2d):
            layer.__class__ = BatchNorm
        elif isinstance(layer, nn.modules.batchnorm._BatchNorm):
            raise ConfigError(
                f"{type(layer).__name__} cannot be synchronised between processes on CPUs",
                where="model.cnn",
                remedy="Train on one process, on GPUs, or with a ResNet.",
            )


class BatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm over the batches of all processes, which are of one size; on a CPU."""

    def forward(self, input: Float[Tensor, "batch channels ..."]) -> Float[Tensor, "batch channels ..."]:
        """Normalise; in training mode by the mean and variance of the whole batch."""
        if not self.training:
            return super().forward(input)
        y, mean, variance = cast(
            tuple[Tensor, Tensor, Tensor], _Normalise.apply(input.float(), self.weight, self.bias, self.eps)
        )
        seen = count() * input.numel() / input.shape[1]
        rate = cast(float, self.momentum)
        with torch.no_grad():
            cast(Tensor, self.num_batches_tracked).add_(1)
            cast(Tensor, self.running_mean).lerp_(mean, rate)
            cast(Tensor, self.running_var).lerp_(variance * (seen / (seen - 1)), rate)
        return y

    def _check_input_dim(self, input: Tensor) -> None:
        """Take maps and sequences."""


class _Normalise(torch.autograd.Function):
    """``y = (x - m) / sqrt(v + eps) w + b``, with m and v, and the gradients' means, over all processes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, ...]:
        means, variances = gather(
            torch.stack(torch.batch_norm_update_stats(x, None, None, 0.0))[None]
        ).unbind(1)
        mean = means.mean(0)  # (processes, C) -> (C,)
        variance = (variances + (means - mean).square()).mean(0)
        ctx.save_for_backward(x, weight, mean, (variance + eps).rsqrt())
        ctx.mark_non_differentiable(mean, variance)
        return functional.batch_norm(x, mean, variance, weight, bias, eps=eps), mean, variance

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Let torch compute the gradient with the means of this process, then put in those of all.

        ``dx = w s (dy - mean(dy) - xhat mean(dy xhat))`` with ``xhat = s (x - m)``: the two kinds of means
        differ by a line in x. (Written out, it takes several times as long as torch's own loop and a line.)
        """
        x, weight, mean, scale = ctx.saved_tensors
        dx, dw, db = torch.ops.aten.native_batch_norm_backward(
            gradients[0], x, weight, None, None, mean, scale, True, 0.0, [True, True, True]
        )
        own = torch.stack([db, dw]) * (x.shape[1] / x.numel())  # means of dy and dy xhat, (2, C)
        everyones = gather(own[None]).mean(0)
        of_dy, of_dy_xhat = (own - everyones) * weight * scale
        slope = of_dy_xhat * scale
        places = (1, -1) + (1,) * (x.dim() - 2)
        line = torch.addcmul(dx, x, slope.view(places)).add_((of_dy - mean * slope).view(places))
        return line, dw, db, None


def _are_neighbours() -> bool:
    return dist.get_backend() == "gloo" and os.environ.get("LOCAL_WORLD_SIZE") == str(count())


@lru_cache(maxsize=1)
def _wires() -> dict[int, Connection]:
    """Connect each process of this machine to each other: number -> connection.

    Batch norm sends a few numbers a hundred times a step. Gloo hands them from thread to thread, and while
    the cores compute, a thread waits for its turn: two processes were slower than one.
    """
    addresses: list[Any] = [None] * count()
    with Listener() as listener:
        with _connected():
            dist.all_gather_object(addresses, listener.address)
        wires = {other: Client(address) for other, address in enumerate(addresses[: number()])}
        for wire in wires.values():
            wire.send(number())
        for _ in range(number() + 1, count()):
            wire = listener.accept()
            wires[wire.recv()] = wire
    return wires


def _pass_around(own: Tensor, found: Tensor) -> None:
    """Send this process's rows to all others, and put theirs into `found`, in order."""
    parts = found.split(len(own))
    parts[number()].copy_(own)
    try:
        for wire in _wires().values():
            wire.send_bytes(_bytes(own))
        for other, wire in _wires().items():
            if not wire.poll(timeout().total_seconds()):
                raise TimeoutError("Timed out waiting for its numbers")
            wire.recv_bytes_into(_bytes(parts[other]))
    except (OSError, EOFError) as error:
        raise LostError(str(error) or "Connection closed") from error


def _bytes(rows: Tensor) -> Any:
    """Return the memory of contiguous rows, to be read or written."""
    return rows.view(-1).view(torch.uint8).numpy()


@contextmanager
def _connected(kind: type[Exception] = RuntimeError) -> Iterator[None]:
    """Tell a lost connection from other errors, which torch does not."""
    try:
        yield
    except kind as error:
        reason = str(error).splitlines()[0]
        raise LostError(
            re.sub(r"^\[.*?\] ", "", reason).split(". ")[0]
        ) from error  # no line of torch's source


def _is_first_to_tell(folder: Path) -> bool:
    if count() == 1:
        return True
    try:
        store = dist.distributed_c10d._get_default_store()
        return store.add(f"dwclib/told/{folder}", 1) == 1
    except RuntimeError:  # it went with the process that kept it
        return True


def _leave() -> None:
    """End the connection: torch aborts a process that ends without."""
    if dist.is_initialized():
        dist.destroy_process_group()
