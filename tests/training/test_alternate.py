"""One step of alternate training, against the same step written out, and each of its switches."""

from __future__ import annotations

import copy
from collections import Counter

import pytest
import torch
from torch import Tensor

from dwclib.encoders import ResNet
from dwclib.errors import ConfigError
from dwclib.losses import contrastive_loss, mutual_enhancement_loss
from dwclib.soft_labels import soft_labels
from dwclib.streams import DWC, ClipStream, CnnStream
from dwclib.training.alternate import AlternateTraining, Batch
from dwclib.training.config import TrainingConfig

DIM, FEATURES, SIZE = 16, 10, 8


def _dwc(dropout: float = 0.0) -> DWC:
    torch.manual_seed(0)
    clip = ClipStream(FEATURES, dim=DIM, dropout=dropout)
    return DWC({"clip": clip, "cnn": CnnStream(ResNet(), 12, dim=DIM, word_dim=8, dropout=dropout)})


def _batch(size: int = SIZE, seed: int = 0) -> Batch:
    g = torch.Generator().manual_seed(seed)

    def images() -> dict[str, Tensor]:
        pictures = torch.randint(0, 256, (size, 64, 64, 3), generator=g).byte()
        return {"clip": torch.randn(size, FEATURES, generator=g), "cnn": pictures}

    tokens = torch.randint(1, 12, (size, 5), generator=g)
    tokens[:, 3:] *= torch.rand(size, 2, generator=g) < 0.5
    texts = {"clip": torch.randn(size, FEATURES, generator=g), "cnn": tokens}
    return Batch(images(), images(), texts, torch.arange(size) // 2)


def _outputs(dwc: DWC, name: str, batch: Batch, *, training: bool) -> tuple[Tensor, Tensor]:
    stream = dwc[name].train(training)
    query = stream.compose(stream.encode(batch.references[name]), batch.texts[name]).query
    return query, stream.embed_target(stream.encode(batch.targets[name]))


def _loss(dwc: DWC, student: str, lesson: tuple[Tensor, Tensor], batch: Batch) -> Tensor:
    q, y = _outputs(dwc, student, batch, training=True)
    labels = soft_labels(y, batch.identities, alpha=0.2, temperature=0.07)
    return contrastive_loss(q, y, labels, temperature=0.07) + mutual_enhancement_loss(q, y, *lesson, scale=10)


def _parameters(dwc: DWC) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in dwc.named_parameters()}


def _trained(steps: int = 1, *, dropout: float = 0.0, **config) -> tuple[DWC, list[dict[str, Tensor]]]:
    dwc = _dwc(dropout)
    torch.manual_seed(1)
    trainer = AlternateTraining(dwc, TrainingConfig(learning_rate=1e-2, **config))
    return dwc, [trainer.step(_batch(seed=step)) for step in range(steps)]


