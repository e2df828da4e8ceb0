"""Runs: a training in a folder, which stops at any step and goes on as if it had not (notebook 09).

The folder holds ``config.json``, ``vocabulary.json``, a row per step in ``log.csv``, a row per epoch and
stream in ``recall.csv``, TensorBoard's events, and the checkpoints that matter: the best and the last two.
Several processes that a launcher started train one model; only the main one writes (notebook 15).
"""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from dwclib.data.datasets import load_data
from dwclib.data.triplets import Triplets, subset
from dwclib.data.vocabulary import Vocabulary
from dwclib.encoders import BOOK_CLIP, BOOK_CNN, Clip, Features, ResNet, features_of
from dwclib.errors import CheckpointError, ConfigError, TrainingError
from dwclib.files import atomic, cache_folder, code_of, fingerprint
from dwclib.retrieval import first_hit_ranks, subset_ranks, target_ranks
from dwclib.streams import DWC, ClipStream, CnnStream, Composer
from dwclib.training import processes as distributed
from dwclib.training.alternate import AlternateTraining, Batch
from dwclib.training.checkpoints import (
    checkpoints,
    load_checkpoint,
    load_model,
    prune,
    random_states,
    save_checkpoint,
    set_random_states,
)
from dwclib.training.composer import Embedded, embed, seed_everything
from dwclib.training.config import Config, ModelConfig, parse_config

Inputs = Mapping[str, Features]  # what each stream reads of a dataset
SUBSET_KS = (1, 2, 3)  # CIRR's


class Split(NamedTuple):
    """Triplets, and what the streams read of them."""

    dataset: Triplets
    inputs: Inputs


