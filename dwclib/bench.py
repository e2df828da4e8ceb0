"""The benchmark: ratios measured in one run, kept per machine in ``data/results/benchmarks/``.

What is compared runs in turn, round after round, so that a slow minute of the machine slows all alike. Only
ratios mean something on another machine; every second is kept beside them.
"""

from __future__ import annotations

import copy
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import pandas as pd
import torch
import yaml
from jaxtyping import Float16, Float32, Int
from torch import Tensor, nn

from dwclib.data.images import ImageFolder, read_image, stored_folder
from dwclib.encoders import ResNet
from dwclib.errors import ConfigError
from dwclib.experiments.machine import cores, device_name, peak_memory, stamp
from dwclib.files import DATA, atomic
from dwclib.losses import contrastive_loss
from dwclib.retrieval import exact_search, rank
from dwclib.soft_labels import soft_labels
from dwclib.streams import DWC, ClipStream, CnnStream
from dwclib.training.alternate import AlternateTraining, Batch
from dwclib.training.composer import seed_everything
from dwclib.training.config import Config, TrainingConfig, read_config, read_recipe

FOLDER = DATA / "results" / "benchmarks"
RELEASED = TrainingConfig(
    share_maps=False, teacher_mode="train", teacher_target="reference", detach_labels=False
)
SEEDS = {"features": 256, "dim": 256, "batch": 128}  # of the CLIP stream in the grids of part 3
SEARCH = {"queries": 100, "block": 16_384, "directions": 16}  # of the searches in large galleries
WAYS = ("exact", "FLAT", "IVF_FLAT")  # `exact_search` in a file, and two indices of a `Gallery`
WORDS, LENGTH = 2_000, 20  # of a vocabulary and of a text, as large as FashionIQ's


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


class Times(NamedTuple):
    """What was compared: the seconds of each round, and what else was counted.

    Fields
    ------
    seconds : name -> one number a round.
    ratios : sentence -> quotient of two medians.
    facts : whatever else was measured, and on what.
    """

    seconds: dict[str, list[float]]
    ratios: dict[str, float]
    facts: dict[str, Any]


def in_turn(
    actions: Mapping[str, Callable[[], Any]], *, rounds: int, device: str = "cpu"
) -> dict[str, list[float]]:
    """Run each action once untimed, then all in turn, `rounds` times; return the seconds of each."""
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for number in range(rounds + 1):
        for name, action in actions.items():
            _wait(device)
            start = time.perf_counter()
            action()
            _wait(device)
            if number:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def quotient(seconds: Mapping[str, list[float]], above: str, below: str) -> float:
    """Return the quotient of two medians."""
    return statistics.median(seconds[above]) / statistics.median(seconds[below])


def bench_step(sizes: Sizes, device: str) -> Times:
    """Time one training step: the released code's schedule, ours, and what no schedule can spare.

    The released code decodes both pictures of a triplet in every step, runs the ResNet four times (twice
    with backward), and the frozen CLIP five times on images and three times on texts. Ours runs the ResNet
    twice, with backward; pictures come from the store and CLIP's features from the cache.
    """
    model, clip = _model(sizes), _clip(sizes).to(device)
    theirs = AlternateTraining(_channels_first(copy.deepcopy(model)).to(device), RELEASED)
    ours = AlternateTraining(_channels_last(model).to(device), TrainingConfig())
    cnn = cast(ResNet, copy.deepcopy(ours.model["cnn"].cnn))
    with tempfile.TemporaryDirectory() as folder:
        files = _write_jpegs(Path(folder), 2 * sizes.batch)
        pictures = _decoded(files, sizes.pixels).to(device)
        batch = _batch(pictures, sizes)

        def released() -> None:
            fresh = _decoded(files, sizes.pixels).to(device)
            theirs.step(_batch(fresh, sizes, clip))

        def necessary() -> None:
            maps = [cnn(part) for part in pictures.split(sizes.batch)]
            torch.stack([part.mean() for part in maps]).sum().backward()

        actions = {
            "released schedule": released,
            "our step": lambda: ours.step(batch),
            "two ResNet passes": necessary,
        }
        passes = {
            "released schedule": _passes(theirs.model, clip, released),
            "our step": _passes(ours.model, clip, lambda: ours.step(batch)),
        }
        seconds = in_turn(actions, rounds=sizes.rounds, device=device)
    ratios = {
        "released schedule / our step": quotient(seconds, "released schedule", "our step"),
        "our step / two ResNet passes": quotient(seconds, "our step", "two ResNet passes"),
    }
    setup = {"cnn": sizes.cnn, "clip": sizes.clip, "pixels": sizes.pixels, "batch": sizes.batch}
    return Times(seconds, ratios, {**setup, "passes in a step": passes})


