"""The streams that a configuration describes, each built from the seed (notebook 09)."""

from __future__ import annotations

import torch

from dwclib.encoders import BOOK_CNN, ResNet
from dwclib.streams import DWC, ClipStream, CnnStream, Composer
from dwclib.training.composer import seed_everything
from dwclib.training.config import Config, ModelConfig
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
    for name in model.streams:
        seed_everything(config.training.seed)
        if name == "clip":
            streams[name] = ClipStream(
                inputs["clip"].images.shape[1],
                dim=model.dim,
                dropout=model.dropout,
                editors=model.editors,
                modality_weight=model.modality_weight,
            )
        else:
            streams[name] = _cnn_stream(model, words)
    return DWC(streams)


def _cnn_stream(model: ModelConfig, words: int) -> CnnStream:
    cnn = ResNet(BOOK_CNN if model.cnn == "book" else model.cnn, model.cnn_weights)
    stream = CnnStream(
        cnn,
        words,
        dim=model.dim,
        word_dim=model.word_dim,
        dropout=model.dropout,
        word_temperature=model.word_temperature,
        position_temperature=model.position_temperature,
        mask_padding=model.mask_padding,
        editors=model.editors,
        modality_weight=model.modality_weight,
    )
    return stream.to(memory_format=torch.channels_last)  # faster on a CPU, and what tensor cores want
