"""What is compared: `make bench` times each way, keeps every round, and the quotients of medians.

Each function prepares what is compared, in `found.actions`; after `yield` the times are there, and it adds
quotients and whatever else it counts. Only quotients mean something on another machine.
"""

from __future__ import annotations

import copy
import statistics
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from joblib import Parallel, cpu_count, delayed
from torch import nn
from workload import (
    BLOCK,
    JPEG_PIXELS,
    QUERIES,
    SEEDS,
    WAYS,
    Batches,
    Sizes,
    as_channels,
    busy_share,
    clustered,
    count_passes,
    decode,
    decoded,
    dwc_model,
    elsewhere,
    frozen_clip,
    one_step,
    peak_of,
    random_pictures,
    rank_once,
    read_one,
    search_row,
    steps_with,
    train_alone,
    train_each,
    train_together,
    triplets,
    wait,
    with_threads,
    write_gallery,
    write_jpegs,
)

from dwclib.data.images import image_store
from dwclib.retrieval import exact_search, rank
from dwclib.training.alternate import AlternateTraining
from dwclib.training.config import TrainingConfig, read_recipe

RELEASED = TrainingConfig(
    share_maps=False, teacher_mode="train", teacher_target="reference", detach_labels=False
)


@dataclass
class Compared:
    """What is compared, and what was found."""

    rounds: int
    actions: dict[str, Callable[[], Any]] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    ratios: dict[str, float] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    def median(self, way: str) -> float:
        return statistics.median(self.seconds[way])

    def compare(self, above: str, below: str) -> None:
        self.ratios[f"{above} / {below}"] = self.median(above) / self.median(below)


def test_way(compared: Compared, way: str | None, device: str, request) -> None:
    """Time one way, after one untimed round; a benchmark without ways measures in its own manner."""
    if way is None:
        return

    def timed() -> None:
        compared.actions[way]()
        wait(device)

    benchmark = request.getfixturevalue("benchmark")
    benchmark.pedantic(timed, rounds=compared.rounds, warmup_rounds=1)
    compared.seconds[way] = benchmark.stats.stats.data


def step(found: Compared, sizes: Sizes, device: str) -> Iterator[None]:
    """One training step: the released code's schedule, ours, and what no schedule can spare.

    The released code decodes both pictures of a triplet in every step, runs the ResNet four times (twice
    with backward), and the frozen CLIP five times on images and three times on texts. Ours runs the ResNet
    twice, with backward; pictures come from the store and CLIP's features from the cache.
    """
    model, clip = dwc_model(sizes), frozen_clip(sizes).to(device)
    theirs = AlternateTraining(as_channels("first", copy.deepcopy(model)).to(device), RELEASED)
    ours = AlternateTraining(as_channels("last", model).to(device), TrainingConfig())
    cnn = copy.deepcopy(ours.model["cnn"].cnn)
    with tempfile.TemporaryDirectory() as folder:
        files = write_jpegs(Path(folder), 2 * sizes.batch)
        pictures = decoded(files, sizes.pixels).to(device)
        batch = triplets(pictures, sizes)

        def released() -> None:
            theirs.step(triplets(decoded(files, sizes.pixels).to(device), sizes, clip))

        def necessary() -> None:
            torch.stack([cnn(part).mean() for part in pictures.split(sizes.batch)]).sum().backward()

        found.actions = {
            "released schedule": released,
            "our step": lambda: ours.step(batch),
            "two ResNet passes": necessary,
        }
        yield
        found.facts["passes in a step"] = {
            "released schedule": count_passes(theirs.model, clip, found.actions["released schedule"]),
            "our step": count_passes(ours.model, clip, found.actions["our step"]),
        }
    found.compare("released schedule", "our step")
    found.compare("our step", "two ResNet passes")
    found.facts |= {"cnn": sizes.cnn, "clip": sizes.clip, "pixels": sizes.pixels, "batch": sizes.batch}


def settings(found: Compared, sizes: Sizes, device: str) -> Iterator[None]:
    """Our step under other settings: memory layout, number of threads, precision."""
    batch = triplets(random_pictures(2 * sizes.batch, sizes.pixels).to(device), sizes)
    base = dwc_model(sizes)

    def trainer(layout: str, **config: Any) -> AlternateTraining:
        model = as_channels(layout, copy.deepcopy(base)).to(device)
        return AlternateTraining(model, TrainingConfig(**config))

    last, first, bf16 = trainer("last"), trainer("first"), trainer("last", precision="bf16")
    found.actions = {
        "channels last": lambda: last.step(batch),
        "channels first": lambda: first.step(batch),
        "bf16": lambda: bf16.step(batch),
        "one thread": lambda: with_threads(1, lambda: last.step(batch)),
    }
    yield
    for way in found.seconds:
        if way != "channels last":
            found.compare(way, "channels last")
    found.facts = {"cnn": sizes.cnn, "pixels": sizes.pixels, "batch": sizes.batch}
    found.facts["threads"] = torch.get_num_threads()