def bench_settings(sizes: Sizes, device: str) -> Times:
    """Time our step under other settings: memory layout, number of threads, precision."""
    pictures = _random_pictures(2 * sizes.batch, sizes.pixels).to(device)
    base = _model(sizes)
    variants = {
        "channels last": AlternateTraining(_channels_last(copy.deepcopy(base)).to(device), TrainingConfig()),
        "channels first": AlternateTraining(
            _channels_first(copy.deepcopy(base)).to(device), TrainingConfig()
        ),
        "bf16": AlternateTraining(
            _channels_last(copy.deepcopy(base)).to(device), TrainingConfig(precision="bf16")
        ),
    }
    batch = _batch(pictures, sizes)
    actions: dict[str, Callable[[], Any]] = {
        name: lambda trainer=trainer: trainer.step(batch)  # type: ignore[misc]
        for name, trainer in variants.items()
    }
    if device == "cpu" and torch.get_num_threads() > 1:
        actions["one thread"] = lambda: _with_threads(1, lambda: variants["channels last"].step(batch))
    seconds = in_turn(actions, rounds=sizes.rounds, device=device)
    names = [name for name in seconds if name != "channels last"]
    ratios = {f"{name} / channels last": quotient(seconds, name, "channels last") for name in names}
    setup = {"cnn": sizes.cnn, "pixels": sizes.pixels, "batch": sizes.batch}
    return Times(seconds, ratios, {**setup, "threads": torch.get_num_threads()})


