"""The three splits of a training, and what each stream reads of them (notebook 09)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from dwclib.data.datasets import load_data
from dwclib.data.triplets import Triplets, subset
from dwclib.data.vocabulary import Vocabulary
from dwclib.encoders import BOOK_CLIP, Clip, Features, features_of
from dwclib.errors import ConfigError
from dwclib.files import fingerprint
from dwclib.training.config import Config, ModelConfig
from dwclib.training.evaluation import usable_ks

TRIPLETS = "fingerprint of the training triplets"  # which a trained model does without
Inputs = Mapping[str, Features]  # what each stream reads of a dataset


class Split(NamedTuple):
    """Triplets, and what the streams read of them."""

    dataset: Triplets
    inputs: Inputs


class Splits(NamedTuple):
    """All that a training reads.

    Fields
    ------
    vocabulary : the words of the training texts.
    training, validation, evaluation : validation is held out of the training triplets.
    identity : fingerprints of what the weights depend on beside the configuration, by name.
    """

    vocabulary: Vocabulary
    training: Split
    validation: Split
    evaluation: Split
    identity: dict[str, str]


def load_splits(config: Config, device: str) -> Splits:
    """Load a configuration's data, hold the validation queries out, and encode all for the streams.

    Raises
    ------
    ConfigError
        When no batch can be drawn.
    DatasetError
        When the gallery that chooses the checkpoint is too small for any recall.
    """
    train, evaluation = load_data(config.data)
    fitted, held_out = hold_out(train, config.training.validation_share, seed=config.training.seed)
    if config.data.dataset == "synthfashion" and config.data.drop_noisy:
        fitted = fitted[~train.noisy[fitted]]
    _check_batch(config.training.batch, len(fitted), train.name)
    validation = subset(train, held_out, own_gallery=True)
    usable_ks(validation if config.training.select_on == "validation" else evaluation)
    texts = train.texts(style=config.data.captions)
    vocabulary = Vocabulary.from_texts(texts[row] for row in fitted)
    inputs = inputs_of(config, train, vocabulary, device)
    return Splits(
        vocabulary,
        Split(subset(train, fitted), _rows_of(inputs, fitted)),
        Split(validation, _rows_of(inputs, held_out)),
        Split(evaluation, inputs_of(config, evaluation, vocabulary, device)),
        {
            "fingerprint of the vocabulary": fingerprint(list(vocabulary.words)),
            "fingerprint of CLIP": _clip(config.model, device).identity() if "clip" in inputs else "",
            TRIPLETS: fingerprint(
                train.image_ids, texts, train.references.tobytes(), train.targets.tobytes()
            ),
        },
    )


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


def read(
    model: ModelConfig,
    vocabulary: Vocabulary,
    pictures: UInt8[np.ndarray, "images h w 3"],
    texts: Sequence[str],
    device: str,
) -> dict[str, Features]:
    """Return what each stream reads of pictures and texts that stand in no dataset."""
    inputs: dict[str, Features] = {}
    if "clip" in model.streams:
        clip = _clip(model, device)
        inputs["clip"] = Features(clip.encode_images(pictures), clip.encode_texts(texts))
    if "cnn" in model.streams:
        inputs["cnn"] = Features(
            _as_tensor(pictures), vocabulary.encode(texts, strict=True, one_number=not model.mask_padding)
        )
    return inputs


def inputs_of(config: Config, dataset: Triplets, vocabulary: Vocabulary, device: str) -> dict[str, Features]:
    """Return what each stream reads of a dataset that has pictures."""
    texts, pictures = dataset.texts(style=config.data.captions), dataset.pictures  # type: ignore[attr-defined]
    inputs: dict[str, Features] = {}
    if "clip" in config.model.streams:
        clip = _clip(config.model, device)
        inputs["clip"] = features_of(clip, dataset, pictures, texts=texts, mirrored=config.training.flip)
    if "cnn" in config.model.streams:
        inputs["cnn"] = Features(
            _as_tensor(pictures), vocabulary.encode(texts, one_number=not config.model.mask_padding)
        )
    return inputs


def _rows_of(inputs: Inputs, rows: Int[np.ndarray, " n"]) -> Inputs:
    return {name: part._replace(texts=part.texts[torch.from_numpy(rows)]) for name, part in inputs.items()}


def _clip(model: ModelConfig, device: str) -> Clip:
    return _loaded_clip(model.clip, model.clip_weights, device)


@lru_cache(maxsize=2)
def _loaded_clip(name: str, weights: str | None, device: str) -> Clip:
    return Clip(BOOK_CLIP if name == "book" else name, weights, device=device)


def _check_batch(batch: int, triplets: int, where: str) -> None:
    if batch > triplets:
        raise ConfigError(
            f"a batch of {batch} triplets cannot be drawn from {triplets}",
            where=where,
            remedy=f"Use 2 to {triplets}." if triplets > 1 else "Use more triplets.",
        )


def _as_tensor(pictures: np.ndarray) -> Tensor:
    """View pictures that may be mapped from disk, read-only, as a tensor."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(pictures)
