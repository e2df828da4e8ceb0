"""Pre-training of the two networks that come with the book, on a world of SynthFashion of its own.

``python -m dwclib pretrain clip`` writes ``data/clip/``, from images and full captions, as CLIP is trained;
``python -m dwclib pretrain cnn`` writes ``data/cnn/``, from images and their attributes, as an ImageNet
network is trained from images and their classes. Both write weights, metrics and the model card.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn
from tqdm import tqdm

from dwclib.data.garments import ATTRIBUTES
from dwclib.data.language import PREDICATES, full_caption
from dwclib.data.synthfashion import SynthFashion, synthfashion
from dwclib.encoders import BOOK_CLIP, BOOK_CNN, Clip, ResNet
from dwclib.files import atomic, check_changeable
from dwclib.retrieval import rank, recall_at_k

CONFIG = "open_clip_config.json"
WEIGHTS = "open_clip_model.safetensors"
CNN_WEIGHTS = "model.safetensors"

CLIP_CARD = """# The book's CLIP

A small CLIP for 64-pixel pictures in open_clip's own layout: `open_clip.create_model("local-dir:data/clip")`.
It was trained on SynthFashion's "pretrain" split, garments of their own described in full captions, by

    python -m dwclib pretrain clip

which wrote this card too. Settings: {used}. Weights are stored as float16.
It knows nothing but SynthFashion; it is no model for real photographs.

## Zero-shot, validation split (2,000 images, never trained on)

R@K: the image is among the first K when it is searched by a caption that names all its attributes.
An attribute's row: share of images whose value wins among one prompt per value.

| measure | per cent (minutes: of training) |
|---|---|
{found}
"""

CNN_CARD = """# The book's ResNet

A small ResNet for 64-pixel pictures, one block a stage, with feature maps of 8 x 8 positions: what ImageNet's
ResNet-50 is to real photographs. `config.json` names the timm architecture and its arguments.
It was trained to tell the attributes of the garments of SynthFashion's "pretrain" split, by

    python -m dwclib pretrain cnn

which wrote this card too. Settings: {used}. Weights are stored as float16.
It knows nothing but SynthFashion; it is no model for real photographs.

## Attributes told right, validation split (2,000 images, never trained on)

