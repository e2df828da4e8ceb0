"""Every module of the method against its equations in NumPy (`equations`), and against stored numbers.

A change that moves the stored numbers writes them anew, and says so in its commit:
``python tests/test_parity.py > tests/parity.json``
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import equations as by_hand
import numpy as np
import pytest
import torch
from equations import Array, Weights
from torch import Tensor, nn

from dwclib import editors
from dwclib.baselines import BASELINES
from dwclib.combiner import build_combiner
from dwclib.encoders import GeM, ResNet, WordLstm
from dwclib.losses import contrastive_loss, mutual_enhancement_loss
from dwclib.soft_labels import soft_labels
from dwclib.streams import DWC, ClipStream, CnnStream, Composer

STORED = Path(__file__).with_name("parity.json")
BATCH, FEATURES, DIM, CHANNELS, WORDS, WORD_DIM = 4, 10, 16, 24, 9, 6
TOKENS = np.array([[2, 3, 4, 0, 0], [5, 6, 7, 8, 1], [7, 0, 0, 0, 0], [1, 1, 8, 3, 0]])
REAL, IDENTITIES = TOKENS > 0, np.array([3, 1, 3, 0])
ALPHA = 0.25  # dwclib keeps hard labels in single precision, where 0.2 is another number


def noise(name: str, *shape: int) -> Array:
    """Return numbers between -1 and 1 that the name decides: a bit generator's stream never changes."""
    drawn = np.random.PCG64(zlib.crc32(name.encode())).random_raw(math.prod(shape))
    return (drawn / 2.0**63 - 1).reshape(shape)


def filled(module: Any, *, train: bool) -> Weights:
    """Set a module's mode, and write weights and statistics into it, by name; return a copy of them."""
    weights = Weights()
    weights.train = train
    state = module.double().train(train).state_dict() if isinstance(module, nn.Module) else {}
    for name, tensor in state.items():
        if tensor.is_floating_point():
            values = noise(name, *tensor.shape)
            if tensor.ndim > 1:
                values *= math.sqrt(6 / tensor[0].numel())
            elif name.endswith(("norm.weight", "running_var")):
                values = 1 + values / 2
            elif name.rpartition(".")[2] == "p":
                values = np.array(3 + values)
            tensor.copy_(torch.from_numpy(values))
            weights[name] = values
    return weights


