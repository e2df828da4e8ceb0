"""Runs: a training in a folder, which stops at any step and goes on as if it had not (notebook 09).

The folder holds ``config.json``, ``vocabulary.json``, a row per step in ``log.csv``, a row per epoch and
stream in ``recall.csv``, TensorBoard's events, and the checkpoints that matter: the best and the last two.
Several processes that a launcher started train one model; only the main one writes (notebook 15).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import UInt8

from dwclib.code import code_of
from dwclib.data.triplets import Triplets
from dwclib.encoders import BOOK_CLIP, BOOK_CNN, Features
from dwclib.errors import CheckpointError, ConfigError
from dwclib.files import DATA, atomic, cache_folder, check_writable, fingerprint, read_json
from dwclib.training import distributed
from dwclib.training.checkpoints import (
    check_same,
    checkpoints,
    load_checkpoint,
    load_model,
    look_into,
    name_of,
    save_checkpoint,
    step_of,
)
from dwclib.training.config import Config, parse_config
from dwclib.training.course import Course, alone, interrupts, position_at
from dwclib.training.embedding import Embedded, embed
from dwclib.training.evaluation import recalls_of
from dwclib.training.logbook import read_table
from dwclib.training.model import build_model
from dwclib.training.single import check_device
from dwclib.training.splits import TRIPLETS, Split, inputs_of, load_splits, read

SHIPPED = DATA / "runs"  # trained runs that come with the book, without what training on would take


class Run:
    """A training, its folder, and the model in it.

    Parameters
    ----------
    config : all choices; the same folder must always be given the same ones, of those that change numbers.
        More epochs go on.
    folder : is made when it is not there.
    device : "cpu" or "cuda"; a GPU where there is one, by default.

    Attributes
    ----------
    training, validation, evaluation : the splits. Validation is held out of the training triplets, and
        chooses the checkpoint; nothing is chosen on the evaluation split unless the configuration says so.
    vocabulary : the words of the training texts.
    model : the streams.

    Raises
    ------
    ConfigError
        When the folder belongs to another configuration or cannot be written to, the machine has not what is
        asked for, or the processes cannot share a batch.
    TrainingError
        When another process of this training is gone.
    """

    def __init__(self, config: Config, folder: Path | str, *, device: str | None = None) -> None:
        self.config, self.folder = config.resolved(), Path(folder)
        self.restored, self.is_best = 0, False  # the step of the checkpoint in the model
        with distributed.one_voice(self.folder):
            _check_machine(config, device)
            self.accelerator = distributed.accelerator(self.folder, device=device)
            self._check_shares()
            if found := checkpoints(self.folder):
                check_same(look_into(found[-1], "identity"), self.config.choices(), self.folder)
            elif self.accelerator.is_main_process:  # a run may be read where nothing can be written
                check_writable(self.folder)
            with self.accelerator.local_main_process_first():
                self.vocabulary, self.training, self.validation, self.evaluation, self.identity = load_splits(
                    self.config, str(self.accelerator.device)
                )
                self.model = build_model(self.config, self.training.inputs, len(self.vocabulary))
                distributed.synchronise(self.model.to(self.accelerator.device))
        self.steps_per_epoch = len(self.training.dataset) // config.training.batch
        self.steps = self.steps_per_epoch * config.training.epochs

    def train(self, *, stop_after: int | None = None, progress: bool = True, patient: bool = False) -> Run:
        """Train to the end, from the last checkpoint on; leave the best checkpoint's weights in the model.

        Parameters
        ----------
        stop_after : stop, with a checkpoint, after so many steps of the whole training.
        progress : show a bar with losses, recall and pictures per second.
        patient : wait while another process trains in this folder, and take over what it made.

        Raises
        ------
        CheckpointError
            When the last checkpoint is damaged, or the data is not what it was trained on.
        TrainingError
            When a loss is not finite, another training uses this folder, or a process of this one is gone.
        KeyboardInterrupt
            After Ctrl-C, once the step is finished and saved.
        """
        with distributed.one_voice(self.folder), alone(self, patient=patient), interrupts() as interrupted:
            course = Course(self)
            self._describe()
            course.go(min(self.steps, stop_after or self.steps), interrupted, progress=progress)
        return self.restore("best" if self.is_finished else "last")

    @property
    def is_finished(self) -> bool:
        """Whether the last step has been taken."""
        return bool(found := checkpoints(self.folder)) and step_of(found[-1]) == self.steps

    @property
    def log(self) -> pd.DataFrame:
        """The losses, one row a step."""
        return read_table(self.folder / "log.csv")

    @property
    def recalls(self) -> pd.DataFrame:
        """Recall@K of the split that chooses the checkpoint, one row an epoch and stream."""
        table = self.curves
        return table[table["split"] == self.config.training.select_on].reset_index(drop=True)

    @property
    def curves(self) -> pd.DataFrame:
        """Recall@K of the watched splits and of the one that chooses, one row an epoch, split and stream."""
        return read_table(self.folder / "recall.csv")

    def restore(self, which: str = "best") -> Run:
        """Load the weights of the "best" or the "last" checkpoint.

        Raises
        ------
        CheckpointError
            When there is none, or it is damaged, of another architecture, or was trained on other words.
        """
        found = checkpoints(self.folder)
        if not found:
            raise CheckpointError("there is no checkpoint", where=self.folder, remedy="Train first.")
        best = position_at(found[-1])["best"]
        chosen = self.folder / name_of(best) if which == "best" and best else found[-1]
        words = {key: value for key, value in self.identity.items() if key != TRIPLETS}
        check_same(look_into(chosen, "identity"), words, chosen)
        load_model(self.model, load_checkpoint(chosen, "model")["model"], chosen)
        self.model.eval()
        self.restored, self.is_best = step_of(chosen), which == "best" and best > 0
        return self

    def publish(self, folder: Path) -> None:
        """Write what `open_run` needs of the best checkpoint, and the tables, to a folder: no optimiser."""
        best = self.folder / name_of(position_at(checkpoints(self.folder)[-1])["best"])
        state = load_checkpoint(best, "model", "position", "identity")
        state["position"] |= {"best": step_of(best)}
        folder.mkdir(parents=True)
        for name in ("config.json", "vocabulary.json", "log.csv", "recall.csv"):
            shutil.copy(self.folder / name, folder)
        save_checkpoint(folder / best.name, state)

    def embedded(self, split: Split | None = None) -> dict[str, Embedded]:
        """Return every stream's queries, weights and gallery for a split; the evaluation split by default."""
        split = split or self.evaluation
        return {
            name: embed(self.model[name], split.inputs[name], split.dataset) for name in self.model.streams
        }

    def recall(
        self,
        split: Split | None = None,
        *,
        ks: tuple[int, ...] | None = None,
        exclude_reference: bool | None = None,
    ) -> dict[str, dict[int, float]]:
        """Return Recall@K, in per cent, of each stream, and of "both" where there are two."""
        split = split or self.evaluation
        return recalls_of(self.embedded(split), split.dataset, ks=ks, exclude_reference=exclude_reference)

    def standing(self) -> str:
        """Say on how many queries the recalls stand."""
        return self.evaluation.dataset.standing()

    def chosen(self) -> str:
        """Say after which epoch the model's weights were saved, and why it is this one."""
        if not self.restored:
            return "untrained"
        epoch, rest = divmod(self.restored, self.steps_per_epoch)
        when = f"step {self.restored}, within epoch {epoch + 1}" if rest else f"epoch {epoch}"
        reason = f"chosen on {self.config.training.select_on} queries" if self.is_best else "the last"
        return f"{when} of {self.config.training.epochs}, {reason}"

    def split_of(self, dataset: Triplets) -> Split:
        """Return a dataset beside what the streams read of it, such as queries in other words."""
        return Split(dataset, inputs_of(self.config, dataset, self.vocabulary, str(self.accelerator.device)))

    def read(self, pictures: UInt8[np.ndarray, "images h w 3"], texts: Sequence[str]) -> dict[str, Features]:
        """Return what each stream reads of pictures and texts that stand in no dataset."""
        return read(self.config.model, self.vocabulary, pictures, texts, str(self.accelerator.device))

    def _describe(self) -> None:
        """Write down what the run is, once all of it has been loaded and agrees with its checkpoints."""
        if self.accelerator.is_main_process:
            words = list(self.vocabulary.words)
            for name, content in (("config", self.config.model_dump()), ("vocabulary", words)):
                with atomic(self.folder / f"{name}.json") as target:
                    target.write_text(json.dumps(content, indent=1), encoding="utf-8")

    def _check_shares(self) -> None:
        batch, processes = self.config.training.batch, distributed.count()
        if batch % processes:
            raise ConfigError(
                f"a batch of {batch} triplets cannot be shared by {processes} processes",
                where="training.batch",
                remedy=f"Use a multiple of {processes}.",
            )


