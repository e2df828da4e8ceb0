"""CIRR in its published layout (notebook 14)."""

from __future__ import annotations

from pathlib import Path

from dwclib.data import records
from dwclib.data.finder import find_files, without_ending
from dwclib.data.photos import PhotoTriplets, write_pictures
from dwclib.data.synthfashion import FAMILY, SynthFashion
from dwclib.data.triplets import check_image_ids
from dwclib.errors import ConfigError
from dwclib.files import write_json

SPLITS = ("train", "val")
SUBSET = 6  # images that the annotators saw together, the reference among them
FOLDERS = {"train": "train", "val": "dev"}  # which holds the images of which split
BESIDE = ("dev", "train", "images", "img_raw")  # where photos lie when `root` has annotations alone
PARTS = {
    "train": records.Part({"split": "train"}, images=16_939),
    "val": records.Part({"split": "val"}, triplets=4_181, images=2_297),
}


def load(root: Path, split: str) -> PhotoTriplets:
    """Load a split; its second recall ranks the images that the annotators saw together.

    Parameters
    ----------
    root : holds ``captions`` and ``image_splits``, or ``cirr`` with both in it, and the images.
    split : "train" or "val".

    Raises
    ------
    ConfigError
        For an unknown split, or the test split, whose targets were never published.
    DatasetError
        For damaged annotations; the message names file, record and remedy.
    """
    name = f"cirr/{split}"
    records.check_split(split, "test1", SPLITS, name)
    path, listing = records.locate(
        root, f"captions/cap.rc2.{split}.json", f"image_splits/split.rc2.{split}.json", below=("", "cirr")
    )
    listed = records.read_json(listing, dict)
    files = records.fields_of(listed, str(listing), **dict.fromkeys(listed, str))
    paths = list(map(without_ending, files))
    check_image_ids(paths, str(listing))
    return records.assemble(
        [_query(row, where) for where, row in records.read_records(path)],
        list(listed),
        path,
        listing,
        name=name,
        ks=(1, 5, 10, 50),
        files=find_files(root, paths, beside=BESIDE),
    )


def write(folder: Path, drawn: dict[str, SynthFashion]) -> None:
    """Write SynthFashion as PNG and JSON in CIRR's layout: a query's subset is drawn from its family.

    Parameters
    ----------
    folder : which; it is made.
    drawn : the splits.
    """
    for split, dataset in drawn.items():
        paths = {name: f"{FOLDERS[split]}/{name}" for name in dataset.image_ids}
        write_pictures(folder, dataset, list(paths.values()))
        rows = [_record(dataset, query, text) for query, text in enumerate(dataset.texts())]
        write_json(folder / "captions" / f"cap.rc2.{split}.json", rows)
        listed = {name: f"./{path}.png" for name, path in paths.items()}
        write_json(folder / "image_splits" / f"split.rc2.{split}.json", listed)


def _query(row: object, where: str) -> records.Query:
    reference, target, caption, shown = records.fields_of(
        row, where, reference=str, target_hard=str, caption=str, img_set=dict
    )
    (members,) = records.fields_of(shown, where, members=list)
    are_texts = all(isinstance(name, str) for name in members)
    records.check(are_texts, "an image of img_set.members is no text", where)
    records.check(len(set(members)) == len(members), "an image occurs twice in img_set.members", where)
    records.check(target in members, "the target is not among img_set.members", where)
    others = tuple(name for name in members if name != reference)
    return records.Query(reference, target, (caption,), where, others)


def _record(dataset: SynthFashion, query: int, text: str) -> dict[str, object]:
    names = dataset.image_ids
    if len(names) < SUBSET:
        raise ConfigError(f"a subset has {SUBSET} images", where=dataset.name, remedy="Ask for more images.")
    reference, target = int(dataset.references[query]), int(dataset.targets[query])
    first = reference - reference % FAMILY
    # The last family may be cut short; the images before it then fill the set.
    near = [*range(first, min(first + FAMILY, len(names))), *reversed(range(first))]
    others = [image for image in near if image not in (reference, target)]
    subset = [reference, target, *others[: SUBSET - 2]]
    return {
        "pairid": query,
        "reference": names[reference],
        "target_hard": names[target],
        "target_soft": {names[target]: 1.0},
        "caption": text,
        "img_set": {"id": first // FAMILY, "members": [names[image] for image in sorted(subset)]},
    }