class Run:
    """A training, its folder, and the model in it.

    Parameters
    ----------
    config : all choices; the same folder must always be given the same ones.
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
        When the folder belongs to another configuration, or the processes cannot share a batch.
    CheckpointError
        When the vocabulary of the data is not the one in the folder.
    TrainingError
        When another process of this training is gone.
    """

    def __init__(self, config: Config, folder: Path | str, *, device: str | None = None) -> None:
        self.config, self.folder = config, Path(folder)
        with distributed.one_voice(self.folder):
            self.accelerator = distributed.accelerator(self.folder, device=device)
            self._check_shares()
            with distributed.first_here(self.accelerator.local_process_index):
                self._prepare()

    def _prepare(self) -> None:
        config = self.config
        self._write_once("config.json", config.model_dump(), "the configuration", ConfigError)
        train, evaluation = load_data(config.data)
        fitted, held_out = hold_out(train, config.training.validation_share, seed=config.training.seed)
        texts = train.texts(style=config.data.captions)
        self.vocabulary = Vocabulary.from_texts(texts[row] for row in fitted)
        self._write_once("vocabulary.json", list(self.vocabulary.words), "the vocabulary", CheckpointError)
        inputs = self._inputs(train)
        self.training = _part(train, inputs, fitted)
        self.validation = _part(train, inputs, held_out, gallery="of its own")
        self.evaluation = Split(evaluation, self._inputs(evaluation))
        self.model = build_model(config, self.training.inputs, len(self.vocabulary))
        distributed.synchronise(self.model.to(self.accelerator.device))
        self.steps_per_epoch = len(self.training.dataset) // config.training.batch
        if self.steps_per_epoch == 0:
            raise ConfigError(
                f"a batch of {config.training.batch} triplets cannot be drawn from {len(fitted)}",
                where=train.name,
                remedy=f"Use 2 to {len(fitted)}.",
            )
        self.steps = self.steps_per_epoch * config.training.epochs

    def train(self, *, stop_after: int | None = None, progress: bool = True) -> Run:
        """Train to the end, from the last checkpoint on; leave the best checkpoint's weights in the model.

        Parameters
        ----------
        stop_after : stop, with a checkpoint, after so many steps of the whole training.
        progress : show a bar with losses, recall and pictures per second.

        Raises
        ------
        TrainingError
            When a loss is not finite, another training uses this folder, or a process of this one is gone.
        KeyboardInterrupt
            After Ctrl-C, once the step is finished and saved.
        """
        with distributed.one_voice(self.folder), _alone(self.folder), _interrupts() as interrupted:
            seed_everything(self.config.training.seed)
            trainer = AlternateTraining(self.model, self.config.training, steps=self.steps)
            position = self._resume(trainer)
            last = min(self.steps, stop_after or self.steps)
            if position["step"] < last:
                log = _Log(self, progress)
                log.open(position, last)
                with closing(log):
                    self._loop(trainer, position, last, interrupted, log)
        return self.restore("best" if self.is_finished else "last")

    @property
    def is_finished(self) -> bool:
        """Whether the last step has been taken."""
        return bool(found := checkpoints(self.folder)) and _step_of(found[-1]) == self.steps

    @property
    def log(self) -> pd.DataFrame:
        """The losses, one row a step."""
        return _read_csv(self.folder / "log.csv")

    @property
    def recalls(self) -> pd.DataFrame:
        """Recall@K on the validation split (or what `select_on` names), one row an epoch and stream."""
        return _read_csv(self.folder / "recall.csv")

    def restore(self, which: str = "best") -> Run:
        """Load the weights of the "best" or the "last" checkpoint.

        Raises
        ------
        CheckpointError
            When there is none, or it is damaged or of another architecture.
        """
        found = checkpoints(self.folder)
        if not found:
            raise CheckpointError("there is no checkpoint", where=self.folder, remedy="Train first.")
        state = load_checkpoint(found[-1])
        best = state["position"]["best"]["name"]
        if which == "best" and best and best != found[-1].name:
            state = load_checkpoint(self.folder / best)
        load_model(self.model, state["model"], self.folder)
        self.model.eval()
        return self

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

    def read(self, pictures: UInt8[np.ndarray, "images h w 3"], texts: Sequence[str]) -> dict[str, Features]:
        """Return what each stream reads of pictures and texts that stand in no dataset."""
        inputs: dict[str, Features] = {}
        if "clip" in self.model.streams:
            clip = self._clip()
            inputs["clip"] = Features(clip.encode_images(pictures), clip.encode_texts(texts))
        if "cnn" in self.model.streams:
            inputs["cnn"] = Features(_as_tensor(pictures), self.vocabulary.encode(texts))
        return inputs

    def _loop(
        self,
        trainer: AlternateTraining,
        position: dict[str, Any],
        last: int,
        interrupted: threading.Event,
        log: _Log,
    ) -> None:
        config, stopping = self.config.training, False
        while not stopping:
            epoch, first = divmod(position["step"], self.steps_per_epoch)
            for batch in self._batches(epoch, first):
                if distributed.count() > 1:
                    distributed.seed(config.seed, position["step"])
                log.add(trainer.step(batch.to(self.accelerator.device)))
                position["step"] += 1
                stopping = position["step"] == last or self._must_stop(interrupted, position["step"])
                epoch_over = position["step"] % self.steps_per_epoch == 0
                if epoch_over:
                    log.flush()
                    self._validate(position, log)
                if stopping or epoch_over or position["step"] % config.checkpoint_every == 0:
                    log.flush()
                    self._save(trainer, position)
                elif position["step"] % config.log_every == 0:
                    log.flush()
                if stopping:
                    break
        distributed.wait()  # for the main process to write the last checkpoint
        if interrupted.is_set():
            raise KeyboardInterrupt(f"saved after step {position['step']}; run again to go on")

    def _must_stop(self, interrupted: threading.Event, step: int) -> bool:
        """Whether Ctrl-C was pressed; several processes agree, at steps when GPUs are waited for anyway."""
        if distributed.count() == 1:
            return interrupted.is_set()
        device = self.accelerator.device
        asked = device.type == "cpu" or step % self.config.training.log_every == 0
        if asked and distributed.any_of(interrupted.is_set(), device):
            interrupted.set()
            return True
        return False

    def _validate(self, position: dict[str, Any], log: _Log) -> None:
        split = self.validation if self.config.training.select_on == "validation" else self.evaluation
        found = self.recall(split)
        final = list(found.values())[-1]  # of both streams together, where there are two
        score = float(np.mean([value for k, value in final.items() if k > 1] or [*final.values()]))
        if score > position["best"]["score"]:
            position["best"] = {"score": score, "name": _name_of(position["step"])}
        log.recall(position["step"] // self.steps_per_epoch, found)

    def _save(self, trainer: AlternateTraining, position: dict[str, Any]) -> None:
        if self.accelerator.is_main_process:
            state = {
                "model": self.model.state_dict(),
                "training": trainer.state_dict(),
                "random": random_states(),
                "position": position,
            }
            save_checkpoint(self.folder / _name_of(position["step"]), state)
            prune(self.folder, {str(position["best"]["name"])})

    def _resume(self, trainer: AlternateTraining) -> dict[str, Any]:
        found = checkpoints(self.folder)
        self._check_sight(_step_of(found[-1]) if found else 0)
        if not found:
            return {"step": 0, "best": {"score": -1.0, "name": ""}}
        state = load_checkpoint(found[-1])
        load_model(self.model, state["model"], found[-1])
        trainer.load_state_dict(state["training"])
        set_random_states(state["random"])
        return state["position"]

    def _batches(self, epoch: int, first: int) -> DataLoader:
        """Read the batches of an epoch from number `first` on; their order depends on seed and epoch only."""
        config = self.config.training
        rng = torch.Generator().manual_seed(config.seed * 1_000_003 + epoch)
        triplets = _BatchesOf(self.training, config.batch, config.flip, rng)
        return DataLoader(
            triplets,
            batch_size=None,
            sampler=range(first, self.steps_per_epoch),
            num_workers=config.workers,
            pin_memory=self.accelerator.device.type == "cuda",
            generator=rng,  # so that iterating draws nothing from the global random numbers
        )

    def _inputs(self, dataset: Any) -> dict[str, Features]:
        model, texts = self.config.model, dataset.texts(style=self.config.data.captions)
        inputs: dict[str, Features] = {}
        if "clip" in model.streams:
            inputs["clip"] = features_of(
                self._clip(), dataset, dataset.pictures, texts=texts, mirrored=self.config.training.flip
            )
        if "cnn" in model.streams:
            inputs["cnn"] = Features(_as_tensor(dataset.pictures), self.vocabulary.encode(texts))
        return inputs

    def _clip(self) -> Clip:
        model = self.config.model
        return _clip(model.clip, model.clip_weights, str(self.accelerator.device))

    def _check_shares(self) -> None:
        batch, processes = self.config.training.batch, distributed.count()
        if batch % processes:
            raise ConfigError(
                f"a batch of {batch} triplets cannot be shared by {processes} processes",
                where="training.batch",
                remedy=f"Use a multiple of {processes}.",
            )

    def _check_sight(self, step: int) -> None:
        """Check that the processes on all machines read the same checkpoint."""
        steps = distributed.gather(torch.tensor([step], device=self.accelerator.device))
        if len(steps.unique()) > 1:
            raise TrainingError(
                f"its last checkpoint is from step {max(steps)} on one machine and {min(steps)} on another",
                where=self.folder,
                remedy="Name a folder that all machines share.",
            )

    def _write_once(
        self, name: str, content: Any, what: str, error: type[ConfigError | CheckpointError]
    ) -> None:
        if not self.accelerator.is_main_process:
            return
        path, text = self.folder / name, json.dumps(content, indent=1)
        if path.exists() and path.read_text(encoding="utf-8") != text:
            raise error(
                f"{what} is not the one that this run began with",
                where=path,
                remedy="Name a new folder, or go back to what the file says.",
            )
        if not path.exists():
            with atomic(path) as target:
                target.write_text(text, encoding="utf-8")


def build_model(config: Config, inputs: Inputs, words: int) -> DWC:
    """Build the streams; each starts from the seed, whether or not the other is there.

    Parameters
    ----------
    config : which streams, of which parts.
    inputs : tells the width of CLIP's features.
    words : size of the vocabulary.
    """
    model, streams = config.model, dict[str, Composer]()
    for name in model.streams:
        seed_everything(config.training.seed)
        if name == "clip":
            streams[name] = ClipStream(
                inputs["clip"].images.shape[1],
                dim=model.dim,
                dropout=model.dropout,
                editors=model.editors,
                modality_weight=model.modality_weight,
            )
        else:
            streams[name] = _cnn_stream(model, words)
    return DWC(streams)


def open_run(folder: Path | str, *, device: str | None = None) -> Run:
    """Open a run that was trained before, with the weights of its best checkpoint.

    Raises
    ------
    ConfigError
        When the folder holds no run.
    """
    path = Path(folder) / "config.json"
    if not path.exists():
        raise ConfigError("there is no run", where=folder, remedy="Name a folder that 'train' wrote.")
    return Run(
        parse_config(json.loads(path.read_text(encoding="utf-8")), str(path)), folder, device=device
    ).restore()


def shared_run(config: Config, *, device: str | None = None, progress: bool = True) -> Run:
    """Return a trained run of this configuration: from the cache, or trained now and kept there.

    Parameters
    ----------
    config, device : as `Run` takes them.
    progress : show a bar while training.

    The folder's name changes with the configuration and with everything that training depends on: the code,
    torch, the pre-trained weights, and the kind of device.
    """
    accelerated = device != "cpu" and torch.cuda.is_available()
    weights = sorted(path for folder in (BOOK_CLIP, BOOK_CNN) for path in folder.iterdir())
    key = fingerprint(
        config.model_dump(), torch.__version__, accelerated, *code_of("dwclib.training.runs"), *weights
    )
    return Run(config, cache_folder("runs") / key, device=device).train(progress=progress)


def hold_out(
    dataset: Triplets, share: float, *, seed: int
) -> tuple[Int[np.ndarray, " train"], Int[np.ndarray, " validation"]]:
    """Divide the queries: those whose target is one of a random `share` of the garments are held out.

    Parameters
    ----------
    dataset : the training triplets.
    share : of the identities that are targets.
    seed : of the choice.

    Returns
    -------
    The rows to train on, and the rows held out; no garment is a target in both.
    """
    targets = dataset.identities[dataset.targets]
    garments = np.random.default_rng(seed).permutation(np.unique(targets))
    held_out = np.isin(targets, garments[: max(1, round(share * len(garments)))])
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def ranks_of(
    embedded: Mapping[str, Embedded], dataset: Triplets, *, exclude_reference: bool | None = None
) -> dict[str, Int[Tensor, " queries"]]:
    """Return the rank of each query's first hit, 1 for the best, for each stream, and for "both" of two.

    Parameters
    ----------
    embedded : by stream, as `Run.embedded` gives it.
    dataset : whose queries and gallery these are; it says what a hit is.
    exclude_reference : keep the reference image out of the ranking; as the dataset says, by default.
    """
    excluded = dataset.exclude_reference if exclude_reference is None else exclude_reference
    references = torch.from_numpy(dataset.gallery_position(dataset.references))
    exclude = references if excluded else None
    if dataset.hit == "identity":
        of_query, of_gallery = (
            torch.from_numpy(dataset.identities[images]) for images in (dataset.targets, dataset.gallery)
        )
        return {
            name: first_hit_ranks(q, g, of_query, of_gallery, exclude=exclude)
            for name, (q, g) in _together(embedded).items()
        }
    targets = torch.from_numpy(dataset.gallery_position(dataset.targets))
    return {
        name: target_ranks(q, g, targets, exclude=exclude) for name, (q, g) in _together(embedded).items()
    }


def recalls_of(
    embedded: Mapping[str, Embedded],
    dataset: Triplets,
    *,
    ks: tuple[int, ...] | None = None,
    exclude_reference: bool | None = None,
) -> dict[str, dict[int, float]]:
    """Return Recall@K, in per cent, of each stream's embeddings, and of "both" where there are two.

    Parameters
    ----------
    embedded, dataset, exclude_reference : as `ranks_of` takes them.
    ks : which K; those usual for the dataset by default. A K that is no less than the gallery is left out.

    A dataset with `members` has a second recall, of "clip, subset" and so on, placed before the others.
    """
    found = {}
    if dataset.members is not None:
        targets, members = map(dataset.gallery_position, (dataset.targets, dataset.members))
        members = np.where(dataset.members < 0, -1, members)
        for name, (queries, gallery) in _together(embedded).items():
            ranks = subset_ranks(queries, gallery, torch.from_numpy(targets), torch.from_numpy(members))
            found[f"{name}, subset"] = {k: _share(ranks <= k) for k in SUBSET_KS}
    for name, ranks in ranks_of(embedded, dataset, exclude_reference=exclude_reference).items():
        found[name] = {k: _share(ranks <= k) for k in ks or dataset.ks if k < len(dataset.gallery)}
    return found


def _together(embedded: Mapping[str, Embedded]) -> dict[str, tuple[Tensor, Tensor]]:
    """Return queries and gallery by stream; of two streams also "both", whose scores are the sums."""
    found = {name: (part.queries, part.gallery) for name, part in embedded.items()}
    if len(found) > 1:
        queries, galleries = zip(*found.values(), strict=True)
        found["both"] = (torch.cat(queries, dim=1), torch.cat(galleries, dim=1))
    return found


def _share(hits: Tensor) -> float:
    return 100 * int(hits.sum()) / len(hits)


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
            texts={name: part.texts[rows] for name, part in self.split.inputs.items()},
            identities=self.identities[rows],
            mirror=mirror,
        )

    def _images(self, images: Tensor, mirror: Tensor | None) -> dict[str, Tensor]:
        found = {name: part.images[images] for name, part in self.split.inputs.items()}
        for name, part in self.split.inputs.items():
            if mirror is not None and part.mirrored is not None:
                found[name] = torch.where(mirror[:, None], part.mirrored[images], found[name])
        return found


