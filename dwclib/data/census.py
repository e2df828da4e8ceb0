"""A real dataset counted, and SynthFashion written in the layout of one (notebook 14)."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

from dwclib.data.datasets import absolute, check_options, folder_of, module_of
from dwclib.data.finder import places
from dwclib.data.photos import PhotoTriplets
from dwclib.data.records import MissingError, Part
from dwclib.data.synthfashion import SynthFashion, synthfashion
from dwclib.errors import ConfigError, DatasetError
from dwclib.files import atomic


class Count(NamedTuple):
    """One line of a dataset's census: what was counted, how many were found, and how many there should be.

    Fields
    ------
    expected : the published number; of files, the number of images listed; None where nothing tells.
    """

    what: str
    found: int
    expected: int | None = None

    @property
    def differs(self) -> bool:
        """Whether another number is expected."""
        return self.expected not in (None, self.found)


def census(name: str, root: Path | str) -> tuple[list[Count], dict[str, DatasetError]]:
    """Count what is there of a dataset, beside what should be there.

    Returns
    -------
    The counts, and what is wrong with each part that cannot be counted.

    Raises
    ------
    DatasetError
        When the folder holds nothing of the dataset.
    """
    module, root = module_of(name), folder_of(name, root)
    counts: list[Count] = []
    problems: dict[str, DatasetError] = {}
    for label, part in module.PARTS.items():
        try:
            counts += _counts(label, part, module.load(root, **part.options))
        except DatasetError as error:
            problems[label] = error
    if all(isinstance(error, MissingError) for error in problems.values()) and not counts:
        first = next(iter(problems.values()))
        problem = f"the folder holds nothing of {name}: {first.problem}, and so on"
        raise MissingError(problem, where=root, remedy=first.remedy)
    return counts, problems


def report(name: str, root: Path | str) -> tuple[list[str], bool]:
    """Return a dataset's census in lines to print, the last of them a verdict, and whether it is good."""
    module, (counts, problems) = module_of(name), census(name, root)
    width = max((len(count.what) for count in counts), default=0)
    lines = [f"{'':{width}} {'found':>8} {'expected':>10}"]
    for count in counts:
        expected = "" if count.expected is None else f"{count.expected:,}"
        sign = "  differs" if count.differs else ""
        lines.append(f"{count.what:{width}} {count.found:8,} {expected:>10}{sign}")
    labels = defaultdict(list)
    for label, error in problems.items():
        labels[str(error)].append(label)
    lines += [f"not counted: {'; '.join(parts)}\n    {error}" for error, parts in labels.items()]
    if any(count.differs for count in counts if count.what.endswith("with a file")):
        looked = places(folder_of(name, root), getattr(module, "BESIDE", ()))
        lines.append(f"photos were looked for in {', '.join(map(str, looked))}")
    differing = sum(count.differs for count in counts)
    compared = sum(count.expected is not None for count in counts)
    verdict = f"{differing} of {compared} counts differ from what is expected"
    lacking = f", {len(problems)} of {len(module.PARTS)} parts are not counted" if problems else ""
    return [*lines, f"{name}: {verdict}{lacking}."], not differing and not problems


def write(
    name: str, out: Path, *, seed: int = 0, train: int = 8_000, val: int = 2_000, **options: Any
) -> None:
    """Write SynthFashion in the layout of a real dataset, for other people's code and for tests.

    Parameters
    ----------
    name : one of `LOADERS`.
    out : a folder to make; must not exist.
    seed, train, val : as `drawn_splits` takes them; "val" becomes the split to evaluate on.
    **options : the writer's own.
    """
    out, module = absolute(out), module_of(name)
    check_options(module.write, options, name)
    if out.exists():
        raise ConfigError("the folder is there already", where=out, remedy="Name a new one or remove it.")
    drawn = drawn_splits(seed=seed, train=train, val=val).values()
    with atomic(out) as folder:
        module.write(folder, dict(zip(module.SPLITS, drawn, strict=True)), **options)


def drawn_splits(*, seed: int, train: int, val: int) -> dict[str, SynthFashion]:
    """Return SynthFashion's "train" and "val" as they are written in a real dataset's layout.

    Parameters
    ----------
    seed : of the world.
    train, val : number of images of each split; there are 1.5 and 1 queries per image.
    """
    sizes = {"train": (train, train * 3 // 2), "val": (val, val)}
    return {
        split: synthfashion(split, images=images, queries=queries, seed=seed)
        for split, (images, queries) in sizes.items()
    }


def _counts(label: str, part: Part, dataset: PhotoTriplets) -> list[Count]:
    files, queries = dataset.files, dataset.annotated
    counts = [
        Count("triplets", queries, part.triplets),
        Count("images", len(files), part.images),
        Count("images with a file", len(files) - files.count(None), len(files)),
    ]
    if len(dataset) < queries:
        counts.append(Count("triplets that can be asked", len(dataset), queries))
    if dataset.hit == "identity":
        counts.append(Count("identities", len(set(dataset.identities.tolist()))))
    return [count._replace(what=f"{label}: {count.what}") for count in counts]