def _same(a: DWC, b: DWC) -> bool:
    return all(
        torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


def test_a_step_is_two_adam_steps_each_with_the_other_stream_as_teacher() -> None:
    dwc, losses = _trained(share_maps=False)
    other, batch = _dwc(), _batch()
    for student, teacher in (("clip", "cnn"), ("cnn", "clip")):
        adam = torch.optim.Adam(other[student].parameters(), lr=1e-2, weight_decay=1e-6, eps=1e-8)
        with torch.no_grad():
            lesson = _outputs(other, teacher, batch, training=False)
        loss = _loss(other, student, lesson, batch)
        loss.backward()
        adam.step()
        torch.testing.assert_close(losses[0][student], loss.detach(), rtol=1e-5, atol=1e-6)
    gradients = {name: p.grad for name, p in other.named_parameters() if p.grad is not None}
    for name, p in dwc.named_parameters():
        if name in gradients:  # Adam would blow up the last digits of a gradient near zero
            torch.testing.assert_close(p.grad, gradients[name], rtol=1e-3, atol=1e-4, msg=name)
    assert len(gradients) > 90


def test_simultaneous_training_teaches_the_cnn_by_the_clip_stream_from_before() -> None:
    alternate, first = _trained()
    simultaneous, second = _trained(order="simultaneous")
    assert torch.equal(first[0]["clip"], second[0]["clip"])
    assert not torch.equal(first[0]["cnn"], second[0]["cnn"])
    for name, p in _parameters(alternate).items():
        assert ".clip." not in name or torch.equal(_parameters(simultaneous)[name], p)


@pytest.mark.parametrize(
    ("share", "mode", "passes", "edits"),
    [(True, "eval", 2, 1), (False, "eval", 4, 2), (False, "train", 4, 2)],
)
def test_a_step_runs_the_resnet_twice_and_the_released_way_four_times(
    share: bool, mode: str, passes: int, edits: int
) -> None:
    dwc, counts = _dwc(), Counter[str]()
    for name in ("cnn", "editors"):
        dwc["cnn"].get_submodule(name).register_forward_hook(lambda *_, name=name: counts.update([name]))
    AlternateTraining(dwc, TrainingConfig(share_maps=share, teacher_mode=mode)).step(_batch())
    assert counts == {"cnn": passes, "editors": edits}


def test_a_teacher_in_eval_mode_leaves_no_trace_and_one_in_train_mode_does() -> None:
    """Batch norm counts the batches it has seen in training."""
    seen = {}
    for mode in ("eval", "train"):
        dwc, _ = _trained(share_maps=False, teacher_mode=mode)
        editors = dict(dwc["cnn"].editors.named_buffers())
        seen[mode] = next(int(v) for name, v in editors.items() if name.endswith("num_batches_tracked"))
    assert seen == {"eval": 1, "train": 2}


def test_shared_maps_change_the_lesson_only_by_batch_norm() -> None:
    """With the CNN stream's statistics fixed, train and eval mode agree, and sharing changes nothing."""
    found = []
    for share in (True, False):
        dwc = _dwc()
        norms = [m for m in dwc["cnn"].modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
        for norm in norms:
            norm.train = lambda mode=True, norm=norm: torch.nn.Module.train(norm, False)
        losses = AlternateTraining(dwc, TrainingConfig(share_maps=share)).step(_batch())
        found.append(losses["clip"])
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.parametrize(
    ("switch", "released"),
    [
        ("teacher_target", "reference"),
        ("teacher_mode", "train"),
        ("detach_labels", False),
        ("share_maps", False),
        ("order", "simultaneous"),
    ],
)
def test_every_switch_changes_what_is_learned(switch: str, released: object) -> None:
    claimed, _ = _trained(2, dropout=0.5)
    switched, _ = _trained(2, dropout=0.5, **{switch: released})
    assert not _same(claimed, switched)


def test_the_teacher_s_target_is_the_target_and_not_the_reference() -> None:
    dwc, batch = _dwc(), _batch()
    with torch.no_grad():
        q, _ = _outputs(dwc, "cnn", batch, training=False)
        y = dwc["cnn"].embed_target(dwc["cnn"].encode(batch.references["cnn"]))
    expected = _loss(copy.deepcopy(dwc), "clip", (q, y), batch)
    config = TrainingConfig(teacher_target="reference", share_maps=False)
    torch.testing.assert_close(AlternateTraining(dwc, config).step(batch)["clip"], expected.detach())


def test_without_mutual_enhancement_each_stream_learns_as_if_alone() -> None:
    both, _ = _trained(2, mutual_weight=0.0)
    for name in ("clip", "cnn"):
        alone = DWC({name: _dwc()[name]})
        torch.manual_seed(1)
        trainer = AlternateTraining(alone, TrainingConfig(learning_rate=1e-2))
        for step in range(2):
            trainer.step(_batch(seed=step))
        for key, value in alone.state_dict().items():
            torch.testing.assert_close(both.state_dict()[key], value)


def test_no_gradient_reaches_the_teacher() -> None:
    dwc, batch = _dwc(), _batch()
    trainer = AlternateTraining(dwc, TrainingConfig())
    placed = {name: trainer._place(name, batch) for name in dwc.streams}
    for student, shared in (("clip", placed), ("clip", {}), ("cnn", placed)):
        lesson = trainer._lesson_for(student, shared, batch)
        assert not lesson.queries.requires_grad
        assert not lesson.targets.requires_grad


def test_a_released_teacher_sees_the_reference_twice_before_the_student_learns() -> None:
    """Batch norm's running statistics tell in which order: reference twice, then the student's own passes."""
    released = {"teacher_target": "reference", "teacher_mode": "train", "share_maps": False}
    dwc, _ = _trained(**released)
    other, batch = _dwc(), _batch()
    resnet = other["cnn"].cnn.train()
    with torch.no_grad():
        for pictures in (batch.references, batch.references, batch.references, batch.targets):
            resnet(pictures["cnn"])
    first = next(name for name, _ in resnet.named_buffers() if name.endswith("running_var"))
    torch.testing.assert_close(dwc["cnn"].cnn.get_buffer(first), resnet.get_buffer(first))


def test_mirroring_mirrors_the_chosen_pictures() -> None:
    dwc, batch = _dwc(), _batch()
    chosen = torch.zeros(2, SIZE, dtype=torch.bool)
    chosen[0, :3] = True
    pictures = batch.references["cnn"]
    flipped = torch.cat([pictures[:3].flip(2), pictures[3:]])
    mirrored = batch._replace(references={**batch.references, "cnn": flipped})
    trainer = AlternateTraining(dwc, TrainingConfig())
    dwc.eval()
    found = trainer._place("cnn", batch._replace(mirror=chosen))
    torch.testing.assert_close(found.composition.query, trainer._place("cnn", mirrored).composition.query)
    torch.testing.assert_close(found.targets, trainer._place("cnn", batch).targets)


@pytest.mark.parametrize(("precision", "streams"), [("bf16", ["clip", "cnn"]), ("fp16", ["clip"])])
def test_mixed_precision_trains_and_keeps_the_weights_in_float32(precision: str, streams: list[str]) -> None:
    """The CPU has no LSTM in float16."""
    dwc = DWC({name: _dwc()[name] for name in streams})
    before = _parameters(dwc)
    trainer = AlternateTraining(dwc, TrainingConfig(precision=precision))
    losses = [trainer.step(_batch(seed=step)) for step in range(9)]  # float16's scale has to come down first
    assert all(torch.isfinite(loss) for row in losses for loss in row.values())
    assert {p.dtype for p in dwc.parameters()} == {torch.float32}
    assert all(not torch.equal(before[name], p) for name, p in dwc.named_parameters() if p.grad is not None)


def test_each_optimiser_has_its_own_scaler_unless_they_share_one() -> None:
    for shared in (False, True):
        trainer = AlternateTraining(_dwc(), TrainingConfig(precision="fp16", shared_scaler=shared))
        assert (trainer.scalers["clip"] is trainer.scalers["cnn"]) == shared
        assert trainer.scalers["clip"].is_enabled()


def test_a_cosine_ends_at_zero() -> None:
    trainer = AlternateTraining(_dwc(), TrainingConfig(decay="cosine", learning_rate=1.0, epochs=1), steps=2)
    rates = []
    for step in range(2):
        rates.append(trainer.schedulers["clip"].get_last_lr()[0])
        trainer.step(_batch(seed=step))
    assert rates == pytest.approx([1.0, 0.5])
    assert trainer.schedulers["clip"].get_last_lr() == pytest.approx([0.0])


def test_a_batch_of_one_is_refused() -> None:
    with pytest.raises(ConfigError, match="batch of one"):
        AlternateTraining(_dwc(), TrainingConfig()).step(_batch(1))


def test_the_enhancement_is_zero_between_equals_and_kl_else() -> None:
    g = torch.Generator().manual_seed(0)
    q, y, qb, yb = (torch.nn.functional.normalize(torch.randn(5, 8, generator=g), dim=1) for _ in range(4))
    assert float(mutual_enhancement_loss(q, y, q, y)) == pytest.approx(0, abs=1e-6)
    p, student = (10 * qb @ yb.T).softmax(1), (10 * q @ y.T).softmax(1)
    expected = (p * (p / student).log()).sum(1).mean()
    torch.testing.assert_close(mutual_enhancement_loss(q, y, qb, yb), expected)