class _Log:
    """Losses and recalls on their way to CSV, TensorBoard and bar; a loss that is not finite stops here."""

    def __init__(self, run: Run, progress: bool) -> None:
        self.run, self.writes = run, run.accelerator.is_main_process
        self.progress = progress and self.writes
        self.losses: list[dict[str, Tensor]] = []

    def open(self, position: dict[str, Any], last: int) -> None:
        """Forget rows of steps that no checkpoint knows of, and begin the bar."""
        self.step = position["step"]
        for path, column, limit in (
            (self.run.folder / "log.csv", "step", self.step),
            (self.run.folder / "recall.csv", "epoch", self.step // self.run.steps_per_epoch),
        ):
            if self.writes and path.exists():
                rows = _read_csv(path)
                _write_csv(path, rows[rows[column] <= limit])
        self.run.accelerator.init_trackers("tensorboard")
        self.bar = tqdm(total=last, initial=self.step, disable=not self.progress, desc="train", unit="step")
        self.found: dict[str, str] = {}
        self.clock = time.perf_counter()

    def add(self, losses: dict[str, Tensor]) -> None:
        """Keep the losses of a step; they stay on the device until the next `flush`."""
        self.losses.append(losses)
        self.bar.update()

    def flush(self) -> None:
        """Write the losses since the last flush, and check them."""
        if not self.losses:
            return
        names = list(self.losses[0])
        values = torch.stack([row[name] for row in self.losses for name in names]).cpu()
        table = values.reshape(len(self.losses), len(names)).double().numpy()
        seconds, self.clock = time.perf_counter() - self.clock, time.perf_counter()
        speed = 2 * self.run.config.training.batch * len(table) / seconds
        rows = pd.DataFrame(table, columns=[f"loss_{name}" for name in names])
        rows.insert(0, "step", np.arange(self.step + 1, self.step + 1 + len(rows)))
        rows["pictures_per_second"] = round(speed, 1)
        self._check(rows, names)
        if self.writes:
            _append_csv(self.run.folder / "log.csv", rows)
        for row in rows.to_dict("records"):
            self.run.accelerator.log({k: v for k, v in row.items() if k != "step"}, step=row["step"])
        self.step, self.losses = int(rows["step"].iloc[-1]), []
        self.found |= {name: f"{table[-1, i]:.2f}" for i, name in enumerate(names)}
        self.bar.set_postfix(self.found | {"pictures/s": f"{speed:.0f}"})

    def recall(self, epoch: int, found: dict[str, dict[int, float]]) -> None:
        """Write the recalls of an epoch."""
        rows = [
            {"epoch": epoch, "stream": name, **{f"R@{k}": v for k, v in r.items()}}
            for name, r in found.items()
        ]
        if self.writes:
            _append_csv(self.run.folder / "recall.csv", pd.DataFrame(rows))
        values = {f"{row['stream']} {k}": v for row in rows for k, v in row.items() if k.startswith("R@")}
        self.run.accelerator.log(values, step=self.step)
        self.found |= {name: f"{value:.1f}" for name, value in rows[-1].items() if name == "R@10"}

    def close(self) -> None:
        """End the bar and TensorBoard's file."""
        self.bar.close()
        for tracker in self.run.accelerator.trackers:  # its `end_training` ends the processes' connection too
            tracker.finish()

    def _check(self, rows: pd.DataFrame, names: list[str]) -> None:
        for row in rows.to_dict("records"):
            for name in names:
                if not np.isfinite(row[f"loss_{name}"]):
                    raise TrainingError(
                        f"the loss of the {name} stream is {row[f'loss_{name}']} at step {row['step']}",
                        where=self.run.folder,
                        remedy="Lower its learning rate or clip_norm and start in a new folder; the last "
                        "checkpoint here is from before.",
                    )


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))


