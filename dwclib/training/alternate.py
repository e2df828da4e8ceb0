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
from torch import Tensor

from dwclib.errors import ConfigError
from dwclib.losses import contrastive_loss, mutual_enhancement_loss
from dwclib.soft_labels import soft_labels
from dwclib.streams import DWC, CnnStream, Composer
from dwclib.training import processes as distributed
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


class Pair(NamedTuple):
    """Encoded references and targets of a batch, (batch, ...) each.

    `edited`, where there is one, are the CNN stream's f_I and f_T, (batch, dim) each, made of the references
    and the texts: they wait for the combiner only, so that student and teacher can share them.
    """

    reference: Float[Tensor, "batch ..."]
    target: Float[Tensor, "batch ..."]
    edited: tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch dim"]] | None = None


class Lesson(NamedTuple):
    """How a teacher places a batch: its queries and targets, (batch, teacher_dim) each."""

    queries: Float[Tensor, "batch teacher_dim"]
    targets: Float[Tensor, "batch teacher_dim"]


class _Encoded(dict[str, Pair]):
    """A batch as each stream encodes it to learn from it, computed when first asked for."""

    def __init__(self, encode: Callable[[str], Pair]) -> None:
        super().__init__()
        self.encode = encode

    def __missing__(self, name: str) -> Pair:
        self[name] = self.encode(name)
        return self[name]


class AlternateTraining:
    """The optimisers of both streams, and the step that trains them.

    Parameters
    ----------
    model : the streams, on their device; with one stream there is no teacher and no mutual enhancement.
    config : every choice of the step.
    steps : of the whole training, for a decaying learning rate.

    Source: released code; `dwclib.training.config.TrainingConfig` names where its choices differ.
    """

    def __init__(self, model: DWC, config: TrainingConfig, *, steps: int = 1) -> None:
        self.model, self.config = model, config
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
        encoded = _Encoded(lambda name: self._encode(name, batch))
        simultaneous = self.config.order == "simultaneous"
        names = list(self.model.streams)
        lessons = {name: self._lesson_for(name, encoded, batch) for name in names if simultaneous}
        losses = {}
        for name in names:
            lesson = lessons[name] if simultaneous else self._lesson_for(name, encoded, batch)
            losses[name] = self._learn(name, encoded[name], batch, lesson)
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

    def _encode(self, name: str, batch: Batch) -> Pair:
        """Encode references and targets in one stream: two passes, the only ones a step needs."""
        images = [batch.references[name], batch.targets[name]]
        if name == "cnn" and batch.mirror is not None:
            images = [_mirrored(i, chosen) for i, chosen in zip(images, batch.mirror, strict=True)]
        stream = self.model[name]
        with self._autocast():
            reference, target = (stream.encode(i) for i in images)
            if not (self.config.share_maps and isinstance(stream, CnnStream)):
                return Pair(reference, target)
            return Pair(reference, target, stream.pool(reference, batch.texts[name]))

    def _lesson_for(self, student: str, encoded: Mapping[str, Pair], batch: Batch) -> Lesson | None:
        """Return how the other stream places the batch; None where there is no other, or nobody listens."""
        teacher = next((name for name in self.model.streams if name != student), None)
        if teacher is None or self.config.mutual_weight == 0:
            return None
        shared = encoded[teacher] if self.config.share_maps else None
        with torch.no_grad(), _mode(self.model[teacher], training=self.config.teacher_mode == "train"):
            pair = shared or self._encode(teacher, batch)
            if self.config.teacher_target == "reference":
                pair = pair._replace(target=pair.reference)
            return Lesson(*map(distributed.gather, self._place(teacher, pair, batch)))

    def _learn(self, name: str, pair: Pair, batch: Batch, lesson: Lesson | None) -> Float[Tensor, ""]:
        config = self.config
        queries, targets = map(distributed.gather, self._place(name, pair, batch))
        labels = soft_labels(
            targets,
            distributed.gather(batch.identities),
            alpha=config.alpha,
            temperature=config.temperature,
            detach=config.detach_labels,
        )
        loss = contrastive_loss(queries, targets, labels, temperature=config.temperature)
        if lesson is not None:
            mutual = mutual_enhancement_loss(queries, targets, *lesson, scale=config.mutual_scale)
            loss = loss + config.mutual_weight * mutual
        self._descend(name, loss)
        return loss.detach()

    def _place(self, name: str, pair: Pair, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return a stream's queries and targets, (batch, dim) each, in float32 for the losses."""
        stream = self.model[name]
        with self._autocast():
            if pair.edited is not None:
                query = cast(CnnStream, stream).mix(*pair.edited).query
            else:
                query = stream.compose(pair.reference, batch.texts[name]).query
            return query.float(), stream.embed_target(pair.target).float()

    def _descend(self, name: str, loss: Tensor) -> None:
        optimizer, scaler = self.optimizers[name], self.scalers[name]
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()
        distributed.sum_gradients(self.model[name].parameters())
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(self.model[name].parameters(), self.config.clip_norm)
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
