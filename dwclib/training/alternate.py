"""Alternate training: each stream steps with the other one as its fixed teacher (notebook 08).

A batch is one step of each stream: the CLIP stream first, then the CNN stream, which is taught by the CLIP
stream as it has just become. Of several processes, each is given its slice of the batch (notebook 15).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from dwclib.errors import ConfigError
from dwclib.losses import contrastive_loss, mutual_enhancement_loss
from dwclib.soft_labels import soft_labels
from dwclib.streams import DWC, CnnStream, Composer, Placed
from dwclib.training import distributed
from dwclib.training.config import TrainingConfig


class Batch(NamedTuple):
    """Triplets as the streams read them, a tensor per stream.

    Fields
    ------
    references, targets : images, (batch, ...): CLIP's features, or uint8 pictures.
    texts : (batch, ...): CLIP's features, or the numbers of words.
    identities : (batch,), which garment each target is.
    mirror : (2, batch), which references and which targets to mirror; None for none. CLIP's features come so.
    """

    references: Mapping[str, Shaped[Tensor, "batch ..."]]
    targets: Mapping[str, Shaped[Tensor, "batch ..."]]
    texts: Mapping[str, Shaped[Tensor, "batch ..."]]
    identities: Int[Tensor, " batch"]
    mirror: Bool[Tensor, "2 batch"] | None = None

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device; pinned memory is copied while the program goes on."""

        def moved(part: Any) -> Any:
            if isinstance(part, Mapping):
                return {name: moved(value) for name, value in part.items()}
            return None if part is None else part.to(device, non_blocking=True)

        return Batch(*map(moved, self))


class Lesson(NamedTuple):
    """How a teacher places a batch: its queries and targets, (batch, teacher_dim) each."""

    queries: Float[Tensor, "batch teacher_dim"]
    targets: Float[Tensor, "batch teacher_dim"]


