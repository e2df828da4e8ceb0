"""The one in-memory form of every dataset: images, and rows of (reference, modification text, target)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Int

from dwclib.errors import DatasetError, brief

# Nothing, a path from the root or from a drive, and one with ".." in it; both kinds of slashes count.
LEAVES = re.compile(r"\Z|[/\\]|.:|(.*[/\\])?\.\.([/\\]|\Z)", re.DOTALL)
HALF = re.compile("[\ud800-\udfff]")  # half a character, which no file can hold and no tokenizer reads


@dataclass(frozen=True, kw_only=True)
class Triplets:
    """A dataset for mixed-modal retrieval. Images are named once and referred to by their position.

    Attributes
    ----------
    name : what to call the dataset in a message, e.g. ``"synthfashion/val"``.
    image_ids : one name per image; also its path below the image folder, without the ending.
    identities : (images,) which item each image shows: two photos of one garment share a number.
    references, targets : (queries,) positions of the reference and the target image of each query.
    captions : for each query what its annotators wrote, one string each.
    gallery : (gallery,) positions of the images that are searched.
    hit : what counts as found: the target "image" itself, or any gallery image of its "identity".
    exclude_reference : whether a query's own reference is kept out of its ranking.
    ks : the K of Recall@K that are usual for this dataset.
    members : (queries, members) positions of the few images among which a second recall ranks (CIRR's
        subsets, without the reference), -1 to fill a short row; None where there is no such recall.

    Raises
    ------
    DatasetError
        For a doubled or unsafe image id, an empty or non-string caption, a position without an image, or
        a target outside the gallery; the message names the record and the remedy.
    """

    name: str
    image_ids: tuple[str, ...]
    identities: Int[np.ndarray, " images"]
    references: Int[np.ndarray, " queries"]
    targets: Int[np.ndarray, " queries"]
    captions: tuple[tuple[str, ...], ...]
    gallery: Int[np.ndarray, " gallery"]
    hit: str = "image"
    exclude_reference: bool = True
    ks: tuple[int, ...] = (1, 10, 50)
    members: Int[np.ndarray, "queries members"] | None = None

    def __post_init__(self) -> None:
        check_image_ids(self.image_ids, self.name)
        self._check_lengths()
        for query, captions in enumerate(self.captions):
            check_captions(captions, f"{self.name}, query {query}")
        self._check_positions("reference", self.references)
        self._check_positions("target", self.targets)
        self._check_positions("gallery image", self.gallery)
        self._check_gallery()

    def __len__(self) -> int:
        """Return the number of queries."""
        return len(self.targets)

    def texts(self, *, joiner: str = " and ", style: str = "joined") -> list[str]:
        """Return one modification text per query: its annotators' captions, joined.

        Parameters
        ----------
        joiner : what stands between two captions.
        style : "marked" writes the released code's literal ``<BOS> c1 <AND> c2 <EOS>`` instead.
        """
        if style == "marked":
            return [f"<BOS> {' <AND> '.join(captions)} <EOS>" for captions in self.captions]
        return [joiner.join(captions) for captions in self.captions]

    def standing(self) -> str:
        """Say on how many queries a metric stands."""
        return f"{len(self)} of {len(self)} queries"

    def gallery_position(self, images: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        """Return where in the gallery each image stands, -1 for an image that is not in it."""
        place = np.full(len(self.image_ids), -1)
        place[self.gallery] = np.arange(len(self.gallery))
        return place[images]

    def _check_lengths(self) -> None:
        if len(self.identities) != len(self.image_ids):
            raise DatasetError(
                f"{len(self.image_ids)} images but {len(self.identities)} identities",
                where=self.name,
                remedy="Give one identity per image.",
            )
        counts = len(self.references), len(self.targets), len(self.captions)
        if len(set(counts)) > 1:
            raise DatasetError(
                f"{counts[0]} references, {counts[1]} targets and {counts[2]} caption lists",
                where=self.name,
                remedy="Give one of each per query.",
            )

    def _check_positions(self, role: str, positions: Int[np.ndarray, " n"]) -> None:
        outside = np.flatnonzero((positions < 0) | (positions >= len(self.image_ids)))
        if len(outside):
            raise DatasetError(
                f"the {role} is image {positions[outside[0]]}, but there are {len(self.image_ids)} images",
                where=f"{self.name}, record {outside[0]}",
                remedy="Add the image or drop the record.",
            )

    def _check_gallery(self) -> None:
        missing = np.flatnonzero(self.gallery_position(self.targets) < 0)
        if len(missing):
            image = self.image_ids[self.targets[missing[0]]]
            raise DatasetError(
                f"the target {image!r} is not in the gallery, so no search can find it",
                where=f"{self.name}, query {missing[0]}",
                remedy="Add the image to the gallery or drop the query.",
            )


def subset(dataset: Triplets, rows: Int[np.ndarray, " n"], *, own_gallery: bool = False) -> Triplets:
    """Return some of a dataset's queries, over the same images.

    Parameters
    ----------
    dataset : the whole.
    rows : which queries.
    own_gallery : search only the references and targets of these queries; by default, the whole's gallery.
    """
    references, targets = dataset.references[rows], dataset.targets[rows]
    whole = {field.name: getattr(dataset, field.name) for field in fields(Triplets)}
    return Triplets(
        **whole
        | {
            "references": references,
            "targets": targets,
            "captions": tuple(dataset.captions[row] for row in rows),
            "gallery": np.union1d(references, targets) if own_gallery else dataset.gallery,
            "members": None if own_gallery or dataset.members is None else dataset.members[rows],
        }
    )


def check_captions(captions: Sequence[object], where: str) -> None:
    """Raise DatasetError unless every caption is a string with something in it."""
    if not captions:
        raise DatasetError("there is no caption", where=where, remedy="Give at least one string.")
    for caption in captions:
        if not isinstance(caption, str) or not caption.strip() or HALF.search(caption):
            raise DatasetError(
                f"the caption {brief(caption)} is not a text",
                where=where,
                remedy="Write what should change, or drop the query.",
            )


def check_image_ids(image_ids: Sequence[object], where: str) -> None:
    """Raise DatasetError for an image id that is no text, occurs twice, or would leave its folder."""
    seen: set[str] = set()
    for record, image_id in enumerate(image_ids):
        problem = ""
        if not isinstance(image_id, str):
            problem = f"{brief(image_id)} is no text"
        elif LEAVES.match(image_id):
            problem = f"{image_id!r} leaves the image folder"
        elif image_id in seen:
            problem = f"{image_id!r} occurs twice"
        if problem:
            raise DatasetError(
                f"the image id {problem}",
                where=f"{where}, image {record}",
                remedy="List each image once, by a plain name or a path below the folder without '..'.",
            )
        seen.add(str(image_id))
