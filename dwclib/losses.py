"""The losses: logits, labels (`dwclib.soft_labels`), then the loss.

The mixed-modality contrastive loss trains a stream (notebook 06), the mutual enhancement loss makes two
streams each other's teachers (notebook 08).
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


def similarity_logits(
    queries: Float[Tensor, "queries dim"], targets: Float[Tensor, "targets dim"], *, temperature: float = 0.07
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
    kept: float = 1.0,
) -> Float[Tensor, ""]:
    """Pull each query to its labelled targets: ``L_c = -(1/B) sum_ij Z_ij log softmax_j(q_i . y_j / tau)``.

    Parameters
    ----------
    queries : Q, (batch, dim), rows of length one.
    targets : Y, (batch, dim), rows of length one.
    labels : Z, (batch, batch), hard or soft; each row sums to one.
    temperature : tau.
    kept : share of the queries that count, those with the smallest losses: a rival for noisy labels.

    Returns a scalar in nats, never below the labels' mean entropy. Source: released code; `kept` follows
    small-loss selection (Han et al. 2018).
    """
    log_p = similarity_logits(queries, targets, temperature=temperature).log_softmax(dim=1)
    losses = -(labels * log_p).sum(dim=1)  # (B, B) -> (B,)
    if kept < 1:
        losses = losses.topk(max(1, round(kept * len(losses))), largest=False).values
    return losses.mean()  # (B,) -> ()


def mutual_enhancement_loss(
    queries: Float[Tensor, "batch dim"],
    targets: Float[Tensor, "batch dim"],
    teacher_queries: Float[Tensor, "batch teacher_dim"],
    teacher_targets: Float[Tensor, "batch teacher_dim"],
    *,
    scale: float = 10.0,
) -> Float[Tensor, ""]:
    """Let a student rank a batch as its teacher does.

    ``L_m = KL(softmax(10 Q_b Y_b^T) || softmax(10 Q_a Y_a^T))``, the student a learning from the teacher b.

    Parameters
    ----------
    queries, targets : the student's Q_a and Y_a, (batch, dim), rows of length one.
    teacher_queries, teacher_targets : the teacher's Q_b and Y_b; no gradient reaches them.
    scale : what the cosines are multiplied by.

    Returns a scalar in nats, the mean over queries; 0 where both rank with the same confidence.
    Source: released code.
    """
    student = similarity_logits(queries, targets, temperature=1 / scale).log_softmax(dim=1)
    teacher = similarity_logits(
        teacher_queries.detach(), teacher_targets.detach(), temperature=1 / scale
    ).log_softmax(dim=1)
    return functional.kl_div(student, teacher, reduction="batchmean", log_target=True)
