"""The batches of an epoch, read ahead by worker processes where they are asked for (notebook 09)."""

from __future__ import annotations

import multiprocessing
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dwclib.data.vocabulary import without_padding
from dwclib.errors import ConfigError
from dwclib.training import distributed
from dwclib.training.alternate import Batch
from dwclib.training.config import TrainingConfig
from dwclib.training.splits import Split

SHARED_MEMORY = Path("/dev/shm")  # through which workers hand over what they read, where it exists
AHEAD = 2  # batches that each worker reads before they are asked for


def batches(
    split: Split, config: TrainingConfig, *, epoch: int, first: int = 0, pinned: bool = False
) -> Iterator[Batch]:
    """Yield the full batches of an epoch from number `first` on; their order depends on seed and epoch only.

    Parameters
    ----------
    split, config : what to read, and in which way.
    epoch, first : which batches.
    pinned : put them into memory that a GPU can read.

    Raises
    ------
    ConfigError
        When the workers' batches do not fit into the shared memory.
    """
    rng = torch.Generator().manual_seed(config.seed * 1_000_003 + epoch)
    found = _BatchesOf(split, config.batch, config.flip, rng)
    if config.workers:
        _check_shared_memory(found, config.workers)
    loader = DataLoader(
        found,
        batch_size=None,
        sampler=range(first, len(split.dataset) // config.batch),
        num_workers=config.workers,
        prefetch_factor=AHEAD if config.workers else None,
        pin_memory=pinned,
        worker_init_fn=_ignore_interrupts,
        generator=rng,  # so that iterating draws nothing from the global random numbers
    )
    with _interrupts_held_back():
        iterator = iter(loader)
    yield from iterator


class _BatchesOf(Dataset):
    """The batches of one epoch, by their number; of several processes, each reads its slice of every one."""

    def __init__(self, split: Split, batch: int, flip: bool, rng: torch.Generator) -> None:
        self.split, self.batch = split, batch
        self.share = batch // distributed.count()
        self.offset = distributed.number() * self.share
        self.order = torch.randperm(len(split.dataset), generator=rng)
        self.mirror = torch.rand(2, len(self.order), generator=rng) < 0.5 if flip else None
        dataset = split.dataset
        self.references, self.targets = map(torch.from_numpy, (dataset.references, dataset.targets))
        self.identities = torch.from_numpy(dataset.identities[dataset.targets])

    def __getitem__(self, number: int) -> Batch:
        first = number * self.batch + self.offset
        places = slice(first, first + self.share)
        rows = self.order[places]
        mirror = None if self.mirror is None else self.mirror[:, places]
        return Batch(
            references=self._images(self.references[rows], None if mirror is None else mirror[0]),
            targets=self._images(self.targets[rows], None if mirror is None else mirror[1]),
            texts={name: without_padding(part.texts[rows]) for name, part in self.split.inputs.items()},
            identities=self.identities[rows],
            mirror=mirror,
        )

    def _images(self, images: Tensor, mirror: Tensor | None) -> dict[str, Tensor]:
        found = {name: part.images[images] for name, part in self.split.inputs.items()}
        for name, part in self.split.inputs.items():
            if mirror is not None and part.mirrored is not None:
                found[name] = torch.where(mirror[:, None], part.mirrored[images], found[name])
        return found


def _check_shared_memory(found: _BatchesOf, workers: int) -> None:
    """Compare what the workers need with what there is: torch waits for ever for a worker that ran out."""
    if not SHARED_MEMORY.is_dir():
        return
    batch = found[0]
    parts = [*batch.references.values(), *batch.targets.values(), *batch.texts.values()]
    need = workers * AHEAD * sum(part.nbytes for part in parts)
    if multiprocessing.get_start_method() != "fork":  # then they are handed the dataset, too
        inputs = found.split.inputs.values()
        need += sum(part.nbytes for features in inputs for part in features if part is not None)
    free = shutil.disk_usage(SHARED_MEMORY).free
    if need > free:
        raise ConfigError(
            f"{workers} workers need {need / 1e6:,.1f} MB in {SHARED_MEMORY}, which has {free / 1e6:,.1f}",
            where="training.workers",
            remedy="Use workers: 0, or give the container more (docker run --shm-size=2g).",
        )


def _ignore_interrupts(worker: int) -> None:
    """Leave Ctrl-C to the main process, which takes the step to its end and saves."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Let processes that begin meanwhile never see Ctrl-C, and this one a little later.

    A worker that does not begin as a copy of this process imports torch first, for seconds.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
