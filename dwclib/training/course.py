"""The course of a training: step after step from the last checkpoint on, to the end or to Ctrl-C (09)."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from dwclib.errors import ConfigError, TrainingError
from dwclib.training import distributed
from dwclib.training.alternate import AlternateTraining
from dwclib.training.batches import batches
from dwclib.training.checkpoints import (
    check_form,
    check_same,
    checkpoints,
    load_checkpoint,
    load_model,
    load_training,
    look_into,
    name_of,
    prune,
    random_states,
    save_checkpoint,
    set_random_states,
    step_of,
)
from dwclib.training.evaluation import criterion, recalls_of
from dwclib.training.logbook import Logbook
from dwclib.training.single import seed_everything

if TYPE_CHECKING:
    from dwclib.training.runs import Run
    from dwclib.training.splits import Split

TENSORS = ("model", "training", "random")  # the parts of a checkpoint that hold some
BEGINNING = {"step": 0, "best": 0, "score": -1.0, "finer": -1.0}  # the best checkpoint's step and criterion


class Course:
    """The steps of a run.

    Parameters
    ----------
    run : what is trained; its model takes up the last checkpoint, if there is one.

    Raises
    ------
    CheckpointError
        When the last checkpoint is damaged, or was trained on other data.
    ConfigError
        When it was trained by another configuration, or for more epochs.
    TrainingError
        When the processes do not read the same checkpoints.
    """

    def __init__(self, run: Run) -> None:
        self.run, self.config = run, run.config.training
        seed_everything(self.config.seed)
        prepare = run.accelerator.prepare_model
        self.trainer = AlternateTraining(run.model, self.config, steps=run.steps, prepare=prepare)
        self.identity = {**run.config.choices(), **run.identity}
        self.position: dict[str, Any] = dict(BEGINNING)
        found = checkpoints(run.folder)
        self._check_sight(step_of(found[-1]) if found else 0)
        if found:
            self._take_up(found[-1])

    def go(self, last: int, interrupted: threading.Event, *, progress: bool) -> None:
        """Train until a step, and save; stop after the present step when `interrupted` is set.

        Raises
        ------
        KeyboardInterrupt
            When it was set, once all is saved.
        """
        if self.position["step"] >= last:
            return
        with closing(Logbook(self.run, step=self.position["step"], last=last, progress=progress)) as logbook:
            while not self._epoch(last, interrupted, logbook):
                pass
        self.run.accelerator.wait_for_everyone()  # for the main process to write the last checkpoint
        if interrupted.is_set():
            raise KeyboardInterrupt(f"saved after step {self.position['step']}; run again to go on")

    def _epoch(self, last: int, interrupted: threading.Event, logbook: Logbook) -> bool:
        """Take the steps that are left of an epoch, and tell whether to stop."""
        run, config, device = self.run, self.config, self.run.accelerator.device
        epoch, first = divmod(self.position["step"], run.steps_per_epoch)
        pinned = device.type == "cuda"
        for batch in batches(run.training, config, epoch=epoch, first=first, pinned=pinned):
            if distributed.count() > 1:
                distributed.seed(config.seed, self.position["step"])
            logbook.add(self.trainer.step(batch.to(device)))
            self.position["step"] = step = self.position["step"] + 1
            stopping = step == last or self._must_stop(interrupted)
            epoch_over = step % run.steps_per_epoch == 0
            saving = stopping or epoch_over or step % config.checkpoint_every == 0
            if saving or step % config.log_every == 0:
                logbook.flush()
            if epoch_over:
                self._validate(logbook)
            if saving:
                self._save()
            if stopping:
                return True
        return False

    def _must_stop(self, interrupted: threading.Event) -> bool:
        """Whether Ctrl-C was pressed; several processes agree, when they are waited for anyway."""
        if distributed.count() > 1:
            if self.position["step"] % self.config.log_every:
                return False
            flag = torch.tensor([interrupted.is_set()], device=self.run.accelerator.device)
            if distributed.gather(flag).any():
                interrupted.set()
        return interrupted.is_set()

    def _validate(self, logbook: Logbook) -> None:
        run, step, chooses = self.run, self.position["step"], self.config.select_on
        for name in dict.fromkeys([*self.config.watched, chooses]):  # the bar shows the last one
            split: Split = getattr(run, name)
            embedded = run.embedded(split)
            if name == chooses:
                score, finer = criterion(embedded, split.dataset)
                if (score, finer) > (self.position["score"], self.position["finer"]):
                    self.position |= {"score": score, "finer": finer, "best": step}
            logbook.recall(step // run.steps_per_epoch, name, recalls_of(embedded, split.dataset))

    def _save(self) -> None:
        run = self.run
        if run.accelerator.is_main_process:
            state = {
                "model": run.model.state_dict(),
                "training": self.trainer.state_dict(),
                "random": random_states(),
                "position": self.position,
                "identity": self.identity,
            }
            save_checkpoint(run.folder / name_of(self.position["step"]), state)
            prune(run.folder, {name_of(self.position["best"])})

    def _take_up(self, checkpoint: Path) -> None:
        run, state = self.run, load_checkpoint(checkpoint, *TENSORS)
        check_same(look_into(checkpoint, "identity"), self.identity, run.folder)
        self.position = position_at(checkpoint)
        if self.position["step"] > run.steps:
            raise ConfigError(
                f"training.epochs is {self.config.epochs}, and more are trained ({checkpoint.name})",
                where=run.folder,
                remedy="Ask for as many or more, or name a new folder.",
            )
        load_model(run.model, state["model"], checkpoint)
        load_training(self.trainer, state["training"], checkpoint)
        set_random_states(state["random"], checkpoint)

    def _check_sight(self, step: int) -> None:
        """Check that the processes on all machines read the same checkpoint."""
        steps = distributed.gather(torch.tensor([step], device=self.run.accelerator.device))
        if len(steps.unique()) > 1:
            raise TrainingError(
                f"its last checkpoint is from step {max(steps)} on one machine and {min(steps)} on another",
                where=self.run.folder,
                remedy="Name a folder that all machines share.",
            )


def position_at(checkpoint: Path) -> dict[str, Any]:
    """Return where in the training a checkpoint stands, and which one was the best until then."""
    position = look_into(checkpoint, "position")
    check_form(position, BEGINNING, checkpoint, "position")
    return position | {"step": step_of(checkpoint)}


@contextmanager
def alone(run: Run, *, patient: bool) -> Iterator[None]:
    """Keep other trainings out of the folder; of several processes, the main one does it for all."""
    from filelock import FileLock, Timeout

    lock = FileLock(run.folder / ".lock")
    try:
        if run.accelerator.is_main_process:
            lock.acquire(timeout=0)
    except Timeout as error:
        if not patient:
            raise TrainingError(
                "another process trains in this folder",
                where=run.folder,
                remedy="Wait for it, or name another folder.",
            ) from error
        print(f"{run.folder}: another process trains this run; waiting for it", file=sys.stderr)
        lock.acquire()
    try:
        run.accelerator.wait_for_everyone()
        yield
    finally:
        lock.release()


@contextmanager
def interrupts() -> Iterator[threading.Event]:
    """Turn Ctrl-C into an event that is looked at between steps.

    The launcher of several processes ends them by SIGTERM, also when one of them is gone.
    """
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    numbers = [signal.SIGINT] if distributed.count() == 1 else [signal.SIGINT, signal.SIGTERM]
    before = {number: signal.signal(number, lambda *_: event.set()) for number in numbers}
    try:
        yield event
    except RuntimeError:
        before.pop(signal.SIGTERM, None)  # which comes if a process is gone: there must be time to tell why
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
