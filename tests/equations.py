"""The method a second time: every equation of the docstrings in NumPy, without dwclib or torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

Array = np.ndarray


class Weights(dict[str, Array]):
    """A module's weights and batch norm's statistics, by name; and whether the module is in training."""

    train = False

    def part(self, prefix: str) -> Weights:
        """Return those of a part, by their names in it: the same arrays."""
        found = Weights(
            {name[len(prefix) + 1 :]: w for name, w in self.items() if name.startswith(f"{prefix}.")}
        )
        found.train = self.train
        return found


def relu(x: Array) -> Array:
    return np.maximum(x, 0)


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def unit(x: Array) -> Array:
    return x / np.sqrt((x**2).sum(-1, keepdims=True))


def softmax(x: Array, axis: int = 1) -> Array:
    powers = np.exp(x - x.max(axis, keepdims=True))
    return powers / powers.sum(axis, keepdims=True)


def linear(w: Weights, x: Array) -> Array:
    return x @ w["weight"].T + w["bias"]


def head(w: Weights, u: Array) -> Array:
    return relu(linear(w.part("0"), u))


def mlp(w: Weights, *pair: Array) -> Array:
    return linear(w.part("3"), head(w, np.hstack(pair)))


def gate(w: Weights, v: Array, t: Array) -> Array:
    return sigmoid(mlp(w.part("mlp"), v, t))


def editors(w: Weights, v: Array, t: Array) -> tuple[Array, ...]:
    gates = gate(w.part("image"), v, t), gate(w.part("text"), v, t)
    return gates[0] * v, gates[1] * t, *gates


def combiner(w: Weights, v: Array, t: Array) -> tuple[Array, Array]:
    lam = gate(w, v, t)
    return unit(lam * v + (1 - lam) * t), lam


def shifted(x: Array, kernel: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], Array]]:
    """Yield each place of a kernel, and what it sees of (batch, channels, *places) with zeros around."""
    wide = np.pad(x, [(0, 0), (0, 0), *((k // 2, k // 2) for k in kernel)])
    for place in np.ndindex(*kernel):
        seen = (slice(start, start + n) for start, n in zip(place, x.shape[2:], strict=True))
        yield place, wide[:, :, *seen]


def batch_norm(w: Weights, rows: Array) -> Array:
    """Norm (places of all the batch, channels); in training by statistics of its own, which it remembers."""
    mean, variance = w["running_mean"], w["running_var"]
    if w.train:
        w["running_mean"][:] = 0.9 * mean + 0.1 * rows.mean(0)
        w["running_var"][:] = 0.9 * variance + 0.1 * rows.var(0, ddof=1)
        mean, variance = rows.mean(0), rows.var(0)
    return (rows - mean) / np.sqrt(variance + 1e-5) * w["weight"] + w["bias"]


def inception_layer(w: Weights, x: Array, real: Array, *, average: bool = False) -> Array:
    """Mean of the real places, convolution, batch norm over the real places; real is (batch, *places)."""
    counted = real[:, None].astype(float)
    x = x * counted
    if average:  # before the convolution, as in the released code
        three = (3,) * real[0].ndim
        total, places = (sum(seen for _, seen in shifted(what, three)) for what in (x, counted))
        x = total / np.maximum(places, 1)
    K = w["convolution.weight"]
    x = sum(np.einsum("oc,bc...->bo...", K[:, :, *at], seen) for at, seen in shifted(x, K.shape[2:]))
    out = np.zeros_like(np.moveaxis(x, 1, -1))
    out[real] = batch_norm(w.part("norm"), np.moveaxis(x, 1, -1)[real])
    return np.moveaxis(out, -1, 1)


def inception(w: Weights, x: Array, real: Array | None = None) -> Array:
    real = np.ones((len(x), *x.shape[2:]), dtype=bool) if real is None else real
    branches = []
    for branch, depth in enumerate((1, 2, 3, 1)):
        out = x
        for layer in range(depth):
            part = w.part(f"branches.{branch}.{layer}")
            out = inception_layer(part, relu(out) if layer else out, real, average=branch == 3)
        branches.append(out)
    return np.concatenate(branches, 1)


def attention(V: Array, T: Array, real: Array) -> tuple[Array, ...]:
    S = np.einsum("bld,bdp->blp", T, V)
    A, B = softmax(np.where(real[:, :, None], S / 7, -np.inf), 1), softmax(S / 4, 2)
    return np.einsum("blp,bld->bdp", A, T), np.einsum("blp,bdp->bdl", B, V), A, B


def attention_editors(w: Weights, X: Array, T: Array, real: Array) -> tuple[Array, ...]:
    V = relu(inception(w.part("project"), X))
    told = attention(V.reshape(*V.shape[:2], -1), T, real)
    C, E, T = told[0].reshape(V.shape), told[1], T.transpose(0, 2, 1)
    M_I = sigmoid(inception(w.part("image_gate"), np.concatenate([V, C], 1)))
    M_T = sigmoid(inception(w.part("text_gate"), np.concatenate([T, E], 1), real))
    image = M_I * X + relu(inception(w.part("image_addition"), C))
    return image, M_T * T + relu(inception(w.part("text_addition"), E, real)), M_I, M_T, *told


def gem(w: Weights, z: Array, real: Array | None = None) -> Array:
    """Pool (batch, channels, *places) over the real places."""
    z = z.reshape(*z.shape[:2], -1)
    counted = np.ones(z.shape[::2]) if real is None else real
    powers = np.maximum(z, 1e-6) ** w["p"]
    return ((powers * counted[:, None]).sum(2) / counted.sum(1)[:, None]) ** (1 / w["p"])


def lstm(w: Weights, tokens: Array) -> Array:
    state = memory = np.zeros((len(tokens), w["lstm.weight_hh_l0"].shape[1]))
    states = []
    for word in tokens.T:
        sums = w["embedding.weight"][word] @ w["lstm.weight_ih_l0"].T + w["lstm.bias_ih_l0"]
        sums = sums + state @ w["lstm.weight_hh_l0"].T + w["lstm.bias_hh_l0"]
        enter, forget, candidate, show = np.split(sums, 4, axis=1)
        memory = sigmoid(forget) * memory + sigmoid(enter) * np.tanh(candidate)
        state = sigmoid(show) * np.tanh(memory)
        states.append(state)
    return np.stack(states, 1)


def cnn_stream(w: Weights, X: Array, tokens: Array, X_y: Array, real: Array) -> tuple[Array, ...]:
    """Return q, lam, f_I, f_T and y."""
    edited, words, *_ = attention_editors(w.part("editors"), X, lstm(w.part("lstm"), tokens), real)
    f_I = linear(w.part("image_projection"), gem(w.part("image_pool"), edited))
    f_T = linear(w.part("text_projection"), gem(w.part("text_pool"), words, real))
    y = unit(linear(w.part("image_projection"), gem(w.part("target_pool"), X_y)))
    return *combiner(w.part("combiner"), f_I, f_T), f_I, f_T, y


def two_heads(mix: Callable[..., tuple], w: Weights, x: Array, text: Array, y: Array) -> tuple:
    """Return what a mix makes of both heads' v and t, as a composition, and the target."""
    v, t = unit(head(w.part("image_head"), x)), unit(head(w.part("text_head"), text))
    return *mix(w, v, t), unit(head(w.part("image_head"), y))