def open_run(
    folder: Path | str,
    *,
    data: Path | str | None = None,
    missing: str | None = None,
    device: str | None = None,
) -> Run:
    """Open a run that was trained before, with the weights of its best checkpoint.

    Parameters
    ----------
    folder, device : as `Run` takes them.
    data : where the real dataset lies, if no longer where it was.
    missing : what to do where its photos are missing, if not what the training did: "refuse" or "drop".

    Raises
    ------
    ConfigError
        When the folder holds no run.
    """
    path = Path(folder) / "config.json"
    if not path.exists():
        raise ConfigError("there is no run", where=folder, remedy="Name a folder that 'train' wrote.")
    config = parse_config(read_json(path), str(path))
    asked = {"root": str(data) if data else None, "missing": missing}
    config = config.but(data={key: value for key, value in asked.items() if value})
    return Run(config, folder, device=device).restore()


def shared_run(config: Config, *, device: str | None = None, progress: bool = True) -> Run:
    """Return a trained run of this configuration: of the book, of the cache, or trained now and kept there.

    Parameters
    ----------
    config, device : as `Run` takes them.
    progress : show a bar while training.

    The folder's name changes with the configuration and with everything that training depends on: the code,
    torch, the pre-trained weights, and the kind of device. Of two programs that want the same run at the same
    time, one trains it and the other waits.
    """
    for folder in sorted(SHIPPED.glob("*/config.json")):
        shipped = parse_config(read_json(folder), str(folder))
        if shipped.choices() == config.choices() and shipped.training.epochs == config.training.epochs:
            return open_run(folder.parent, device=device)
    accelerated = device != "cpu" and torch.cuda.is_available()
    weights = sorted(path for folder in (BOOK_CLIP, BOOK_CNN) for path in folder.iterdir())
    described = config.resolved().model_dump()
    code = code_of("dwclib.training.runs")
    key = fingerprint(described, torch.__version__, accelerated, *code, *weights)
    run = Run(config, cache_folder("runs") / key, device=device)
    return run.train(progress=progress, patient=True)


def _check_machine(config: Config, device: str | None) -> None:
    """Check what is asked of the machine before anything is loaded."""
    check_device(device)
    on_cpu = device == "cpu" or not torch.cuda.is_available()
    if config.training.precision == "fp16" and on_cpu:
        raise ConfigError(
            "fp16 needs a GPU", where="training.precision", remedy="Use auto, bf16 or float32 on a CPU."
        )
