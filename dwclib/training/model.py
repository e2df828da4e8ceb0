"""The streams that a configuration describes, each built from the seed (notebook 09)."""

from __future__ import annotations

from typing import Any

import torch

from dwclib.baselines import BASELINES
from dwclib.encoders import BOOK_CNN, ResNet
from dwclib.streams import DWC, ClipStream, CnnStream, Composer
from dwclib.training.config import Config, ModelConfig
from dwclib.training.single import seed_everything
from dwclib.training.splits import Inputs


def build_model(config: Config, inputs: Inputs, words: int) -> DWC:
    """Build the streams; each starts from the seed, whether or not the other is there.

    Parameters
    ----------
    config : which streams, of which parts.
    inputs : tells the width of CLIP's features.
    words : size of the vocabulary.
    """
    model, streams = config.model, dict[str, Composer]()
    shared = model.model_dump(include={"dim", "dropout", "editors", "modality_weight"})
    own = model.model_dump(include={"word_dim", "word_temperature", "position_temperature", "mask_padding"})
    for name in model.streams:
        seed_everything(config.training.seed)
        if name == "clip":
            streams[name] = _clip_stream(model, inputs["clip"].images.shape[1], **shared)
        else:
            cnn = ResNet(BOOK_CNN if model.cnn == "book" else model.cnn, model.cnn_weights)
            stream = CnnStream(cnn, words, **own, **shared)
            # Faster on a CPU, and what tensor cores want.
            streams[name] = stream.to(memory_format=torch.channels_last)
    return DWC(streams)


def _clip_stream(model: ModelConfig, width: int, *, dim: int, dropout: float, **parts: Any) -> Composer:
    if model.composer in BASELINES:
        return BASELINES[model.composer](width, dim=dim, dropout=dropout)
    return ClipStream(width, dim=dim, dropout=dropout, **parts)
