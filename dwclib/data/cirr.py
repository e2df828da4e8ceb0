"""CIRR in its published layout (notebook 14)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Int

from dwclib.data.annotations import Count, drawn_splits, field_of, positions, read_json, write_json
from dwclib.data.photos import PhotoTriplets, count_files, find_files, without_ending, write_pictures
from dwclib.data.synthfashion import FAMILY, SynthFashion
from dwclib.data.triplets import check_captions, check_image_ids
from dwclib.errors import ConfigError, DatasetError, check_choice
from dwclib.files import atomic

SPLITS = ("train", "val")
SUBSET = 6  # images that the annotators saw together, the reference among them
FOLDERS = {"train": "train", "val": "dev"}  # which holds the images of which split
PUBLISHED = {"train": (None, None), "val": (4_181, 2_297)}  # pairs, images


def load(root: Path, split: str) -> PhotoTriplets:
    """Load a split; its second recall ranks the images that the annotators saw together.

    Parameters
    ----------
    root : holds ``captions``, ``image_splits``, and the images below it, below ``images`` or below
        ``img_raw``.
    split : "train" or "val".

    Raises
    ------
    ConfigError
        For an unknown split, or the test split, whose targets were never published.
    DatasetError
        For damaged annotations; the message names file, record and remedy.
    """
    name = f"cirr/{split}"
    _check_split(split, name)
    image_ids, paths = _listed(root / "image_splits" / f"split.rc2.{split}.json")
    path = root / "captions" / f"cap.rc2.{split}.json"
    rows = read_json(path, list)
    if not rows:
        raise DatasetError("it holds no triplet", where=path, remedy="Fetch the file again.")
    named = {
        role: [field_of(row, role, str, f"{path}, record {record}") for record, row in enumerate(rows)]
        for role in ("reference", "target_hard", "caption")
    }
    for record, caption in enumerate(named["caption"]):
        check_captions([caption], f"{path}, record {record}")
    references, targets = (
        positions(image_ids, named[role], f"{path}, {role}") for role in ("reference", "target_hard")
    )
    return PhotoTriplets(
        name=name,
        image_ids=tuple(image_ids),
        identities=np.arange(len(image_ids)),
        references=references,
        targets=targets,
        captions=tuple((caption,) for caption in named["caption"]),
        gallery=np.arange(len(image_ids)),
        ks=(1, 5, 10, 50),
        members=_members(path, rows, image_ids),
        files=find_files([root, root / "images", root / "img_raw"], paths),
        annotated=len(rows),
    )


def census(root: Path) -> list[Count]:
    """Count pairs and images of each split, beside what was published of them."""
    found = []
    for split in SPLITS:
        dataset, (pairs, gallery) = load(root, split), PUBLISHED[split]
        images = len(dataset.image_ids)
        found += [
            Count(f"{split}: pairs", len(dataset), pairs),
            Count(f"{split}: images, all of them the gallery", images, gallery),
            count_files(dataset, split),
        ]
    return found


def write(out: Path, *, seed: int = 0, train: int = 8_000, val: int = 2_000) -> None:
    """Write SynthFashion as PNG and JSON in CIRR's layout: a query's subset is drawn from its family.

    Parameters
    ----------
    out : folder to make.
    seed, train, val : as `dwclib.data.annotations.drawn_splits` takes them.
    """
    with atomic(out) as folder:
        for split, dataset in drawn_splits(seed=seed, train=train, val=val):
            paths = {name: f"{FOLDERS[split]}/{name}" for name in dataset.image_ids}
            write_pictures(folder, dataset, list(paths.values()))
            rows = [_record(dataset, query, text) for query, text in enumerate(dataset.texts())]
            write_json(folder / "captions" / f"cap.rc2.{split}.json", rows)
            listed = {name: f"./{path}.png" for name, path in paths.items()}
            write_json(folder / "image_splits" / f"split.rc2.{split}.json", listed)


def _check_split(split: str, name: str) -> None:
    if split == "test1":
        raise ConfigError(
            "the test split has no targets, so nothing can be measured on it", where=name, remedy="Use val."
        )
    check_choice("split", split, SPLITS, name)


def _listed(path: Path) -> tuple[list[str], list[str]]:
    """Return the images of a split, and their paths without the ending."""
    listed = read_json(path, dict)
    paths = [without_ending(field_of(listed, name, str, str(path))) for name in listed]
    check_image_ids(list(listed), str(path))
    check_image_ids(paths, str(path))
    return list(listed), paths


def _members(path: Path, rows: list[dict], image_ids: list[str]) -> Int[np.ndarray, "queries members"]:
    """Return the images of each query's subset without its reference, as positions."""
    known = set(image_ids)
    subsets = [_subset(row, known, f"{path}, record {record}") for record, row in enumerate(rows)]
    members = np.full((len(rows), max(map(len, subsets))), -1)
    filled = np.arange(members.shape[1]) < np.array([len(subset) for subset in subsets])[:, None]
    members[filled] = positions(image_ids, [name for subset in subsets for name in subset], str(path))
    return members


def _subset(row: dict, known: set[str], where: str) -> list[str]:
    names = field_of(field_of(row, "img_set", dict, where), "members", list, where)
    problem = ""
    if not all(isinstance(name, str) for name in names) or not known.issuperset(names):
        problem = "an image of img_set.members is in no list of images"
    elif len(set(names)) < len(names):
        problem = "an image occurs twice in img_set.members"
    elif row["target_hard"] not in names or row["target_hard"] == row["reference"]:
        problem = "the target is not among the other images of img_set.members"
    if problem:
        raise DatasetError(problem, where=where, remedy="Mend the record or drop it.")
    return [name for name in names if name != row["reference"]]


def _record(dataset: SynthFashion, query: int, text: str) -> dict[str, object]:
    names = dataset.image_ids
    reference, target = int(dataset.references[query]), int(dataset.targets[query])
    family = reference // FAMILY
    others = [
        image
        for image in range(family * FAMILY, min((family + 1) * FAMILY, len(names)))
        if image not in (reference, target)
    ]
    subset = [reference, target, *others[: SUBSET - 2]]
    return {
        "pairid": query,
        "reference": names[reference],
        "target_hard": names[target],
        "target_soft": {names[target]: 1.0},
        "caption": text,
        "img_set": {"id": family, "members": [names[image] for image in sorted(subset)]},
    }
