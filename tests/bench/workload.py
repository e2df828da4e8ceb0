"""What the benchmark works on: models, batches, pictures, galleries of a given size; and other processes."""

from __future__ import annotations

import copy
import os
import statistics
import subprocess
import sys
import tempfile
import time
import timeit
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
import yaml
from PIL import Image
from torch import Tensor, nn

from dwclib.data.images import read_image
from dwclib.data.synthfashion import synthfashion
from dwclib.encoders import Clip, ResNet
from dwclib.experiments.machine import peak_memory
from dwclib.losses import contrastive_loss
from dwclib.retrieval import exact_search, rank
from dwclib.search.gallery import Gallery
from dwclib.soft_labels import soft_labels
from dwclib.streams import DWC, ClipStream, CnnStream
from dwclib.training.alternate import AlternateTraining, Batch
from dwclib.training.config import Config, TrainingConfig, read_config
from dwclib.training.single import seed_everything

SEEDS = {"features": 256, "dim": 256, "batch": 128}  # of the CLIP stream in the grids of part 3
WAYS = ("exact", "FLAT", "IVF_FLAT")  # `exact_search` in a file, and two indices of a `Gallery`
WORDS, LENGTH = 2_000, 20  # of a vocabulary and of a text, as large as FashionIQ's
QUERIES, BLOCK, DIRECTIONS = 100, 16_384, 16  # of the searches in large galleries
JPEG_PIXELS = 448  # width and height of the files, about those of FashionIQ


class Sizes(NamedTuple):
    """How much work a benchmark is.

    Fields
    ------
    cnn, clip : architectures, with random weights; "book" for the book's small ones.
    clip_dim : width of this CLIP's features.
    pixels : width and height of a training picture.
    dim : the embedding width.
    batch, large_batch : triplets a step, on a CPU and on a GPU.
    rounds : repetitions of everything that is timed.
    images : how many JPEG files the store is filled with.
    queries, gallery, width : of the ranking.
    seeds, steps : runs of the CLIP stream, and the steps of each.
    rows : images of the exact search in a file, of `width`.
    galleries : sizes of the galleries that are searched exactly and by an index, `gallery_width` wide.
    """

    cnn: str = "resnet50"
    clip: str = "RN50"
    clip_dim: int = 1024
    pixels: int = 224
    dim: int = 1024
    batch: int = 8
    large_batch: int = 256
    rounds: int = 5
    images: int = 1_000
    queries: int = 33_480
    gallery: int = 29_789
    width: int = 2_048
    seeds: int = 10
    steps: int = 20
    rows: int = 200_000
    galleries: tuple[int, ...] = (1_000, 10_000, 100_000, 1_000_000)
    gallery_width: int = 128


QUICK = Sizes("book", "book", 128, 64, 32, 16, 16, 2, 40, 300, 200, 16, 2, 2, 3_000, (200, 400), 16)