class GivenMaps(ResNet):
    """Stands where a ResNet does, for feature maps that are given."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.channels = CHANNELS


class Scores(DWC):
    """The scores of both streams together."""

    def forward(self, *inputs: Tensor) -> Tensor:
        placed = {name: call(self[name], part) for name, part in (("clip", inputs[:3]), ("cnn", inputs[3:]))}
        queries = self.joined({name: composition.query for name, (composition, _) in placed.items()})
        return queries @ self.joined({name: y for name, (_, y) in placed.items()}).T


def scores(w: Weights, *inputs: Array) -> Array:
    q, *_, y = by_hand.two_heads(by_hand.clip_mix, w.part("streams.clip"), *inputs[:3])
    p, *_, z = by_hand.cnn_stream(w.part("streams.cnn"), *inputs[3:], REAL)
    return q @ y.T + p @ z.T


def clip(dropout: float) -> ClipStream:
    return ClipStream(FEATURES, dim=DIM, dropout=dropout)


def cnn(dropout: float, *, mask: bool = True) -> CnnStream:
    return CnnStream(GivenMaps(), WORDS, dim=DIM, word_dim=WORD_DIM, dropout=dropout, mask_padding=mask)


class Case(NamedTuple):
    """How a module is built, given a dropout, or a function; its inputs; what makes the same of them."""

    build: Callable[[float], Any]
    inputs: tuple[Array, ...]
    equations: Callable[..., Any]


def function(called: Callable[..., Any], *inputs: Array, equations: Callable[..., Any]) -> Case:
    return Case(lambda _: called, inputs, lambda _, *given: equations(*given))


x, text, y = FROZEN = tuple(noise(name, BATCH, FEATURES) for name in ("x", "text", "y"))
v, t, Q, Y, Q_b, Y_b = (noise(name, BATCH, DIM) for name in ("v", "t", "Q", "Y", "Q_b", "Y_b"))
Q, Y, Q_b, Y_b = UNITS = tuple(map(by_hand.unit, (Q, Y, Q_b, Y_b)))
X, X_y = (noise(name, BATCH, CHANNELS, 3, 4) for name in ("X", "X_y"))
V, T = noise("V", BATCH, DIM, 12), noise("T", *TOKENS.shape, DIM)
sequence = noise("sequence", BATCH, CHANNELS, TOKENS.shape[1])
MAPS = (X, TOKENS, X_y)

labels = partial(soft_labels, alpha=ALPHA)
labels_by_hand = partial(by_hand.soft, alpha=ALPHA)
CASES = {
    "feature gate": Case(lambda drop: editors.FeatureGate(DIM, dropout=drop), (v, t), by_hand.gate),
    "modality editors": Case(
        lambda drop: editors.ModalityEditors(DIM, dropout=drop), (v, t), by_hand.editors
    ),
    "CLIP stream": Case(clip, FROZEN, partial(by_hand.two_heads, by_hand.clip_mix)),
    "cross attention": function(editors.cross_attend, V, T, REAL, equations=by_hand.attention),
    "inception layer": Case(  # three words at once, of which some may be none
        lambda _: editors.InceptionLayer(1, CHANNELS, DIM, 3), (sequence, REAL), by_hand.inception_layer
    ),
    "inception on maps": Case(lambda _: editors.Inception(2, CHANNELS, DIM), (X,), by_hand.inception),
    "inception on words": Case(
        lambda _: editors.Inception(1, CHANNELS, DIM), (sequence, REAL), by_hand.inception
    ),
    "attention editors": Case(
        lambda _: editors.AttentionEditors(CHANNELS, DIM), (X, T, REAL), by_hand.attention_editors
    ),
    "GeM": Case(lambda _: GeM(), (sequence,), by_hand.gem),
    "GeM of words": Case(lambda _: GeM(), (sequence, REAL), by_hand.gem),
    "LSTM": Case(lambda _: WordLstm(WORDS, DIM, word_dim=WORD_DIM), (TOKENS,), by_hand.lstm),
    "CNN stream": Case(cnn, MAPS, lambda *given: by_hand.cnn_stream(*given, REAL)),
    "CNN stream, padding read": Case(
        partial(cnn, mask=False), MAPS, lambda *given: by_hand.cnn_stream(*given, np.ones_like(REAL))
    ),
    "scores of both": Case(
        lambda drop: Scores({"clip": clip(drop), "cnn": cnn(drop)}), FROZEN + MAPS, scores
    ),
    "soft labels": function(labels, Y, IDENTITIES, equations=labels_by_hand),
    "contrastive loss": function(
        contrastive_loss, Q, Y, labels_by_hand(Y, IDENTITIES), equations=by_hand.contrastive
    ),
    "mutual enhancement loss": function(mutual_enhancement_loss, *UNITS, equations=by_hand.enhancement),
}
for _kind in ("scalar", "vector"):
    _build = lambda drop, kind=_kind: build_combiner(DIM, kind, dropout=drop)  # noqa: E731
    CASES[f"combiner, {_kind}"] = Case(_build, (v, t), by_hand.combiner)
for _name, _mix in by_hand.MIXES.items():
    _build = lambda drop, name=_name: BASELINES[name](FEATURES, dim=DIM, dropout=drop)  # noqa: E731
    CASES[_name] = Case(_build, FROZEN, partial(by_hand.two_heads, _mix))


def call(module: Any, inputs: tuple[Tensor, ...]) -> Any:
    """Return what a module makes of its inputs: a composer, of reference, text and target."""
    if isinstance(module, Composer):
        return module.compose(*inputs[:2]), module.embed_target(inputs[2])
    return module(*inputs)


def flat(outputs: Any) -> list[Array | None]:
    """Return the arrays of nested outputs, in order, and None for what a composition leaves out."""
    if isinstance(outputs, tuple):
        return [array for part in outputs for array in flat(part)]
    return [outputs.detach().numpy() if isinstance(outputs, Tensor) else outputs]


def tensors(case: Case) -> tuple[Tensor, ...]:
    return tuple(torch.from_numpy(array) for array in case.inputs)


def numbers(name: str, mode: str) -> list[list[float]]:
    """Return a few numbers of each output by the equations: mean, deviation, first, last."""
    case = CASES[name]
    made = flat(case.equations(filled(case.build(0.0), train=mode == "train"), *case.inputs))
    outputs = [np.asarray(array) for array in made if array is not None]
    return [[float(f"{z:.13g}") for z in (o.mean(), o.std(), o.flat[0], o.flat[-1])] for o in outputs]


def assert_equal(found: Any, expected: Any, precision: float = 1e-12, name: str = "") -> None:
    np.testing.assert_allclose(found, expected, rtol=precision, atol=precision, err_msg=name)


every_case = pytest.mark.parametrize("name", list(CASES))
in_both_modes = pytest.mark.parametrize("mode", ["train", "eval"])


@every_case
@in_both_modes
def test_a_module_is_its_equations(name: str, mode: str) -> None:
    """In training, where dropout is zero here, so are the statistics that batch norm remembers."""
    case = CASES[name]
    module = case.build(0.0 if mode == "train" else 0.5)
    weights = filled(module, train=mode == "train")
    found, expected = flat(call(module, tensors(case))), flat(case.equations(weights, *case.inputs))
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            assert_equal(ours, theirs)
    for key, array in weights.items():
        assert_equal(module.state_dict()[key], array, name=key)


@every_case
@in_both_modes
def test_outputs_are_the_stored_numbers(name: str, mode: str) -> None:
    assert_equal(numbers(name, mode), json.loads(STORED.read_text())[name][mode], 1e-10)


def test_the_gradients_of_the_losses_are_those_worked_out_by_hand() -> None:
    q, y, q_b, y_b = (torch.from_numpy(array).requires_grad_() for array in UNITS)
    Z = labels_by_hand(Y, IDENTITIES)
    learned = torch.autograd.grad(contrastive_loss(q, y, torch.from_numpy(Z)), (q, y))
    pull = (by_hand.softmax(Q @ Y.T / 0.07) - Z) / 0.07 / BATCH
    assert_equal(flat(learned), (pull @ Y, pull.T @ Q))
    loss = mutual_enhancement_loss(q, y, q_b, y_b)
    *learned, teachers, too = torch.autograd.grad(loss, (q, y, q_b, y_b), allow_unused=True)
    pull = 10 * (by_hand.softmax(10 * Q @ Y.T) - by_hand.softmax(10 * Q_b @ Y_b.T)) / BATCH
    assert_equal(flat(tuple(learned)), (pull @ Y, pull.T @ Q))
    assert teachers is too is None


@pytest.mark.parametrize("name", ["CLIP stream", "CNN stream"])
@pytest.mark.parametrize("detach", [True, False])
def test_the_gradient_of_a_streams_loss_is_the_slope_of_its_equations(name: str, detach: bool) -> None:
    """Along a direction in the space of all weights at once; where asked for, through the labels too."""
    case = CASES[name]
    module = case.build(0.0)
    weights = filled(module, train=True)
    composition, targets = call(module, tensors(case))
    Z = labels(targets, torch.from_numpy(IDENTITIES), detach=detach)
    loss = contrastive_loss(composition.query, targets, Z)
    loss = loss + mutual_enhancement_loss(composition.query, targets, *map(torch.from_numpy, UNITS[2:]))
    loss.backward()
    along = {key: noise(f"along {key}", *p.shape) for key, p in module.named_parameters()}
    found = sum(float((p.grad.numpy() * along[key]).sum()) for key, p in module.named_parameters())

    def loss_at(step: float) -> float:
        moved = Weights(
            {key: w + step * along[key] if key in along else w.copy() for key, w in weights.items()}
        )
        moved.train = True
        q, *_, y = case.equations(moved, *case.inputs)
        given = Z.numpy() if detach else labels_by_hand(y, IDENTITIES)
        return by_hand.contrastive(q, y, given) + by_hand.enhancement(q, y, Q_b, Y_b)

    assert found == pytest.approx((loss_at(1e-6) - loss_at(-1e-6)) / 2e-6, rel=1e-6)


if __name__ == "__main__":
    found = {name: {mode: numbers(name, mode) for mode in ("train", "eval")} for name in CASES}
    print("{" + ",\n ".join(f"{json.dumps(name)}: {json.dumps(told)}" for name, told in found.items()) + "}")
