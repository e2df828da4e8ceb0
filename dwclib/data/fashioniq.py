"""FashionIQ in its published layout (notebook 14)."""

from __future__ import annotations

from pathlib import Path

from dwclib.data import records
from dwclib.data.finder import find_files
from dwclib.data.garments import ATTRIBUTES
from dwclib.data.photos import PhotoTriplets, write_pictures
from dwclib.data.synthfashion import SynthFashion
from dwclib.data.triplets import check_image_ids
from dwclib.errors import ConfigError, check_choice
from dwclib.files import write_json

SPLITS = ("train", "val")
CATEGORIES = ("dress", "shirt", "toptee")
PROTOCOLS = ("original", "original without the reference", "VAL")
CAPTIONS = {"both": 2, "first": 1}
DRAWN_AS = dict(zip(CATEGORIES, ATTRIBUTES["category"], strict=True))  # SynthFashion's names
TRIPLETS = {"train": (5_985, 5_988, 6_027), "val": (2_017, 2_038, 1_961)}
GALLERY = {"original": (3_817, 6_346, 5_373), "VAL": (2_628, 3_089, 2_902)}
PARTS = {
    f"{category}, train": records.Part({"split": "train", "category": category}, triplets)
    for category, triplets in zip(CATEGORIES, TRIPLETS["train"], strict=True)
} | {
    f"{category}, val, {protocol}": records.Part(
        {"split": "val", "category": category, "protocol": protocol}, triplets, images
    )
    for protocol, galleries in GALLERY.items()
    for category, triplets, images in zip(CATEGORIES, TRIPLETS["val"], galleries, strict=True)
}


def load(
    root: Path, split: str, *, category: str = "dress", protocol: str = "VAL", captions: str = "both"
) -> PhotoTriplets:
    """Load one category.

    Some records of the published files have an empty caption: the other one is then all that is said. A
    record with two of them cannot be asked, but its images stay in the gallery.

    Parameters
    ----------
    root : holds ``captions``, ``image_splits``, and the images in ``images``, ``all_imgs``, a folder per
        category, or beside these.
    split : "train" or "val".
    category : "dress", "shirt" or "toptee".
    protocol : what "val" searches: "original", the split's list of images, a query's own reference among
        them; "original without the reference"; or "VAL", the references and targets of the queries, without
        the query's own reference. "train" has its whole list.
    captions : "both" of each triplet, or its "first".

    Raises
    ------
    ConfigError
        For an unknown choice, or the test split, whose targets were never published.
    DatasetError
        For damaged annotations; the message names file, record and remedy.
    """
    name = f"fashioniq/{category}/{split}"
    check_choice("category", category, CATEGORIES, name)
    check_choice("protocol", protocol, PROTOCOLS, name)
    check_choice("choice of captions", captions, list(CAPTIONS), name)
    records.check_split(split, "test", SPLITS, name)
    path, listing = records.locate(
        root, f"captions/cap.{category}.{split}.json", f"image_splits/split.{category}.{split}.json"
    )
    queries = [_query(row, where, CAPTIONS[captions]) for where, row in records.read_records(path)]
    listed = records.read_json(listing, list)
    check_image_ids(listed, str(listing))
    if split == "val" and protocol == "VAL":
        used = {image for query in queries for image in (query.reference, query.target)}
        listed = [image for image in listed if image in used]
    return records.assemble(
        queries,
        listed,
        path,
        listing,
        name=name,
        exclude_reference=protocol != "original",
        ks=(10, 50),
        files=find_files(root, listed, prefer=category),
    )


def write(
    folder: Path, drawn: dict[str, SynthFashion], *, pictures: str = "images", ending: str = ".jpg"
) -> None:
    """Write SynthFashion as pictures and JSON in FashionIQ's layout.

    Parameters
    ----------
    folder : which; it is made.
    drawn : the splits.
    pictures, ending : the folder of the pictures and the ending of their names. What other people's code
        opens differs: ``images`` or ``all_imgs``, ``.jpg`` or ``.png``, which alone keeps every pixel.
    """
    check_choice("ending", ending, (".jpg", ".png"), "fashioniq")
    check_image_ids([pictures], "pictures")
    for split, dataset in drawn.items():
        write_pictures(folder / pictures, dataset, ending=ending)
        for category in CATEGORIES:
            _write_annotations(folder, dataset, split, category)


def _query(row: object, where: str, most: int) -> records.Query:
    reference, target, captions = records.fields_of(row, where, candidate=str, target=str, captions=list)
    records.check(len(captions) == 2, f"there are {len(captions)} captions, not 2", where)
    return records.Query(reference, target, records.not_blank(captions)[:most], where)


def _write_annotations(folder: Path, dataset: SynthFashion, split: str, category: str) -> None:
    code, names = ATTRIBUTES["category"].index(DRAWN_AS[category]), dataset.image_ids
    triplets = zip(dataset.references, dataset.targets, dataset.captions, strict=True)
    rows = [
        {"target": names[target], "candidate": names[reference], "captions": list(texts)}
        for reference, target, texts in triplets
        if dataset.codes[reference, 0] == code
    ]
    if not rows:
        problem = f"{len(names)} images hold no triplet of a {category}"
        raise ConfigError(problem, where=dataset.name, remedy="Ask for more images, or another seed.")
    listed = [name for name, row in zip(names, dataset.codes, strict=True) if row[0] == code]
    write_json(folder / "captions" / f"cap.{category}.{split}.json", rows)
    write_json(folder / "image_splits" / f"split.{category}.{split}.json", listed)