class AlternateTraining:
    """The optimisers of both streams, and the step that trains them.

    Parameters
    ----------
    model : the streams, on their device; with one stream there is no teacher and no mutual enhancement.
    config : every choice of the step.
    steps : of the whole training, for a decaying learning rate.
    prepare : makes of a stream what learns on several processes: accelerate's `prepare_model`.

    Source: released code; `dwclib.training.config.TrainingConfig` names where its choices differ.
    """

    def __init__(
        self,
        model: DWC,
        config: TrainingConfig,
        *,
        steps: int = 1,
        prepare: Callable[[nn.Module], nn.Module] = lambda stream: stream,
    ) -> None:
        self.model, self.config = model, config
        self.students = {name: prepare(stream) for name, stream in model.streams.items()}
        self.device = next(model.parameters()).device
        self.precision = _precision(config.precision, self.device)
        rates = {"clip": config.learning_rate, "cnn": config.cnn_learning_rate or config.learning_rate}
        self.optimizers = {
            name: torch.optim.Adam(
                stream.parameters(), lr=rates[name], weight_decay=config.weight_decay, eps=1e-8, fused=True
            )
            for name, stream in model.streams.items()
        }
        self.schedulers = {
            name: torch.optim.lr_scheduler.LambdaLR(optimizer, _decay(config.decay, steps))
            for name, optimizer in self.optimizers.items()
        }
        shared = self._scaler()
        self.scalers = {name: shared if config.shared_scaler else self._scaler() for name in model.streams}

    def step(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Let every stream take one step; return their losses, in nats, without waiting for the device.

        Raises
        ------
        ConfigError
            For a batch of one, in which there is nothing to tell apart.
        """
        if len(batch.identities) * distributed.count() < 2:
            raise ConfigError(
                "a batch of one has nothing to tell its target from",
                where="training",
                remedy="Use two or more.",
            )
        self.model.train()
        names = list(self.model.streams)
        placed = {name: self._place(name, batch) for name in names if self.config.share_maps}
        simultaneous = self.config.order == "simultaneous"
        lessons = {name: self._lesson_for(name, placed, batch) for name in names if simultaneous}
        losses = {}
        for name in names:
            lesson = lessons[name] if simultaneous else self._lesson_for(name, placed, batch)
            losses[name] = self._learn(name, placed.get(name) or self._place(name, batch), batch, lesson)
        return losses

    def state_dict(self) -> dict[str, dict]:
        """Return what a checkpoint keeps beside the model."""
        kinds: dict[str, dict[str, Any]] = {
            "optimizers": self.optimizers,
            "schedulers": self.schedulers,
            "scalers": self.scalers,
        }
        return {
            kind: {name: part.state_dict() for name, part in parts.items()} for kind, parts in kinds.items()
        }

    def load_state_dict(self, state: Mapping[str, Mapping[str, dict]]) -> None:
        """Take up what `state_dict` returned."""
        for kind, parts in state.items():
            for name, part in parts.items():
                getattr(self, kind)[name].load_state_dict(part)
        for optimizer in self.optimizers.values():
            # The fused step pairs parameters and moments as they lie in memory.
            for parameter, moments in optimizer.state.items():
                for key, moment in moments.items():
                    if moment.shape == parameter.shape:
                        moments[key] = torch.empty_like(parameter).copy_(moment)

    def _images(self, name: str, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return references and targets as a stream reads them."""
        images = batch.references[name], batch.targets[name]
        if name == "cnn" and batch.mirror is not None:
            return _mirrored(images[0], batch.mirror[0]), _mirrored(images[1], batch.mirror[1])
        return images

    def _place(self, name: str, batch: Batch) -> Placed:
        """Let a stream place the batch, to learn from it: the only passes that a step needs."""
        with self._autocast():
            return self.students[name](*self._images(name, batch), batch.texts[name])

    def _lesson_for(self, student: str, placed: Mapping[str, Placed], batch: Batch) -> Lesson | None:
        """Return how the other stream places the batch; None where there is no other, or nobody listens."""
        teacher = next((name for name in self.model.streams if name != student), None)
        if teacher is None or self.config.mutual_weight == 0:
            return None
        stream = self.model[teacher]
        with torch.no_grad(), _mode(stream, training=self.config.teacher_mode == "train"), self._autocast():
            if isinstance(stream, CnnStream) and teacher in placed:
                composition, _, reference, target = placed[teacher]
                edited = cast(tuple[Tensor, Tensor], (composition.edited_image, composition.edited_text))
                query = stream.mix(*edited).query
            else:
                references, targets = self._images(teacher, batch)
                if self.config.teacher_target == "reference":
                    targets = references
                reference, target = stream.encode(references), stream.encode(targets)
                query = stream.compose(reference, batch.texts[teacher]).query
            if self.config.teacher_target == "reference":
                target = reference
            return Lesson(*map(_gathered, (query, stream.embed_target(target))))

    def _learn(self, name: str, placed: Placed, batch: Batch, lesson: Lesson | None) -> Float[Tensor, ""]:
        config = self.config
        queries, targets = map(_gathered, (placed.composition.query, placed.targets))
        labels = soft_labels(
            targets,
            distributed.gather(batch.identities),
            alpha=config.alpha,
            temperature=config.temperature,
            detach=config.detach_labels,
        )
        loss = contrastive_loss(queries, targets, labels, temperature=config.temperature, kept=config.kept)
        if lesson is not None:
            mutual = mutual_enhancement_loss(queries, targets, *lesson, scale=config.mutual_scale)
            loss = loss + config.mutual_weight * mutual
        self._descend(name, loss * distributed.count())  # DDP divides the gradient by it
        return loss.detach()

    def _descend(self, name: str, loss: Tensor) -> None:
        optimizer, scaler = self.optimizers[name], self.scalers[name]
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        self.schedulers[name].step()

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.precision, enabled=self.precision is not torch.float32)

    def _scaler(self) -> torch.amp.GradScaler:
        return torch.amp.GradScaler(self.device.type, enabled=self.precision is torch.float16)


@contextmanager
def _mode(stream: Composer, *, training: bool) -> Iterator[None]:
    stream.train(training)
    try:
        yield
    finally:
        stream.train()


def _gathered(rows: Float[Tensor, "own dim"]) -> Float[Tensor, "batch dim"]:
    return distributed.gather(rows.float())  # the losses are computed in float32


def _mirrored(pictures: Tensor, chosen: Tensor) -> Tensor:
    return torch.where(chosen[:, None, None, None], pictures.flip(2), pictures)  # (B, h, w, 3)


def _precision(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        name = "bf16" if device.type == "cuda" else "float32"
    return {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[name]


def _decay(kind: str, steps: int) -> Callable[[int], float]:
    if kind == "constant":
        return lambda step: 1.0
    return lambda step: 0.5 * (1 + math.cos(math.pi * min(step / steps, 1.0)))