def bench_store(sizes: Sizes, device: str) -> Times:
    """Time pictures of JPEG files: decoded by one core and by all, put into the store, and read from it.

    Reading is in random order, as training does. The processes that decode and fill are started beforehand.
    """
    from joblib import Parallel, delayed

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = _write_jpegs(folder / "images", sizes.images)
        ids, parts = (
            [file.stem for file in files],
            [files[part :: 2 * cores()] for part in range(2 * cores())],
        )
        order = np.random.default_rng(0).permutation(sizes.images)
        few = [files[row] for row in order[: max(1, sizes.images // 10)]]

        def fill(path: Path) -> ImageFolder:
            return stored_folder(path, folder / "images", ids, sizes.pixels)

        def fill_anew() -> None:
            with tempfile.TemporaryDirectory(dir=folder) as place:
                fill(Path(place) / "store.npy")

        def decode_on_all() -> None:
            Parallel(n_jobs=-1)(delayed(_decode)(part, sizes.pixels) for part in parts)

        def read() -> None:
            for part in np.array_split(order, max(1, len(order) // 64)):
                torch.from_numpy(store.pictures[part])

        store = fill(folder / "store.npy")
        actions = {
            "decode": lambda: _decode(few, sizes.pixels),
            "decode on all cores": decode_on_all,
            "fill": fill_anew,
            "store": read,
        }
        seconds = in_turn(actions, rounds=sizes.rounds)
    of_each = {"decode": len(few), **dict.fromkeys(("decode on all cores", "fill", "store"), sizes.images)}
    rates = {name: count / statistics.median(seconds[name]) for name, count in of_each.items()}
    ratios = {
        "store images/s / decoded images/s": rates["store"] / rates["decode"],
        "decode on all cores / fill": quotient(seconds, "decode on all cores", "fill"),
    }
    facts = {f"{name}, images/s": rate for name, rate in rates.items()}
    return Times(seconds, ratios, {"pixels": sizes.pixels, "jpeg pixels": JPEG_PIXELS, **facts})


def bench_ranking(sizes: Sizes, device: str) -> Times:
    """Time the ranking of all queries to 50, and the bare matrix product with torch's own selection."""
    generator = torch.Generator().manual_seed(0)
    queries, gallery = (
        nn.functional.normalize(torch.randn(rows, sizes.width, generator=generator), dim=1).to(device)
        for rows in (sizes.queries, sizes.gallery)
    )

    def bare() -> None:
        for part in queries.split(1024):
            (part @ gallery.T).topk(50)

    actions = {"rank": lambda: rank(queries, gallery, k=50), "product and topk": bare}
    seconds = in_turn(actions, rounds=min(3, sizes.rounds), device=device)
    some = queries[:1024]
    sorted_fully = (some @ gallery.T).sort(dim=1, descending=True, stable=True).indices[:, :50]
    ratios = {"rank / product and topk": quotient(seconds, "rank", "product and topk")}
    facts: dict[str, Any] = {"queries": sizes.queries, "gallery": sizes.gallery, "width": sizes.width}
    facts["same as a full sort"] = bool(torch.equal(rank(some, gallery, k=50), sorted_fully))
    facts["peak memory, GB"] = _peak_of(_rank_once, sizes, device) / 1e9
    return Times(seconds, ratios, facts)


def bench_memory(sizes: Sizes, device: str) -> Times:
    """Measure the peak memory of a step at three batch sizes, and fit a line."""
    smallest = sizes.batch if device == "cpu" else sizes.large_batch // 4
    batches = [smallest * factor for factor in (1, 2, 4)]
    before = _peak_of(_one_step, sizes._replace(batch=0), device)
    peaks = [(_peak_of(_one_step, sizes._replace(batch=batch), device) - before) / 1e6 for batch in batches]
    slope, intercept = np.polyfit(batches, peaks, 1)
    facts = {
        "batch": batches,
        "peak of the step, MB": [round(peak, 1) for peak in peaks],
        "MB per triplet": float(slope),
        "MB whatever the batch": float(intercept),
        "batch x batch": "cosines, labels and logarithms of each stream, choices of student and teacher",
        "batch x batch, MB": [round(8 * 4 * batch**2 / 1e6, 3) for batch in batches],
        "cnn": sizes.cnn,
        "pixels": sizes.pixels,
    }
    line = np.polyval((slope, intercept), batches)
    return Times({}, {"largest peak / line through the three": float(peaks[-1] / line[-1])}, facts)


def bench_seeds(sizes: Sizes, device: str) -> Times:
    """Time the CLIP stream's runs from several seeds: in turn, together as one stacked model, in processes.

    An experiment has many short runs on cached features. This says which way to make them.
    """
    from joblib import Parallel, delayed

    work = [(seed, sizes) for seed in range(sizes.seeds)]
    with Parallel(n_jobs=cores()) as pool:
        seconds = in_turn(
            {
                "in turn": lambda: _train_each(work),
                "together": lambda: _train_together(sizes),
                "in processes": lambda: pool(delayed(_alone)(*job) for job in work),
            },
            rounds=sizes.rounds,
        )
    ratios = {f"in turn / {way}": quotient(seconds, "in turn", way) for way in ("together", "in processes")}
    setup = {"dim": SEEDS["dim"], "batch": SEEDS["batch"], "steps": sizes.steps, "seeds": sizes.seeds}
    return Times(seconds, ratios, {**setup, "threads": torch.get_num_threads(), "processes": cores()})


def bench_throughput(sizes: Sizes, device: str) -> Times:
    """Time whole steps, data included: pictures from the store, mirrored on the device, bf16."""
    from torch.utils.data import DataLoader

    rows = 4 * sizes.large_batch
    pictures = _random_pictures(rows, sizes.pixels)
    precision = "bf16" if device == "cuda" else "float32"
    model = _channels_last(_model(sizes)).to(device)
    trainer = AlternateTraining(model, TrainingConfig(precision=precision))  # type: ignore[arg-type]
    data = _Batches(pictures, sizes)
    loader = DataLoader(data, batch_size=None, num_workers=min(8, cores() // 2), pin_memory=device == "cuda")

    def epoch() -> None:
        for batch in loader:
            trainer.step(batch.to(torch.device(device)))

    seconds = in_turn({"epoch": epoch}, rounds=sizes.rounds, device=device)
    rate = len(data) * sizes.large_batch / statistics.median(seconds["epoch"])
    facts: dict[str, Any] = {"triplets/s": rate, "batch": sizes.large_batch, "precision": precision}
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        facts["busy share of the GPU"] = _busy_share(epoch)
        facts["peak memory, GB"] = torch.cuda.max_memory_allocated() / 1e9
    return Times(seconds, {}, {**facts, "cnn": sizes.cnn, "pixels": sizes.pixels, "steps": len(data)})


def bench_search(sizes: Sizes, device: str) -> Times:
    """Time 100 queries: in a float16 file by `exact_search`, and in galleries of growing size, by each way.

    The bare product is that of as many float32 rows, a block at a time. Galleries are told of in `rows`.
    """
    queries = torch.from_numpy(_clustered(SEARCH["queries"], sizes.width, seed=1))
    with tempfile.TemporaryDirectory() as name:
        rows = _write_gallery(Path(name) / "wide.npy", sizes.rows, sizes.width)
        block = torch.from_numpy(rows[: SEARCH["block"]]).float()

        def bare() -> None:
            for first in range(0, sizes.rows, len(block)):
                queries @ block[: sizes.rows - first].T

        actions = {
            "exact search": lambda: exact_search(queries, rows, k=50, block=SEARCH["block"]),
            "bare product": bare,
        }
        seconds = in_turn(actions, rounds=sizes.rounds)
    ratios = {"exact search / bare product": quotient(seconds, "exact search", "bare product")}
    setup = {"images": sizes.rows, "width": sizes.width, "queries": SEARCH["queries"]}
    found = search_sizes(sizes.galleries, sizes.gallery_width, rounds=sizes.rounds)
    return Times(seconds, ratios, {**setup, "gallery width": sizes.gallery_width, "rows": found})


def search_sizes(galleries: Sequence[int], width: int, *, rounds: int = 3) -> list[dict[str, Any]]:
    """Measure search against the size of the gallery: one row for each size and way, each in a new process.

    Parameters
    ----------
    galleries : how many images; their vectors form clusters, as those of garments do.
    width : of the vectors.
    rounds : repetitions, of which the median counts.

    Returns
    -------
    Rows with "gallery", "way" (one of `WAYS`), "ready, s" (from opening to the first answer, an index being
    built), "ms a query" (alone, and "of 100"), "recall@10, %" (of what the exact search finds), "memory, GB"
    (the most that the process took beyond what it began with), and "images/s" inserted.
    """
    found = []
    for count in galleries:
        with tempfile.TemporaryDirectory() as name:
            _write_gallery(Path(name) / "gallery.npy", count, width)
            found += [_elsewhere(_search_row, way, Path(name), rounds) for way in WAYS]
    return found


def bench_processes(sizes: Sizes, device: str) -> Times:
    """Time the steps of both streams on one process, and on two that share each batch; one thread each.

    The book's own networks, at the laptop recipe's sizes, with its batch and one of twice the size. A time is
    that of one step, from the log.
    """
    laptop = read_recipe("synthfashion-laptop")
    seconds: dict[str, list[float]] = {}
    ratios: dict[str, float] = {}
    batches = (laptop.training.batch, 2 * laptop.training.batch)
    for batch in batches:
        found = _steps_with(laptop, batch, sizes)
        seconds |= {f"{name}, batch {batch}": times for name, times in found.items()}
        ratios |= {
            f"one process / two processes, batch {batch}": quotient(found, "one process", "two processes"),
            f"what two cores allow, batch {batch}": 2
            * quotient(found, "one process", "two trainings beside each other"),
        }
    return Times(seconds, ratios, {"batches": batches, "dim": laptop.model.dim})


BENCHMARKS: dict[str, Callable[[Sizes, str], Times]] = {
    "step": bench_step,
    "settings": bench_settings,
    "store": bench_store,
    "ranking": bench_ranking,
    "memory": bench_memory,
    "seeds": bench_seeds,
    "throughput": bench_throughput,
    "search": bench_search,
    "processes": bench_processes,
}
ON_ONE_DEVICE = {"throughput": "cuda", "search": "cpu", "processes": "cpu"}


def run(
    *, only: list[str] | None = None, quick: bool = False, device: str | None = None, folder: Path = FOLDER
) -> Path:
    """Run the benchmarks and write their results into this machine's file; return its path.

    Parameters
    ----------
    only : names of `BENCHMARKS`; the file's other results stay as they are. By default all that the device
        is for.
    quick : tiny sizes, to see that everything runs; kept in a file of its own.
    device : "cpu" or "cuda"; a GPU where there is one, by default.
    folder : where the files are.

    Raises
    ------
    ConfigError
        For a name that is none of `BENCHMARKS`.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    chosen = only or [name for name in BENCHMARKS if ON_ONE_DEVICE.get(name, device) == device]
    if unknown := sorted(set(chosen) - set(BENCHMARKS)):
        raise ConfigError(
            f"there is no benchmark {unknown[0]!r}", where="bench", remedy=f"Use {', '.join(BENCHMARKS)}."
        )
    path = folder / f"{machine(device)}{'-quick' if quick else ''}.json"
    for name in chosen:
        seed_everything(0)
        start = time.perf_counter()
        found = BENCHMARKS[name](QUICK if quick else Sizes(), device)
        row = {**found._asdict(), **stamp(device), "took": round(time.perf_counter() - start, 1)}
        results = {**(read(path) if path.exists() else {}), name: row}
        with atomic(path) as target:
            target.write_text(json.dumps(results, indent=1, default=float) + "\n", encoding="utf-8")
        for what, value in found.ratios.items():
            print(f"{name}: {what} = {value:.2f}", flush=True)
    return path


def read(path: Path) -> dict[str, dict[str, Any]]:
    """Read a machine's results, name -> `Times` as a dictionary, with device, versions and date.

    Raises
    ------
    ConfigError
        When the file is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"it cannot be read ({error})", where=path, remedy="Remove it and run 'make bench'."
        ) from error


def machine(device: str) -> str:
    """Name the kind of machine, as a file name: "cpu-2-cores", "nvidia-h200"."""
    return "-".join(device_name(device).lower().replace(",", "").split())


JPEG_PIXELS = 448  # width and height of the files, about those of FashionIQ


def _steps_with(laptop: Config, batch: int, sizes: Sizes) -> dict[str, list[float]]:
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
                seconds[way] += _steps_of(trainings, recipe)
    return seconds


def _steps_of(trainings: Sequence[tuple[Sequence[str], str]], recipe: Path) -> list[float]:
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
    if any(codes):
        raise ConfigError("a training failed", where="benchmark processes", remedy="See what it said above.")
    logs, batch = [pd.read_csv(folder / "log.csv") for folder in folders], read_config(recipe).training.batch
    fives = [log.groupby((log["step"] - 1) // 5)["pictures_per_second"].first().iloc[1:] for log in logs]
    return [2 * batch / rate for rates in fives for rate in rates]


def _train_one(seed: int, sizes: Sizes) -> None:
    """Take a few steps of one CLIP stream on random features."""
    seed_everything(seed)
    model = DWC({"clip": ClipStream(SEEDS["features"], dim=SEEDS["dim"])})
    trainer = AlternateTraining(model, TrainingConfig(learning_rate=1e-3))
    for _ in range(sizes.steps):
        reference, target, text = torch.randn(3, SEEDS["batch"], SEEDS["features"]).unbind()
        identities = torch.arange(SEEDS["batch"])
        trainer.step(Batch({"clip": reference}, {"clip": target}, {"clip": text}, identities))


def _train_each(work: list[tuple[int, Sizes]]) -> None:
    for job in work:
        _train_one(*job)


def _alone(seed: int, sizes: Sizes) -> None:
    _with_threads(1, lambda: _train_one(seed, sizes))


def _train_together(sizes: Sizes) -> None:
    """Take the same steps of all seeds at once: their weights stacked, their losses mapped over the stack."""
    from torch.func import functional_call, stack_module_state, vmap

    seed_everything(0)
    model = _Loss(ClipStream(SEEDS["features"], dim=SEEDS["dim"])).train()
    stacked, _ = stack_module_state([copy.deepcopy(model) for _ in range(sizes.seeds)])
    weights = {name: value.detach().requires_grad_() for name, value in stacked.items()}
    optimizer = torch.optim.Adam(weights.values(), lr=1e-3, eps=1e-8, fused=True)
    losses = vmap(lambda own, *batch: functional_call(model, own, batch), randomness="different")
    for _ in range(sizes.steps):
        batch = torch.randn(3, sizes.seeds, SEEDS["batch"], SEEDS["features"]).unbind()
        optimizer.zero_grad(set_to_none=True)
        losses(weights, *batch).sum().backward()
        optimizer.step()


class _Loss(nn.Module):
    """The contrastive loss of a CLIP stream, as one module that can be stacked."""

    def __init__(self, stream: ClipStream) -> None:
        super().__init__()
        self.stream = stream

    def forward(self, reference: Tensor, target: Tensor, text: Tensor) -> Tensor:
        query, y = self.stream.compose(reference, text).query, self.stream.embed_target(target)
        return contrastive_loss(query, y, soft_labels(y, torch.arange(len(y))))


class _Batches(torch.utils.data.Dataset):
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
        batch = _batch(self.pictures[rows], self.sizes)
        return batch._replace(mirror=torch.rand(2, self.batch, generator=rng) < 0.5)


def _model(sizes: Sizes) -> DWC:
    cnn = ResNet() if sizes.cnn == "book" else ResNet(sizes.cnn)
    return DWC(
        {"clip": ClipStream(sizes.clip_dim, dim=sizes.dim), "cnn": CnnStream(cnn, WORDS, dim=sizes.dim)}
    )


def _clip(sizes: Sizes) -> Any:
    import open_clip

    from dwclib.encoders import Clip

    clip = Clip().model if sizes.clip == "book" else open_clip.create_model(sizes.clip)
    return clip.eval().requires_grad_(False)


def _channels_last(model: DWC) -> DWC:
    model["cnn"].to(memory_format=torch.channels_last)
    return model


def _channels_first(model: DWC) -> DWC:
    """Let the ResNet work in PyTorch's default layout: its input decides, so turn that."""
    _first_layer(model).register_forward_pre_hook(lambda _, inputs: (inputs[0].contiguous(),))
    return model


def _first_layer(model: DWC) -> nn.Module:
    """Return the ResNet's first convolution: it runs once in every pass."""
    return next(module for module in model["cnn"].modules() if isinstance(module, nn.Conv2d))


def _write_jpegs(folder: Path, count: int) -> list[Path]:
    """Write drawn garments as JPEG files; few are drawn, and each is written under several names."""
    from PIL import Image

    from dwclib.data.synthfashion import synthfashion

    folder.mkdir(parents=True, exist_ok=True)
    drawn = synthfashion("val", images=min(count, 16), queries=8, size=JPEG_PIXELS).pictures
    files = [folder / f"{number:05d}.jpg" for number in range(count)]
    for number, file in enumerate(files):
        Image.fromarray(np.asarray(drawn[number % len(drawn)])).save(file, quality=90)
    return files


def _decode(files: list[Path], pixels: int) -> None:
    for file in files:
        read_image(file, pixels)


def _decoded(files: list[Path], pixels: int) -> Tensor:
    return torch.from_numpy(np.stack([read_image(file, pixels) for file in files]))


def _random_pictures(count: int, pixels: int) -> Tensor:
    return torch.randint(
        256, (count, pixels, pixels, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


def _batch(pictures: Tensor, sizes: Sizes, clip: Any = None) -> Batch:
    """Make triplets, the first half of the pictures references; a CLIP is run as the released code does."""
    references, targets = pictures.chunk(2)
    count, device = len(references), pictures.device
    rng = torch.Generator().manual_seed(count)
    words = torch.randint(2, WORDS, (count, LENGTH), generator=rng).to(device)
    if clip is None:
        x, y, w = (torch.randn(count, sizes.clip_dim, generator=rng).to(device) for _ in range(3))
    else:
        x, y, w = _as_released(clip, references, targets)
    return Batch(
        references={"clip": x, "cnn": references},
        targets={"clip": y, "cnn": targets},
        texts={"clip": w, "cnn": words},
        identities=torch.arange(count, device=device),
    )


@torch.no_grad()
def _as_released(clip: Any, references: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Encode a batch by CLIP as often as the released code does: five times images, three times texts."""
    tokens = torch.randint(1, 400, (len(references), clip.context_length), device=references.device)
    images = [part.permute(0, 3, 1, 2).float() / 255 for part in (references, targets)]
    x, y = (clip.encode_image(part) for part in images)
    for _ in range(3):
        clip.encode_image(images[0])
        w = clip.encode_text(tokens)
    return x, y, w


def _passes(model: DWC, clip: nn.Module, step: Callable[[], Any]) -> dict[str, int]:
    """Count how often a step runs each network."""
    counted: dict[str, Any] = {
        "ResNet": _first_layer(model),
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


def _with_threads(count: int, action: Callable[[], Any]) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        action()
    finally:
        torch.set_num_threads(before)


def _one_step(sizes: Sizes, device: str) -> None:
    """Take two steps, the second with the optimisers' moments in place; a batch of 0 takes none."""
    trainer = AlternateTraining(_channels_last(_model(sizes)).to(device), TrainingConfig())
    for _ in range(2 if sizes.batch else 0):
        trainer.step(_batch(_random_pictures(2 * sizes.batch, sizes.pixels).to(device), sizes))


def _rank_once(sizes: Sizes, device: str) -> None:
    queries, gallery = (torch.randn(n, sizes.width, device=device) for n in (sizes.queries, sizes.gallery))
    rank(queries, gallery, k=50)


def _peak_of(action: Callable[[Sizes, str], None], sizes: Sizes, device: str) -> float:
    """Run an action in a new process and return its peak memory in bytes: the process's, or the GPU's."""
    return _elsewhere(_measured, action, sizes, device)


def _elsewhere(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a new process."""
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def _measured(action: Callable[[Sizes, str], None], sizes: Sizes, device: str) -> float:
    action(sizes, device)
    return 1e9 * peak_memory()["gpu" if device == "cuda" else "cpu"]


def _clustered(count: int, width: int, *, seed: int) -> Float32[np.ndarray, "count width"]:
    """Draw vectors of length one that lie near a few directions; which ones does not depend on the seed."""
    rng = np.random.default_rng(seed)
    directions = np.random.default_rng(0).standard_normal((SEARCH["directions"], width), dtype=np.float32)
    mixed = rng.standard_normal((count, len(directions)), dtype=np.float32) @ directions
    vectors = mixed + rng.standard_normal((count, width), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _write_gallery(path: Path, count: int, width: int) -> Float16[np.ndarray, "count width"]:
    """Write a gallery of float16, a part at a time, and map it."""
    rows = np.lib.format.open_memmap(path, "w+", np.float16, (count, width))
    for first in range(0, count, SEARCH["block"]):
        part = rows[first : first + SEARCH["block"]]
        part[:] = _clustered(len(part), width, seed=2 + first)
    return rows


def _search_row(way: str, folder: Path, rounds: int) -> dict[str, Any]:
    """Measure one way of searching the gallery in a folder, and leave there what the next way needs."""
    rows, before = np.load(folder / "gallery.npy", mmap_mode="r"), peak_memory()["cpu"]
    queries = _clustered(SEARCH["queries"], rows.shape[1], seed=1)
    filled = {} if way == "exact" else _fill_once(folder / "gallery.db", rows)
    start = time.perf_counter()
    search = _searcher(way, folder / "gallery.db", rows)
    search(queries[:1])
    ready = time.perf_counter() - start
    seconds = in_turn(
        {"alone": lambda: search(queries[:1]), "of 100": lambda: search(queries)}, rounds=rounds
    )
    places = search(queries)
    if way == "exact":
        np.save(folder / "exact.npy", places)
    right = [np.isin(*pair).mean() for pair in zip(places, np.load(folder / "exact.npy"), strict=True)]
    return {
        "gallery": len(rows),
        "way": way,
        "ready, s": ready,
        "ms a query, alone": 1e3 * statistics.median(seconds["alone"]),
        "ms a query, of 100": 1e3 * statistics.median(seconds["of 100"]) / len(queries),
        "recall@10, %": 100 * float(np.mean(right)),
        "memory, GB": peak_memory()["cpu"] - before,
        **filled,
    }


def _fill_once(path: Path, rows: Float16[np.ndarray, "count width"]) -> dict[str, float]:
    """Insert a gallery where there is none, and say how fast."""
    from dwclib.search.gallery import Gallery

    if path.exists():
        return {}
    start = time.perf_counter()
    with Gallery(path, dim=rows.shape[1]) as gallery:
        gallery.add([str(place) for place in range(len(rows))], rows)
    return {"images/s": len(rows) / (time.perf_counter() - start)}


def _searcher(
    way: str, path: Path, rows: Float16[np.ndarray, "count width"]
) -> Callable[[np.ndarray], Int[np.ndarray, "queries 10"]]:
    """Return what finds the positions of the 10 best images."""
    if way == "exact":
        return lambda queries: exact_search(torch.from_numpy(queries), rows, k=10)[0].numpy()
    from dwclib.search.gallery import Gallery

    gallery = Gallery(path, index=cast(Any, way))
    return lambda queries: np.where((ids := gallery.search(queries, 10).ids) == "", "-1", ids).astype(
        np.int64
    )


def _busy_share(action: Callable[[], None]) -> float:
    """Return the share of an action's time in which the GPU computes."""
    from torch.profiler import ProfilerActivity, profile

    _wait("cuda")
    start = time.perf_counter()
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        action()
        _wait("cuda")
    seconds = time.perf_counter() - start
    busy = sum(event.self_device_time_total for event in profiled.key_averages()) / 1e6
    return min(1.0, busy / seconds)


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
