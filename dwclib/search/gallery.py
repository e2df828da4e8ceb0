"""A gallery in Milvus: search at scale, in a file on this machine or in a cluster (notebook 15).

Milvus Lite, which runs inside this process, keeps a gallery in a file (a folder, in truth) whose name ends in
``.db``; a cluster is named by its address. Nothing else differs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, Int, Shaped, UInt8

from dwclib.errors import GalleryError, brief
from dwclib.files import fingerprint
from dwclib.search.milvus import LONGEST_ID, PATIENCE, Collection, Index
from dwclib.streams import DWC
from dwclib.training.runs import Run

MOST = 16_384  # answers to a query, Milvus's own limit
QUERIES = 1_000  # of one request
Picture = UInt8[np.ndarray, "h w 3"]
BATCH = 250  # pictures encoded at a time


class Found(NamedTuple):
    """What a search found, best first.

    Fields
    ------
    ids : (queries, k) image ids; an index that finds fewer than k leaves "" at the end.
    scores : (queries, k), the dot products; -inf beside "".
    """

    ids: Shaped[np.ndarray, "queries k"]
    scores: Float32[np.ndarray, "queries k"]


class Answers(NamedTuple):
    """What was found for a picture and a text, best first.

    Fields
    ------
    ids : (k,) image ids.
    scores : (k,), the sums of the streams' cosines.
    modality_weight : stream -> the image's weight in its query; streams without such a scalar are left out.
    """

    ids: Shaped[np.ndarray, " k"]
    scores: Float32[np.ndarray, " k"]
    modality_weight: dict[str, float]


class Gallery:
    """Vectors with the ids of their images, in a Milvus collection; ranked by dot product.

    Parameters
    ----------
    where : a path that ends in ".db", made where it is not there, or the "http://host:port" of a cluster.
    dim : width of the vectors; may be left out for a gallery that is there.
    name : of the collection. One collection holds one model's vectors: `open_gallery` names it so.
    index : "FLAT" compares with every vector, the others with some. None keeps the index of a gallery that is
        there, and takes "FLAT" for a new one; another than its own is built when next searched.

    Attributes
    ----------
    dim, index : as above, of the gallery that is there.

    Raises
    ------
    GalleryError
        When Milvus cannot be reached, a file is damaged or in use, or the gallery there has another width.
    """

    def __init__(
        self, where: Path | str, *, dim: int | None = None, name: str = "gallery", index: Index | None = None
    ) -> None:
        self.where, self._milvus = str(where), Collection(str(where), name)
        if not self._milvus.call("has_collection"):
            if dim is None:
                raise self._error("there is no gallery", "Give its `dim`, the width of the vectors.")
            self._milvus.create(dim)
        stored = self._milvus.width()
        if stored is None:
            raise self._error("this collection is none of this library's", "Name another.")
        if dim not in (None, stored):
            problem = f"it holds vectors of width {stored}, not {dim}"
            raise self._error(problem, "Give another name, or the model it belongs to.")
        self.dim, self.index = stored, self._milvus.indexed(index)

    def __enter__(self) -> Gallery:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connection; a file is let go of too, for all galleries of this process in it."""
        self._milvus.close()

    def __len__(self) -> int:
        """Count the images."""
        self._milvus.load(self.index)
        rows = self._milvus.call("query", filter="", output_fields=["count(*)"], timeout=PATIENCE)
        return int(rows[0]["count(*)"])

    def add(self, ids: Sequence[str], vectors: Float[np.ndarray, "n dim"], *, batch: int = 1_000) -> None:
        """Add images, `batch` at a time; an id that is there gets the new vector.

        When this is interrupted, call it again: every id will be there once.

        Parameters
        ----------
        ids : one an image.
        vectors : (n, dim), of any float type; may be mapped from disk.
        batch : images in a request.

        Raises
        ------
        GalleryError
            For an id given twice or too long, another count or width, or a vector with NaN or infinity;
            nothing has been added then. Or when Milvus refuses.
        """
        _check_ids(ids, len(vectors), self.where)
        _check_vectors(vectors, self.dim, self.where)
        for part in _parts(len(ids), batch):
            pairs = zip(ids[part], np.asarray(vectors[part], np.float32), strict=True)
            rows = [{"id": image, "vector": vector} for image, vector in pairs]
            self._milvus.call("upsert", rows, timeout=PATIENCE)

    def missing(self, ids: Sequence[str], *, of: int | None = None) -> Int[np.ndarray, " missing"]:
        """Return the positions of those ids that are not in the gallery.

        Parameters
        ----------
        ids : one an image.
        of : how many images there are.
        """
        _check_ids(ids, len(ids) if of is None else of, self.where)
        self._milvus.load(self.index)
        there: set[str] = set()
        for part in _parts(len(ids), QUERIES):
            rows = self._milvus.call("query", ids=list(ids[part]), output_fields=["id"], timeout=PATIENCE)
            there.update(row["id"] for row in rows)
        return np.array([place for place, image in enumerate(ids) if image not in there], np.int64)

    def search(
        self,
        queries: Float[np.ndarray, "queries dim"],
        k: int,
        *,
        exclude: Sequence[str | None] | None = None,
        effort: int | None = None,
    ) -> Found:
        """Return the `k` best images for each query. The first search loads the gallery, which takes longer.

        Parameters
        ----------
        queries : (queries, dim).
        k : how many.
        exclude : for each query the id of an image that is never returned, its reference's, or None.
        effort : how far an index looks: into how many of its 128 cells (IVF_FLAT; 16 by default), or how many
            candidates it keeps (HNSW; twice `k`, at least 64, by default). "FLAT" looks at everything.

        Raises
        ------
        GalleryError
            For a k below one or above what the gallery can give, an effort below one, queries of another
            width or with NaN, or another count of exclusions.
        """
        _check_vectors(queries, self.dim, self.where)
        limit = k if exclude is None else k + 1
        if not 1 <= k <= limit <= MOST:
            remedy = f"Ask for 1 to {MOST - limit + k}, and no more than it has."
            raise self._error(f"{k} images are asked for", remedy)
        excluded = [None] * len(queries) if exclude is None else exclude
        if len(excluded) != len(queries):
            problem = f"there are {len(excluded)} exclusions for {len(queries)} queries"
            raise self._error(problem, "Give one for each query, None for nothing.")
        if effort is not None and effort < 1:
            raise self._error(f"an effort of {effort} finds nothing", "Use 1 or more.")
        self._milvus.load(self.index)
        parts = (np.asarray(queries[part], np.float32) for part in _parts(len(queries), QUERIES))
        hits = [hit for part in parts for hit in self._milvus.hits(part, limit, self.index, effort)]
        rows = [
            [(hit["id"], hit["distance"]) for hit in found if hit["id"] != image][:k]
            for found, image in zip(hits, excluded, strict=True)
        ]
        if min(map(len, rows), default=k) < k:
            there = len(self) - any(image is not None for image in excluded)
            if there < k:
                problem = f"{k} images are asked for and {there} can be ranked"
                raise self._error(problem, "Ask for fewer, or add images.")
        return _table(rows, k)

    def _error(self, problem: str, remedy: str) -> GalleryError:
        return GalleryError(problem, where=f"{self.where}, {self._milvus.name}", remedy=remedy)