def clip_mix(w: Weights, v: Array, t: Array) -> tuple[Array, ...]:
    v, t, *_ = editors(w.part("editors"), v, t)
    return *combiner(w.part("combiner"), v, t), v, t


def tirg(w: Weights, v: Array, t: Array) -> tuple[Array | None, ...]:
    gated = w["gate_weight"] * gate(w.part("gate"), v, t) * v
    return unit(gated + w["residual_weight"] * mlp(w.part("residual"), v, t)), None, gated, None


def clip4cir(w: Weights, v: Array, t: Array) -> tuple[Array, ...]:
    p = head(w.part("image_projection"), v), head(w.part("text_projection"), t)
    lam = sigmoid(mlp(w.part("weight_mlp"), *p))
    return unit(mlp(w.part("mlp"), *p) + lam * v + (1 - lam) * t), lam, v, t


MIXES: dict[str, Callable[..., tuple]] = {
    "image only": lambda w, v, t: (v, None, v, None),
    "text only": lambda w, v, t: (t, None, None, t),
    "sum": lambda w, v, t: (unit(v + t), None, v, t),
    "concatenation": lambda w, v, t: (unit(mlp(w.part("mlp"), v, t)), None, None, None),
    "TIRG": tirg,
    "CLIP4Cir combiner": clip4cir,
}


def soft(Y: Array, identities: Array, alpha: float) -> Array:
    same = (identities[:, None] == identities).astype(float)
    return alpha * softmax(Y @ Y.T / 0.07) + (1 - alpha) * same / same.sum(1, keepdims=True)


def contrastive(Q: Array, Y: Array, Z: Array) -> Array:
    return -(Z * np.log(softmax(Q @ Y.T / 0.07))).sum() / len(Q)


def enhancement(Q: Array, Y: Array, Q_b: Array, Y_b: Array) -> Array:
    told, found = softmax(10 * Q_b @ Y_b.T), softmax(10 * Q @ Y.T)
    return (told * np.log(told / found)).sum() / len(Q)
