"""Pre-training: what it leaves in a network's folder."""

import shutil
from dataclasses import replace

import torch

from dwclib.encoders import BOOK_CNN, ResNet
from dwclib.files import read_json
from dwclib.training.pretrain import CNN_SETTINGS, pretrain_cnn


def test_a_trained_network_loads_and_its_card_says_how_it_was_trained(tmp_path):
    folder = tmp_path / "cnn"
    shutil.copytree(BOOK_CNN, folder)
    metrics = pretrain_cnn(folder, replace(CNN_SETTINGS, images=64, epochs=1, batch=32))
    assert read_json(folder / "metrics.json") == metrics
    card, book = ((at / "README.md").read_text().split("\n") for at in (folder, BOOK_CNN))
    same = [line for line in book if not line.startswith(("|", "which wrote"))]
    assert [line for line in card if not line.startswith(("|", "which wrote"))] == same
    assert "Settings: images 64, epochs 1, batch 32, learning_rate 0.002" in "\n".join(card)
    assert [line for line in card if line.startswith("| ")][1:] == [
        f"| {k} | {v} |" for k, v in metrics.items()
    ]
    weights = [next(ResNet(at).parameters()) for at in (folder, BOOK_CNN)]
    assert not torch.equal(*weights)