def open_gallery(run: Run, where: Path | str, *, index: Index | None = None) -> Gallery:
    """Open the gallery of a trained run, named by its weights: another model's vectors are never mixed in.

    Parameters
    ----------
    run : whose streams encode; of two, the embeddings stand side by side.
    where, index : as `Gallery` takes them.
    """
    state = run.model.state_dict()
    weights = (state[key].cpu().numpy().tobytes() for key in sorted(state))
    choices = {key: value for key, value in run.config.choices().items() if key.startswith("model.")}
    name = f"gallery_{fingerprint(choices, run.identity['fingerprint of CLIP'], *weights)}"
    return Gallery(where, dim=run.config.model.dim * len(run.model.streams), name=name, index=index)


def fill(
    gallery: Gallery, run: Run, image_ids: Sequence[str], pictures: UInt8[np.ndarray, "images h w 3"]
) -> int:
    """Encode pictures and add them to a gallery; return how many it did not yet have.

    When this is interrupted, call it again: what is there is not encoded twice.

    Parameters
    ----------
    gallery : from `open_gallery`.
    run : trained.
    image_ids : one a picture.
    pictures : (images, h, w, 3), as `read_image` makes them; may be mapped from disk.

    Raises
    ------
    GalleryError
        As `Gallery.add` does.
    """
    rows = gallery.missing(image_ids, of=len(pictures))
    for part in _parts(len(rows), BATCH):
        gallery.add([image_ids[row] for row in rows[part]], _embedded(run, pictures[rows[part]]))
    return len(rows)