def steps_with(laptop: Config, batch: int, sizes: Sizes) -> dict[str, list[float]]:
    """Time the steps with a batch, each way in turn."""
    steps = 10 + sizes.images // 64
    few = {"train_images": 800, "train_queries": batch * steps, "val_images": 200, "val_queries": 200}
    config = laptop.but(data=few, training={"epochs": 1, "log_every": 5, "batch": batch})
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    ways: dict[str, list[tuple[list[str], str]]] = {
        "one process": [([], "one")],
        "two processes": [(launcher, "two")],
        "two trainings beside each other": [([], "left"), ([], "right")],
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(min(3, sizes.rounds)):
        for way, trainings in ways.items():
            with tempfile.TemporaryDirectory() as name:
                recipe = Path(name) / "recipe.yml"
                recipe.write_text(yaml.safe_dump(config.model_dump()), encoding="utf-8")
                seconds[way] += steps_of(trainings, recipe)
    return seconds


def steps_of(trainings: Sequence[tuple[Sequence[str], str]], recipe: Path) -> list[float]:
    """Train as the shell does, all at once; return the seconds of a step, for each five but the first."""
    command = ["-m", "dwclib", "train", str(recipe), "--device", "cpu", "--out"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    folders = [recipe.with_name(name) for _, name in trainings]
    running = [
        subprocess.Popen(
            [sys.executable, *launcher, *command, str(folder)], env=environment, stdout=subprocess.DEVNULL
        )
        for (launcher, _), folder in zip(trainings, folders, strict=True)
    ]
    codes = [process.wait() for process in running]
    assert not any(codes), "a training failed"
    logs, batch = [pd.read_csv(folder / "log.csv") for folder in folders], read_config(recipe).training.batch
    fives = [log.groupby((log["step"] - 1) // 5)["pictures_per_second"].first().iloc[1:] for log in logs]
    return [2 * batch / rate for rates in fives for rate in rates]


def train_one(seed: int, sizes: Sizes) -> None:
    """Take a few steps of one CLIP stream on random features."""
    seed_everything(seed)
    model = DWC({"clip": ClipStream(SEEDS["features"], dim=SEEDS["dim"])})
    trainer = AlternateTraining(model, TrainingConfig(learning_rate=1e-3))
    for _ in range(sizes.steps):
        reference, target, text = torch.randn(3, SEEDS["batch"], SEEDS["features"]).unbind()
        identities = torch.arange(SEEDS["batch"])
        trainer.step(Batch({"clip": reference}, {"clip": target}, {"clip": text}, identities))


def train_each(work: list[tuple[int, Sizes]]) -> None:
    for job in work:
        train_one(*job)


def train_alone(seed: int, sizes: Sizes) -> None:
    with_threads(1, lambda: train_one(seed, sizes))


def train_together(sizes: Sizes) -> None:
    """Take the same steps of all seeds at once: their weights stacked, their losses mapped over the stack."""
    from torch.func import functional_call, stack_module_state, vmap

    seed_everything(0)
    model = Loss(ClipStream(SEEDS["features"], dim=SEEDS["dim"])).train()
    stacked, _ = stack_module_state([copy.deepcopy(model) for _ in range(sizes.seeds)])
    weights = {name: value.detach().requires_grad_() for name, value in stacked.items()}
    optimizer = torch.optim.Adam(weights.values(), lr=1e-3, eps=1e-8, fused=True)
    losses = vmap(lambda own, *batch: functional_call(model, own, batch), randomness="different")
    for _ in range(sizes.steps):
        batch = torch.randn(3, sizes.seeds, SEEDS["batch"], SEEDS["features"]).unbind()
        optimizer.zero_grad(set_to_none=True)
        losses(weights, *batch).sum().backward()
        optimizer.step()


class Loss(nn.Module):
    """The contrastive loss of a CLIP stream, as one module that can be stacked."""

    def __init__(self, stream: ClipStream) -> None:
        super().__init__()
        self.stream = stream

    def forward(self, reference: Tensor, target: Tensor, text: Tensor) -> Tensor:
        query, y = self.stream.compose(reference, text).query, self.stream.embed_target(target)
        return contrastive_loss(query, y, soft_labels(y, torch.arange(len(y))))


class Batches(torch.utils.data.Dataset):
    """Batches of random triplets among pictures in memory."""

    def __init__(self, pictures: Tensor, sizes: Sizes) -> None:
        self.pictures, self.sizes, self.batch = pictures, sizes, sizes.large_batch

    def __len__(self) -> int:
        return len(self.pictures) // self.batch

    def __getitem__(self, number: int) -> Batch:
        if number >= len(self):
            raise IndexError(number)
        rng = torch.Generator().manual_seed(number)
        rows = torch.randint(len(self.pictures), (2 * self.batch,), generator=rng)
        batch = triplets(self.pictures[rows], self.sizes)
        return batch._replace(mirror=torch.rand(2, self.batch, generator=rng) < 0.5)


def dwc_model(sizes: Sizes) -> DWC:
    cnn = ResNet() if sizes.cnn == "book" else ResNet(sizes.cnn)
    return DWC(
        {"clip": ClipStream(sizes.clip_dim, dim=sizes.dim), "cnn": CnnStream(cnn, WORDS, dim=sizes.dim)}
    )


def frozen_clip(sizes: Sizes) -> Any:
    import open_clip

    clip = Clip().model if sizes.clip == "book" else open_clip.create_model(sizes.clip)
    return clip.eval().requires_grad_(False)


def as_channels(layout: str, model: DWC) -> DWC:
    """Let the ResNet work with channels "last", or "first": its input decides, so turn that."""
    if layout == "last":
        model["cnn"].to(memory_format=torch.channels_last)
    else:
        first_layer(model).register_forward_pre_hook(lambda _, inputs: (inputs[0].contiguous(),))
    return model


def first_layer(model: DWC) -> nn.Module:
    """Return the ResNet's first convolution: it runs once in every pass."""
    return next(module for module in model["cnn"].modules() if isinstance(module, nn.Conv2d))


def write_jpegs(folder: Path, count: int) -> list[Path]:
    """Write drawn garments as JPEG files; few are drawn, and each is written under several names."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = synthfashion("val", images=min(count, 16), queries=8, size=JPEG_PIXELS).pictures
    files = [folder / f"{number:05d}.jpg" for number in range(count)]
    for number, file in enumerate(files):
        Image.fromarray(np.asarray(drawn[number % len(drawn)])).save(file, quality=90)
    return files


def read_one(files: list[Path], pixels: int, number: int) -> np.ndarray:
    return read_image(files[number], pixels)


def decode(files: list[Path], pixels: int) -> None:
    for file in files:
        read_image(file, pixels)


def decoded(files: list[Path], pixels: int) -> Tensor:
    return torch.from_numpy(np.stack([read_image(file, pixels) for file in files]))


def random_pictures(count: int, pixels: int) -> Tensor:
    return torch.randint(
        256, (count, pixels, pixels, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


def triplets(pictures: Tensor, sizes: Sizes, clip: Any = None) -> Batch:
    """Make triplets, the first half of the pictures references; a CLIP is run as the released code does."""
    references, targets = pictures.chunk(2)
    count, device = len(references), pictures.device
    rng = torch.Generator().manual_seed(count)
    words = torch.randint(2, WORDS, (count, LENGTH), generator=rng).to(device)
    if clip is None:
        x, y, w = (torch.randn(count, sizes.clip_dim, generator=rng).to(device) for _ in range(3))
    else:
        x, y, w = as_released(clip, references, targets)
    return Batch(
        references={"clip": x, "cnn": references},
        targets={"clip": y, "cnn": targets},
        texts={"clip": w, "cnn": words},
        identities=torch.arange(count, device=device),
    )


@torch.no_grad()
def as_released(clip: Any, references: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Encode a batch by CLIP as often as the released code does: five times images, three times texts."""
    tokens = torch.randint(1, 400, (len(references), clip.context_length), device=references.device)
    images = [part.permute(0, 3, 1, 2).float() / 255 for part in (references, targets)]
    x, y = (clip.encode_image(part) for part in images)
    for _ in range(3):
        clip.encode_image(images[0])
        w = clip.encode_text(tokens)
    return x, y, w


def count_passes(model: DWC, clip: nn.Module, step: Callable[[], Any]) -> dict[str, int]:
    """Count how often a step runs each network."""
    counted: dict[str, Any] = {
        "ResNet": first_layer(model),
        "CLIP, images": clip.visual,
        "CLIP, texts": clip.token_embedding,
    }
    found = dict.fromkeys(counted, 0)
    hooks = []
    for name, module in counted.items():

        def count(*_: Any, name: str = name) -> None:
            found[name] += 1

        hooks.append(module.register_forward_hook(count))
    step()
    for hook in hooks:
        hook.remove()
    return found


def with_threads(count: int, action: Callable[[], Any]) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        action()
    finally:
        torch.set_num_threads(before)


def one_step(sizes: Sizes, device: str) -> None:
    """Take two steps, the second with the optimisers' moments in place; a batch of 0 takes none."""
    trainer = AlternateTraining(as_channels("last", dwc_model(sizes)).to(device), TrainingConfig())
    for _ in range(2 if sizes.batch else 0):
        trainer.step(triplets(random_pictures(2 * sizes.batch, sizes.pixels).to(device), sizes))


def rank_once(sizes: Sizes, device: str) -> None:
    queries, gallery = (torch.randn(n, sizes.width, device=device) for n in (sizes.queries, sizes.gallery))
    rank(queries, gallery, k=50)


def peak_of(action: Callable[[Sizes, str], None], sizes: Sizes, device: str) -> float:
    """Run an action in a new process and return its peak memory in bytes: the process's, or the GPU's."""
    return elsewhere(peak_here, action, sizes, device)


def elsewhere(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a new process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def peak_here(action: Callable[[Sizes, str], None], sizes: Sizes, device: str) -> float:
    action(sizes, device)
    return 1e9 * peak_memory()["gpu" if device == "cuda" else "cpu"]


def clustered(count: int, width: int, *, seed: int) -> np.ndarray:
    """Draw vectors of length one that lie near a few directions; which ones does not depend on the seed."""
    rng = np.random.default_rng(seed)
    directions = np.random.default_rng(0).standard_normal((DIRECTIONS, width), dtype=np.float32)
    mixed = rng.standard_normal((count, len(directions)), dtype=np.float32) @ directions
    vectors = mixed + rng.standard_normal((count, width), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def write_gallery(path: Path, count: int, width: int) -> np.ndarray:
    """Write a gallery of float16, a part at a time, and map it."""
    rows = np.lib.format.open_memmap(path, "w+", np.float16, (count, width))
    for first in range(0, count, BLOCK):
        part = rows[first : first + BLOCK]
        part[:] = clustered(len(part), width, seed=2 + first)
    return rows


def search_row(way: str, folder: Path, rounds: int) -> dict[str, Any]:
    """Measure one way of searching the gallery in a folder, and leave there what the next way needs."""
    rows, before = np.load(folder / "gallery.npy", mmap_mode="r"), peak_memory()["cpu"]
    queries = clustered(QUERIES, rows.shape[1], seed=1)
    filled = {} if way == "exact" else fill_once(folder / "gallery.db", rows)
    start = time.perf_counter()
    search = searcher(way, folder / "gallery.db", rows)
    search(queries[:1])
    ready = time.perf_counter() - start
    alone, together = (
        statistics.median(timeit.repeat(lambda part=part: search(part), number=1, repeat=rounds))
        for part in (queries[:1], queries)
    )
    places = search(queries)
    if way == "exact":
        np.save(folder / "exact.npy", places)
    right = [np.isin(*pair).mean() for pair in zip(places, np.load(folder / "exact.npy"), strict=True)]
    return {
        "gallery": len(rows),
        "way": way,
        "ready, s": ready,
        "ms a query, alone": 1e3 * alone,
        "ms a query, of 100": 1e3 * together / len(queries),
        "recall@10, %": 100 * float(np.mean(right)),
        "memory, GB": peak_memory()["cpu"] - before,
        **filled,
    }


def fill_once(path: Path, rows: np.ndarray) -> dict[str, float]:
    """Insert a gallery where there is none, and say how fast."""
    if path.exists():
        return {}
    start = time.perf_counter()
    with Gallery(path, dim=rows.shape[1]) as gallery:
        gallery.add([str(place) for place in range(len(rows))], rows)
    return {"images/s": len(rows) / (time.perf_counter() - start)}


def searcher(way: str, path: Path, rows: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Return what finds the positions of the 10 best images."""
    if way == "exact":
        return lambda queries: exact_search(torch.from_numpy(queries), rows, k=10)[0].numpy()
    gallery = Gallery(path, index=way)
    return lambda queries: np.where((ids := gallery.search(queries, 10).ids) == "", "-1", ids).astype(
        np.int64
    )


def busy_share(action: Callable[[], None]) -> float:
    """Return the share of an action's time in which the GPU computes."""
    from torch.profiler import ProfilerActivity, profile

    wait("cuda")
    start = time.perf_counter()
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        action()
        wait("cuda")
    seconds = time.perf_counter() - start
    busy = sum(event.self_device_time_total for event in profiled.key_averages()) / 1e6
    return min(1.0, busy / seconds)


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