def store(found: Compared, sizes: Sizes, device: str) -> Iterator[None]:
    """Pictures of JPEG files: decoded by one core and by all, put into the store, and read from it.

    Reading is in random order, as training does.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = write_jpegs(folder / "images", sizes.images)
        parts = [files[part :: 2 * cpu_count()] for part in range(2 * cpu_count())]
        order = np.random.default_rng(0).permutation(sizes.images)
        few = [files[row] for row in order[: max(1, sizes.images // 10)]]

        def fill(path: Path) -> np.ndarray:
            return image_store(
                path, partial(read_one, files, sizes.pixels), len(files), sizes.pixels
            ).pictures

        def fill_anew() -> None:
            with tempfile.TemporaryDirectory(dir=folder) as place:
                fill(Path(place) / "store.npy")

        pictures = fill(folder / "store.npy")
        found.actions = {
            "decode": lambda: decode(few, sizes.pixels),
            "decode on all cores": lambda: Parallel(n_jobs=-1)(
                delayed(decode)(part, sizes.pixels) for part in parts
            ),
            "fill": fill_anew,
            "store": lambda: [torch.from_numpy(pictures[part]) for part in np.array_split(order, 64)],
        }
        yield
    counts = {"decode": len(few)}
    rates = {way: counts.get(way, sizes.images) / found.median(way) for way in found.actions}
    found.ratios["store images/s / decoded images/s"] = rates["store"] / rates["decode"]
    found.compare("decode on all cores", "fill")
    found.facts = {f"{name}, images/s": rate for name, rate in rates.items()}
    found.facts |= {"pixels": sizes.pixels, "jpeg pixels": JPEG_PIXELS}


def ranking(found: Compared, sizes: Sizes, device: str) -> Iterator[None]:
    """The ranking of all queries to 50, and the bare matrix product with torch's own selection."""
    generator = torch.Generator().manual_seed(0)
    queries, gallery = (
        nn.functional.normalize(torch.randn(rows, sizes.width, generator=generator), dim=1).to(device)
        for rows in (sizes.queries, sizes.gallery)
    )
    found.rounds = min(3, sizes.rounds)
    found.actions = {
        "rank": lambda: rank(queries, gallery, k=50),
        "product and topk": lambda: [(part @ gallery.T).topk(50) for part in queries.split(1024)],
    }
    yield
    found.compare("rank", "product and topk")
    some = queries[:1024]
    sorted_fully = (some @ gallery.T).sort(dim=1, descending=True, stable=True).indices[:, :50]
    found.facts = {"queries": sizes.queries, "gallery": sizes.gallery, "width": sizes.width}
    found.facts["same as a full sort"] = bool(torch.equal(rank(some, gallery, k=50), sorted_fully))
    found.facts["peak memory, GB"] = peak_of(rank_once, sizes, device) / 1e9


def memory(found: Compared, sizes: Sizes, device: str) -> Iterator[None]:
    """The peak memory of a step at three batch sizes, and a line through them."""
    yield
    smallest = sizes.batch if device == "cpu" else sizes.large_batch // 4
    batches = [smallest * factor for factor in (1, 2, 4)]
    before, *peaks = (peak_of(one_step, sizes._replace(batch=batch), device) / 1e6 for batch in (0, *batches))
    peaks = [peak - before for peak in peaks]
    slope, intercept = np.polyfit(batches, peaks, 1)
    found.ratios["largest peak / line through the three"] = peaks[-1] / (slope * batches[-1] + intercept)
    found.facts = {
        "batch": batches,
        "peak of the step, MB": [round(peak, 1) for peak in peaks],
        "MB per triplet": slope,
        "MB whatever the batch": intercept,
        "batch x batch": "cosines, labels and logarithms of each stream, choices of student and teacher",
        "batch x batch, MB": [round(8 * 4 * batch**2 / 1e6, 3) for batch in batches],
        "cnn": sizes.cnn,
        "pixels": sizes.pixels,
    }


def seeds(found: Compared, sizes: Sizes, device: str) -> Iterator[None]:
    """The CLIP stream's runs from several seeds: in turn, together as one stacked model, in processes.

    An experiment has many short runs on cached features. This says which way to make them.
    """
    work = [(seed, sizes) for seed in range(sizes.seeds)]
    with Parallel(n_jobs=cpu_count()) as pool:
        found.actions = {
            "in turn": lambda: train_each(work),
            "together": lambda: train_together(sizes),
            "in processes": lambda: pool(delayed(train_alone)(*job) for job in work),
        }
        yield
    found.compare("in turn", "together")
    found.compare("in turn", "in processes")
    found.facts = {"dim": SEEDS["dim"], "batch": SEEDS["batch"], "steps": sizes.steps, "seeds": sizes.seeds}
    found.facts |= {"threads": torch.get_num_threads(), "processes": cpu_count()}