def _name_of(step: int) -> str:
    return f"step-{step:08d}"


def _cnn_stream(model: ModelConfig, words: int) -> CnnStream:
    cnn = ResNet() if model.cnn == "book" else ResNet(model.cnn, model.cnn_weights)
    stream = CnnStream(
        cnn,
        words,
        dim=model.dim,
        word_dim=model.word_dim,
        dropout=model.dropout,
        word_temperature=model.word_temperature,
        position_temperature=model.position_temperature,
        mask_padding=model.mask_padding,
        editors=model.editors,
        modality_weight=model.modality_weight,
    )
    return stream.to(memory_format=torch.channels_last)  # faster on a CPU, and what tensor cores want


@lru_cache(maxsize=2)
def _clip(name: str, weights: str | None, device: str) -> Clip:
    return Clip(BOOK_CLIP if name == "book" else name, weights, device=device)


def _part(dataset: Triplets, inputs: Inputs, rows: Int[np.ndarray, " n"], *, gallery: str = "") -> Split:
    part = subset(dataset, rows, own_gallery=bool(gallery))
    return Split(
        part, {name: f._replace(texts=f.texts[torch.from_numpy(rows)]) for name, f in inputs.items()}
    )


def _as_tensor(pictures: np.ndarray) -> Tensor:
    """View pictures that may be mapped from disk, read-only, as a tensor."""
    import warnings

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(pictures)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other trainings out of the folder; of several processes, the main one does it for all."""
    from filelock import FileLock, Timeout

    if distributed.number() > 0:
        distributed.wait()
        yield
        return
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise TrainingError(
            "another process trains in this folder",
            where=folder,
            remedy="Wait for it, or name another folder.",
        ) from error
    try:
        distributed.wait()
        yield
    finally:
        lock.release()


@contextmanager
def _interrupts() -> Iterator[threading.Event]:
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
    except distributed.LostError:
        before.pop(signal.SIGTERM)  # which is about to come: there must be time to tell why
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _read_csv(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, float_precision="round_trip")


def _write_csv(path: Path, rows: pd.DataFrame) -> None:
    with atomic(path) as target:
        rows.to_csv(target, index=False)


def _append_csv(path: Path, rows: pd.DataFrame) -> None:
    rows.to_csv(path, mode="a", header=not path.exists(), index=False)