@torch.no_grad()
def ask(
    gallery: Gallery, run: Run, picture: Picture, text: str, k: int, *, exclude: str | None = None
) -> Answers:
    """Search by a picture and what should change in it.

    Parameters
    ----------
    gallery, run : as `fill` takes them.
    picture : the reference image.
    text : the modification text.
    k : how many images.
    exclude : an id that is never returned, the reference's.

    Raises
    ------
    GalleryError
        As `Gallery.search` does.
    DatasetError
        For an empty text, or one of which no word is known.
    """
    run.model.eval()
    queries, weights = {}, {}
    for name, features in run.read(picture[None], [text]).items():
        images, texts = (part.to(run.accelerator.device) for part in (features.images, features.texts))
        stream = run.model[name]
        composition = stream.compose(stream.encode(images), texts)
        queries[name] = composition.query
        if composition.modality_weight is not None:
            weights[name] = float(composition.modality_weight)
    query = DWC.joined(queries).float().cpu().numpy()  # (1, D), (1, D) -> (1, 2 D)
    found = gallery.search(query, k, exclude=None if exclude is None else [exclude])
    return Answers(found.ids[0], found.scores[0], weights)


@torch.no_grad()
def _embedded(run: Run, pictures: UInt8[np.ndarray, "images h w 3"]) -> Float32[np.ndarray, "images dim"]:
    """Embed pictures by every stream, side by side."""
    run.model.eval()
    known = " and ".join(run.training.dataset.captions[0])  # `read` wants a text whose words it knows
    parts = {}
    for name, features in run.read(pictures, [known]).items():
        stream = run.model[name]
        parts[name] = stream.embed_target(stream.encode(features.images.to(run.accelerator.device)))
    return DWC.joined(parts).float().cpu().numpy()


def _parts(count: int, size: int) -> Iterator[slice]:
    return (slice(first, first + size) for first in range(0, count, size))


def _table(rows: list[list[tuple[str, float]]], k: int) -> Found:
    rows = [row + [("", -np.inf)] * (k - len(row)) for row in rows]
    ids = np.array([[image for image, _ in row] for row in rows], dtype=np.str_).reshape(len(rows), k)
    return Found(ids, np.array([[score for _, score in row] for row in rows], np.float32).reshape(-1, k))


def _check_ids(ids: Sequence[str], count: int, where: str) -> None:
    if len(ids) != count:
        problem = f"there are {len(ids)} ids for {count} images"
        raise GalleryError(problem, where=where, remedy="Give one an image.")
    seen: set[str] = set()
    for record, image in enumerate(ids):
        if image in seen or not 1 <= len(image.encode()) <= LONGEST_ID:
            problem = f"the id {brief(image)} is {'given twice' if image in seen else 'empty or too long'}"
            remedy = f"Give each image another one, of 1 to {LONGEST_ID} bytes."
            raise GalleryError(problem, where=f"{where}, record {record}", remedy=remedy)
        seen.add(image)


def _check_vectors(vectors: Float[np.ndarray, "n dim"], dim: int, where: str) -> None:
    if vectors.shape[1] != dim:
        problem, remedy = f"a vector has width {vectors.shape[1]}, and the gallery {dim}", "Use its model."
        raise GalleryError(problem, where=where, remedy=remedy)
    for part in _parts(len(vectors), QUERIES):
        wrong = ~np.isfinite(vectors[part]).all(axis=1)
        if wrong.any():
            where = f"{where}, record {part.start + int(wrong.argmax())}"
            remedy = "Look for a corrupt image or a diverged training run, and make it again."
            raise GalleryError("a vector is NaN or infinite", where=where, remedy=remedy)