| attribute | per cent (minutes: of training) |
|---|---|
{found}
"""


def pretrain_clip(
    folder: Path = BOOK_CLIP,
    *,
    images: int = 24_000,
    epochs: int = 20,
    batch: int = 64,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.1,
    seed: int = 0,
) -> dict[str, float]:
    """Train the model that ``open_clip_config.json`` in `folder` describes; write weights, metrics and card.

    Parameters
    ----------
    folder : where the configuration is and the results go.
    images : how many pictures to draw; each epoch describes them in new words.
    epochs, batch, learning_rate, weight_decay : of AdamW, with a warm-up over 5 % and a cosine to zero.
    seed : of weights, order, and captions.

    Returns
    -------
    The zero-shot figures on the validation split, as in ``metrics.json``.
    """
    from open_clip import ClipLoss

    check_changeable(folder / WEIGHTS)
    start = time.time()
    model, tokenizer = _new_model(folder, seed)
    dataset = synthfashion("pretrain", images=images)
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=learning_rate,
        betas=(0.9, 0.98),
    )
    rng, loss_of = np.random.default_rng(seed), ClipLoss()

    def losses() -> Iterator[Tensor]:
        for _ in range(epochs):
            order = rng.permutation(images)
            for rows in order[: images // batch * batch].reshape(-1, batch):
                yield loss_of(*model(*_batch(model, tokenizer, dataset, rows, rng)))
                with torch.no_grad():  # after the step
                    model.logit_scale.clamp_(0, math.log(100))

    _fit(optimizer, losses(), epochs * (images // batch), clipped=model.parameters())
    _save_weights(model, folder / WEIGHTS)
    settings = {"images": images, "epochs": epochs, "batch": batch, "learning_rate": learning_rate,
                "weight_decay": weight_decay, "seed": seed}  # fmt: skip
    metrics = {**zero_shot(Clip(folder)), "minutes": round((time.time() - start) / 60, 1)}
    _write_card(folder, CLIP_CARD, settings, metrics)
    return metrics


def pretrain_cnn(
    folder: Path = BOOK_CNN,
    *,
    images: int = 24_000,
    epochs: int = 12,
    batch: int = 64,
    learning_rate: float = 2e-3,
    weight_decay: float = 0.05,
    seed: int = 0,
) -> dict[str, float]:
    """Train the ResNet that ``config.json`` in `folder` describes to tell every attribute of a garment.

    Parameters
    ----------
    folder : where the configuration is and the results go.
    images : how many pictures to draw.
    epochs, batch, learning_rate, weight_decay : of AdamW, with a warm-up over 5 % and a cosine to zero.
    seed : of weights and order.

    Returns
    -------
    For each attribute the share (per cent) of validation images told right, as in ``metrics.json``.
    """
    check_changeable(folder / CNN_WEIGHTS)
    start = time.time()
    torch.manual_seed(seed)
    net = ResNet(folder, random=True)
    net.to(memory_format=torch.channels_last)
    heads = nn.ModuleList([nn.Linear(net.channels, len(values)) for values in ATTRIBUTES.values()])
    dataset = synthfashion("pretrain", images=images)
    pictures, codes = torch.from_numpy(np.array(dataset.pictures)), torch.from_numpy(dataset.codes)
    optimizer = torch.optim.AdamW(
        [*net.parameters(), *heads.parameters()], lr=learning_rate, weight_decay=weight_decay
    )

    def losses() -> Iterator[Tensor]:
        for _ in range(epochs):
            for rows in torch.randperm(images)[: images // batch * batch].split(batch):
                pooled = net(pictures[rows]).mean(dim=(2, 3))  # (B, C, h, w) -> (B, C)
                told = zip(heads, codes[rows].T, strict=True)
                each = [nn.functional.cross_entropy(head(pooled), code) for head, code in told]
                yield torch.stack(each).sum()

    _fit(optimizer, losses(), epochs * (images // batch))
    _save_weights(net.body, folder / CNN_WEIGHTS)
    metrics = {**_attributes_told(net.eval(), heads), "minutes": round((time.time() - start) / 60, 1)}
    settings = {"images": images, "epochs": epochs, "batch": batch, "learning_rate": learning_rate,
                "weight_decay": weight_decay, "seed": seed}  # fmt: skip
    _write_card(folder, CNN_CARD, settings, metrics)
    return metrics


@torch.no_grad()
def _attributes_told(net: ResNet, heads: nn.ModuleList) -> dict[str, float]:
    dataset = synthfashion("val")
    pooled = torch.cat(
        [net(part).mean(dim=(2, 3)) for part in torch.from_numpy(np.array(dataset.pictures)).split(250)]
    )
    return {
        attribute: round(100 * float((heads[i](pooled).argmax(1).numpy() == dataset.codes[:, i]).mean()), 1)
        for i, attribute in enumerate(ATTRIBUTES)
    }


def zero_shot(clip: Clip, *, seed: int = 0) -> dict[str, float]:
    """Measure what a CLIP knows about SynthFashion's validation split without any training on it.

    Returns
    -------
    Recall@1, 10 and 50 in per cent of finding an image by a caption that names every attribute, over as many
    images as the split has; and for each attribute the share (per cent) of images whose value is told right.
    """
    dataset = synthfashion("val")
    rng = np.random.default_rng(seed)
    captions = [full_caption(dataset.garment(i), rng, keep=1.0) for i in range(len(dataset.pictures))]
    images = nn.functional.normalize(clip.encode_images(dataset.pictures), dim=-1)
    texts = nn.functional.normalize(clip.encode_texts(captions), dim=-1)
    recall = recall_at_k(rank(texts, images, k=50), torch.arange(len(images)), ks=(1, 10, 50))
    metrics = {f"R@{k}": round(value, 2) for k, value in recall.items()}
    for column, (attribute, values) in enumerate(ATTRIBUTES.items()):
        if attribute in PREDICATES:
            prompts = [f"a garment, {PREDICATES[attribute][value][0]}" for value in values]
            scores = images @ nn.functional.normalize(clip.encode_texts(prompts), dim=-1).T
            right = scores.argmax(-1).numpy() == dataset.codes[:, column]
            metrics[attribute] = round(100 * float(right.mean()), 1)
    return metrics


def _new_model(folder: Path, seed: int) -> tuple[Any, Any]:
    import open_clip

    torch.manual_seed(seed)
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    return model, open_clip.get_tokenizer(f"local-dir:{folder}")


def _fit(
    optimizer: torch.optim.Optimizer, losses: Iterator[Tensor], steps: int, *, clipped: Iterable[Tensor] = ()
) -> None:
    """Take a step on each loss; the learning rate warms up and falls to zero along a cosine.

    Parameters
    ----------
    optimizer, losses, steps : of the training.
    clipped : the weights whose gradients are held to a norm of one.
    """
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _warm_cosine(step, steps))
    clipped = list(clipped)
    bar = tqdm(losses, total=steps, desc="pretrain")
    for loss in bar:
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(clipped, 1.0)
        optimizer.step()
        schedule.step()
        bar.set_postfix(loss=f"{loss.item():.3f}")


def _batch(
    model: Any, tokenizer: Any, dataset: SynthFashion, rows: Int[np.ndarray, " b"], rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    captions = [full_caption(dataset.garment(row), rng) for row in rows]
    pictures = torch.from_numpy(dataset.pictures[np.sort(rows)][np.argsort(np.argsort(rows))])
    mean, std = (torch.tensor(v)[:, None, None] for v in (model.visual.image_mean, model.visual.image_std))
    return (pictures.permute(0, 3, 1, 2).float() / 255 - mean) / std, tokenizer(captions)


def _warm_cosine(step: int, steps: int, *, warm_up: float = 0.05) -> float:
    progress = step / steps
    return min(progress / warm_up, 0.5 * (1 + math.cos(math.pi * progress)))


def _save_weights(model: Any, path: Path) -> None:
    from safetensors.torch import save_file

    with atomic(path) as target:
        save_file({name: tensor.half().contiguous() for name, tensor in model.state_dict().items()}, target)


def _write_card(folder: Path, card: str, settings: dict[str, float], metrics: dict[str, float]) -> None:
    found = "\n".join(f"| {name} | {value} |" for name, value in metrics.items())
    used = ", ".join(f"{name} {value}" for name, value in settings.items())
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
    (folder / "README.md").write_text(card.format(used=used, found=found))