def throughput(found: Compared, sizes: Sizes, device: str) -> Iterator[None]:
    """Whole steps, data included: pictures from the store, mirrored on the device, bf16."""
    from torch.utils.data import DataLoader

    precision = "bf16" if device == "cuda" else "float32"
    model = as_channels("last", dwc_model(sizes)).to(device)
    trainer = AlternateTraining(model, TrainingConfig(precision=precision))
    data = Batches(random_pictures(4 * sizes.large_batch, sizes.pixels), sizes)
    loader = DataLoader(
        data, batch_size=None, num_workers=min(8, cpu_count() // 2), pin_memory=device == "cuda"
    )

    def epoch() -> None:
        for batch in loader:
            trainer.step(batch.to(torch.device(device)))

    found.actions = {"epoch": epoch}
    yield
    found.facts = {"triplets/s": len(data) * sizes.large_batch / found.median("epoch")}
    found.facts |= {"batch": sizes.large_batch, "precision": precision, "steps": len(data)}
    found.facts |= {"cnn": sizes.cnn, "pixels": sizes.pixels}
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        found.facts["busy share of the GPU"] = busy_share(epoch)
        found.facts["peak memory, GB"] = torch.cuda.max_memory_allocated() / 1e9


def search(found: Compared, sizes: Sizes, device: str) -> Iterator[None]:
    """100 queries: in a float16 file by `exact_search`, and in galleries of growing size, by each way.

    The bare product is that of as many float32 rows, a block at a time. "rows" tells of the galleries, each
    way in a new process: seconds from opening to the first answer (an index being built), milliseconds a
    query (alone, and of 100), the share of the exact search's answers, and memory beyond what it began with.
    """
    queries = torch.from_numpy(clustered(QUERIES, sizes.width, seed=1))
    with tempfile.TemporaryDirectory() as name:
        rows = write_gallery(Path(name) / "wide.npy", sizes.rows, sizes.width)
        block = torch.from_numpy(rows[:BLOCK]).float()
        found.actions = {
            "exact search": lambda: exact_search(queries, rows, k=50, block=BLOCK),
            "bare product": lambda: [
                queries @ block[: sizes.rows - first].T for first in range(0, sizes.rows, len(block))
            ],
        }
        yield
    found.compare("exact search", "bare product")
    found.facts = {"images": sizes.rows, "width": sizes.width, "queries": QUERIES, "rows": []}
    found.facts["gallery width"] = sizes.gallery_width
    for count in sizes.galleries:
        with tempfile.TemporaryDirectory() as name:
            write_gallery(Path(name) / "gallery.npy", count, sizes.gallery_width)
            found.facts["rows"] += [elsewhere(search_row, way, Path(name), sizes.rounds) for way in WAYS]


def processes(found: Compared, sizes: Sizes, device: str) -> Iterator[None]:
    """The steps of both streams on one process, and on two that share each batch; one thread each.

    The book's own networks, at the laptop recipe's sizes, with its batch and one of twice the size. A time is
    that of one step, from the log; hence nothing here is timed from outside.
    """
    yield
    laptop = read_recipe("synthfashion-laptop")
    found.facts = {"batches": [laptop.training.batch, 2 * laptop.training.batch], "dim": laptop.model.dim}
    for batch in found.facts["batches"]:
        seconds = steps_with(laptop, batch, sizes)
        found.seconds |= {f"{way}, batch {batch}": times for way, times in seconds.items()}
        one, two, beside = (statistics.median(times) for times in seconds.values())
        found.ratios[f"one process / two processes, batch {batch}"] = one / two
        found.ratios[f"what two cores allow, batch {batch}"] = 2 * one / beside


class Benchmark(NamedTuple):
    """What prepares it, the names of its ways, and the device that it is for where that is only one."""

    prepare: Callable[[Compared, Sizes, str], Iterator[None]]
    ways: tuple[str, ...] = ()
    only_on: str = ""


BENCHMARKS = {
    "step": Benchmark(step, ("released schedule", "our step", "two ResNet passes")),
    "settings": Benchmark(settings, ("channels last", "channels first", "bf16", "one thread")),
    "store": Benchmark(store, ("decode", "decode on all cores", "fill", "store")),
    "ranking": Benchmark(ranking, ("rank", "product and topk")),
    "memory": Benchmark(memory),
    "seeds": Benchmark(seeds, ("in turn", "together", "in processes")),
    "throughput": Benchmark(throughput, ("epoch",), only_on="cuda"),
    "search": Benchmark(search, ("exact search", "bare product"), only_on="cpu"),
    "processes": Benchmark(processes, only_on="cpu"),
}
