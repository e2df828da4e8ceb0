"""Losses and recalls of a run, on their way to CSV, TensorBoard and bar (notebook 09)."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from dwclib.errors import CheckpointError, TrainingError
from dwclib.files import atomic

if TYPE_CHECKING:
    from dwclib.training.runs import Run

KEYS = {"log.csv": "step", "recall.csv": "epoch"}  # the column by which a table's rows are in order


class Logbook:
    """What a training writes down; a loss that is not finite stops here.

    Parameters
    ----------
    run : whose training it is; only the main process writes.
    step : after which the training goes on. Rows of later steps, which no checkpoint knows of, are forgotten.
    last : the step at which the bar ends.
    progress : show the bar.
    """

    def __init__(self, run: Run, *, step: int, last: int, progress: bool) -> None:
        self.run, self.step, self.writes = run, step, run.accelerator.is_main_process
        self.losses: list[Mapping[str, Tensor]] = []
        limits = {"log.csv": step, "recall.csv": step // run.steps_per_epoch}
        for name, limit in limits.items():
            if self.writes and (path := run.folder / name).exists():
                rows, key = read_table(path), KEYS[name]
                known = (rows[key] <= limit) & (rows[key] >= rows[key].cummax())  # a number cut short is less
                with atomic(path) as target:
                    rows[known].to_csv(target, index=False)
        run.accelerator.init_trackers("tensorboard")
        hidden = not (progress and self.writes)
        self.bar = tqdm(total=last, initial=step, disable=hidden, desc="train", unit="step")
        self.shown: dict[str, str] = {}
        self.clock = time.perf_counter()

    def add(self, losses: Mapping[str, Tensor]) -> None:
        """Keep the losses of a step; they stay on the device until the next `flush`."""
        self.losses.append(losses)
        self.bar.update()

    def flush(self) -> None:
        """Write the losses since the last flush, and check them.

        Raises
        ------
        TrainingError
            When one is not finite.
        """
        if not self.losses:
            return
        names = list(self.losses[0])
        values = torch.stack([row[name] for row in self.losses for name in names]).cpu()
        table = values.reshape(len(self.losses), len(names)).double().numpy()
        self._check(table, names)
        seconds, self.clock = time.perf_counter() - self.clock, time.perf_counter()
        speed = 2 * self.run.config.training.batch * len(table) / seconds
        rows = pd.DataFrame(table, columns=[f"loss_{name}" for name in names])
        rows.insert(0, "step", np.arange(self.step + 1, self.step + 1 + len(rows)))
        rows["pictures_per_second"] = round(speed, 1)
        self._append("log.csv", rows)
        for row in rows.to_dict("records"):
            self.run.accelerator.log({k: v for k, v in row.items() if k != "step"}, step=row["step"])
        self.step, self.losses = int(rows["step"].iloc[-1]), []
        self.shown |= {name: f"{table[-1, i]:.2f}" for i, name in enumerate(names)}
        self.shown["pictures/s"] = f"{speed:.0f}"
        self.bar.set_postfix(self.shown)

    def recall(self, epoch: int, split: str, found: Mapping[str, Mapping[int, float]]) -> None:
        """Write the recalls of a split after an epoch."""
        rows: list[dict[str, Any]] = [
            {"epoch": epoch, "split": split, "stream": name, **{f"R@{k}": v for k, v in r.items()}}
            for name, r in found.items()
        ]
        self._append("recall.csv", pd.DataFrame(rows))
        values = {
            f"{split} {row['stream']} {k}": v for row in rows for k, v in row.items() if k.startswith("R@")
        }
        self.run.accelerator.log(values, step=self.step)
        self.shown |= {name: f"{value:.1f}" for name, value in rows[-1].items() if name == "R@10"}
        self.bar.set_postfix(self.shown)

    def close(self) -> None:
        """End the bar and TensorBoard's file."""
        self.bar.close()
        for tracker in self.run.accelerator.trackers:  # its `end_training` ends the processes' connection too
            tracker.finish()

    def _append(self, name: str, rows: pd.DataFrame) -> None:
        if self.writes:
            path = self.run.folder / name
            rows.to_csv(path, mode="a", header=not path.exists(), index=False)

    def _check(self, table: np.ndarray, names: Sequence[str]) -> None:
        for row, column in np.argwhere(~np.isfinite(table)):
            loss, step = table[row, column], self.step + row + 1
            raise TrainingError(
                f"the loss of the {names[column]} stream is {loss} at step {step}",
                where=self.run.folder,
                remedy="Lower its learning rate and start in a new folder; the last checkpoint is older.",
            )


def read_table(path: Path) -> pd.DataFrame:
    """Read ``log.csv`` or ``recall.csv``.

    Raises
    ------
    CheckpointError
        When it is missing or damaged.
    """
    try:
        key = KEYS[path.name]
        rows = pd.read_csv(path, float_precision="round_trip", dtype={key: "int64"})
        if key not in rows:
            raise ValueError(f"it has no column {key!r}")
        return rows
    except (OSError, ValueError, OverflowError) as error:
        raise CheckpointError(
            f"the table cannot be read ({error})",
            where=path,
            remedy="Train on, if it is not there yet; remove it, if it is damaged: training goes on without.",
        ) from error
