"""Soft-similarity labels: a target that resembles the right one is not simply wrong (notebook 06)."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor


def hard_labels(identities: Int[Tensor, " batch"]) -> Float[Tensor, "batch batch"]:
    """Share a label among all targets of one identity: ``P_ij = 1[c_i = c_j] / sum_j 1[c_i = c_j]``.

    Parameters
    ----------
    identities : c, (batch,): which garment each target is; equal numbers are the same garment.

    Source: released code.
    """
    same = (identities[:, None] == identities[None, :]).float()  # (B,) -> (B, B)
    return same / same.sum(dim=1, keepdim=True)


def soft_labels(
    targets: Float[Tensor, "batch dim"],
    identities: Int[Tensor, " batch"],
    *,
    alpha: float = 0.2,
    temperature: float = 0.07,
    detach: bool = True,
) -> Float[Tensor, "batch batch"]:
    """Soften labels by the targets' likeness: ``Z = alpha softmax_rows(Y Y^T / tau) + (1 - alpha) P``.

    Parameters
    ----------
    targets : Y, (batch, dim), rows of length one.
    identities : c, (batch,): which garment each target is.
    alpha : share of the similarity labels, in [0, 1]; 0 gives the hard labels P.
    temperature : tau; the smaller, the more of the similarity a target keeps for itself.
    detach : keep the gradient out of Z. The paper generates labels, and a label is given, not learned: so the
        default. The released code lets the gradient flow through Z; ``detach=False`` does the same.

    Returns rows that sum to one, (batch, batch). Source: released code.
    """
    Y = targets.detach() if detach else targets
    similarity = (Y @ Y.T / temperature).softmax(dim=1)  # (B, D) -> (B, B)
    return alpha * similarity + (1 - alpha) * hard_labels(identities)
