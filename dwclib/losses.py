"""Mixed-modality contrastive loss: logits, labels (`dwclib.soft_labels`), then the loss (notebook 06)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def similarity_logits(
    queries: Float[Tensor, "queries dim"],
    targets: Float[Tensor, "targets dim"],
    *,
    temperature: float = 0.07,
) -> Float[Tensor, "queries targets"]:
    """Return every query's cosine with every target, sharpened: ``q_i . y_j / tau``.

    Parameters
    ----------
    queries : Q, (queries, dim), rows of length one.
    targets : Y, (targets, dim), rows of length one.
    temperature : tau.

    Source: released code.
    """
    return queries @ targets.T / temperature  # (Q, D), (T, D) -> (Q, T)


def contrastive_loss(
    queries: Float[Tensor, "batch dim"],
    targets: Float[Tensor, "batch dim"],
    labels: Float[Tensor, "batch batch"],
    *,
    temperature: float = 0.07,
) -> Float[Tensor, ""]:
    """Pull each query to its labelled targets: ``L_c = -(1/B) sum_ij Z_ij log softmax_j(q_i . y_j / tau)``.

    Parameters
    ----------
    queries : Q, (batch, dim), rows of length one.
    targets : Y, (batch, dim), rows of length one.
    labels : Z, (batch, batch), hard or soft; each row sums to one.
    temperature : tau.

    Returns a scalar in nats, never below the labels' mean entropy. Source: released code.
    """
    log_p = similarity_logits(queries, targets, temperature=temperature).log_softmax(dim=1)
    return -(labels * log_p).sum(dim=1).mean()  # (B, B) -> (B,) -> ()
