"""A gallery in Milvus: search at scale, in a file on this machine or in a cluster (notebook 15).

Milvus Lite, which runs inside this process, keeps a gallery in a file (a folder, in truth) whose name ends in
``.db``; a cluster is named by its address. Nothing else differs.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, Int, Shaped, UInt8

from dwclib.errors import GalleryError
from dwclib.files import fingerprint
from dwclib.streams import DWC
from dwclib.training.runs import Run

Index = Literal["FLAT", "IVF_FLAT", "HNSW"]
BUILT: dict[str, dict[str, int]] = {
    "FLAT": {},  # compares with every vector: exact
    "IVF_FLAT": {"nlist": 128},
    "HNSW": {"M": 16, "efConstruction": 200},
}
LONGEST_ID = 512  # bytes
MOST = 16_384  # answers to a query, Milvus's own limit
QUERIES = 1_000  # of one request
PATIENCE = 60.0  # seconds to wait for an answer; pymilvus alone would try a lost cluster for minutes


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
    modality_weight : stream -> the image's share in its query; streams without such a scalar are left out.
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
    timeout : seconds to wait for the connection.

    Attributes
    ----------
    dim, index : as above, of the gallery that is there.

    Raises
    ------
    GalleryError
        When Milvus cannot be reached, a file is damaged or in use, or the gallery there has another width.
    """

    def __init__(
        self,
        where: Path | str,
        *,
        dim: int | None = None,
        name: str = "gallery",
        index: Index | None = None,
        timeout: float = 5.0,
    ) -> None:
        self.where, self.name, self._loaded = str(where), name, False
        self._client = _connect(self.where, timeout)
        with self._told():
            if not self._client.has_collection(name):
                self._create(dim)
            self.dim = self._stored_dim(dim)
            self.index = self._indexed(index)

    def __enter__(self) -> Gallery:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connection; a file is let go of too, for all galleries of this process in it."""
        self._client.close()
        if _is_file(self.where):
            from milvus_lite.server_manager import server_manager_instance

            server_manager_instance.release_server(self.where)

    def __len__(self) -> int:
        """Count the images."""
        self._load()
        with self._told():
            rows = self._client.query(self.name, filter="", output_fields=["count(*)"], timeout=PATIENCE)
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
        self._check_ids(ids, len(vectors))
        self._check_vectors(vectors, "vector")
        for first in range(0, len(ids), batch):
            part = np.asarray(vectors[first : first + batch], np.float32)
            rows = [
                {"id": image, "vector": vector}
                for image, vector in zip(ids[first : first + batch], part, strict=True)
            ]
            with self._told():
                self._client.upsert(self.name, rows, timeout=PATIENCE)

    def missing(self, ids: Sequence[str]) -> Int[np.ndarray, " missing"]:
        """Return the positions of those ids that are not in the gallery."""
        self._check_ids(ids, len(ids))
        self._load()
        there: set[str] = set()
        for first in range(0, len(ids), QUERIES):
            part = list(ids[first : first + QUERIES])
            with self._told():
                rows = self._client.query(self.name, ids=part, output_fields=["id"], timeout=PATIENCE)
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
        self._check_vectors(queries, "query")
        limit = k if exclude is None else k + 1
        if not 1 <= k <= limit <= MOST:
            raise self._error(
                f"{k} images are asked for",
                f"Ask for 1 to {MOST - (exclude is not None)}, and no more than it has.",
            )
        excluded = [None] * len(queries) if exclude is None else exclude
        if len(excluded) != len(queries):
            problem = f"there are {len(excluded)} exclusions for {len(queries)} queries"
            raise self._error(problem, "Give one for each query, None for nothing.")
        if effort is not None and effort < 1:
            raise self._error(f"an effort of {effort} finds nothing", "Use 1 or more.")
        self._load()
        hits = [hit for part in _batches(queries) for hit in self._hits(part, limit, effort)]
        return self._table(hits, excluded, k)

    def _hits(self, queries: Float[np.ndarray, "queries dim"], limit: int, effort: int | None) -> list[Any]:
        candidates = max(limit, effort or max(64, 2 * limit))
        params = {"IVF_FLAT": {"nprobe": effort or 16}, "HNSW": {"ef": candidates}}.get(self.index, {})
        with self._told():
            return self._client.search(
                self.name,
                data=list(np.asarray(queries, np.float32)),
                limit=limit,
                output_fields=["id"],
                search_params={"metric_type": "IP", "params": params},
                timeout=PATIENCE,
            )

    def _table(self, hits: list[Any], excluded: Sequence[str | None], k: int) -> Found:
        rows = [
            [(hit["id"], hit["distance"]) for hit in found if hit["id"] != image][:k]
            for found, image in zip(hits, excluded, strict=True)
        ]
        fewest = min(map(len, rows), default=k)
        if fewest < k and k > (available := len(self) - any(image is not None for image in excluded)):
            problem = f"{k} images are asked for and {available} can be ranked"
            raise self._error(problem, "Ask for fewer, or add images.")
        rows = [row + [("", -np.inf)] * (k - len(row)) for row in rows]
        ids = np.array([[image for image, _ in row] for row in rows], dtype=np.str_).reshape(len(rows), k)
        return Found(ids, np.array([[score for _, score in row] for row in rows], np.float32).reshape(-1, k))

    def _create(self, dim: int | None) -> None:
        from pymilvus import DataType

        if dim is None:
            raise self._error("there is no gallery", "Give its `dim`, the width of the vectors, to make it.")
        schema = self._client.create_schema(auto_id=False)
        schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=LONGEST_ID)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dim)
        self._client.create_collection(self.name, schema=schema, consistency_level="Strong")

    def _stored_dim(self, dim: int | None) -> int:
        from pymilvus import DataType

        fields = {field["name"]: field for field in self._client.describe_collection(self.name)["fields"]}
        if set(fields) != {"id", "vector"} or fields["id"]["type"] != DataType.VARCHAR:
            raise self._error("this collection is none of this library's", "Name another.")
        stored = int(fields["vector"]["params"]["dim"])
        if dim not in (None, stored):
            raise self._error(
                f"it holds vectors of width {stored}, not {dim}",
                "Give another name, or the model it belongs to.",
            )
        return stored

    def _indexed(self, index: Index | None) -> str:
        """Name the index that is there; make it, or another, where that is asked for."""
        there = self._client.list_indexes(self.name)
        stored = str(self._client.describe_index(self.name, there[0])["index_type"]) if there else None
        if stored is not None and index in (None, stored):
            return stored
        if stored is not None:
            self._client.release_collection(self.name)
            self._client.drop_index(self.name, there[0])
        self._make_index(index or "FLAT")
        return index or "FLAT"

    def _make_index(self, index: str) -> None:
        params = self._client.prepare_index_params()
        params.add_index("vector", index_type=index, metric_type="IP", params=BUILT[index])
        self._client.create_index(self.name, params)
        self._client.release_collection(self.name)  # so that nothing is indexed while images are added

    def _load(self) -> None:
        from pymilvus import MilvusException

        if self._loaded:
            return
        with self._told():
            self._client.flush(self.name)
            try:
                self._client.load_collection(self.name)
            except MilvusException:
                if not _is_file(self.where):
                    raise
                # Milvus Lite writes its index in place: a process killed meanwhile leaves half of it.
                self._client.drop_index(self.name, "vector")
                self._make_index(self.index)
                self._client.load_collection(self.name)
        self._loaded = True

    def _check_ids(self, ids: Sequence[str], count: int) -> None:
        if len(ids) != count:
            raise self._error(f"there are {len(ids)} ids for {count} images", "Give one an image.")
        seen: set[str] = set()
        for record, image in enumerate(ids):
            if image in seen:
                raise self._error(f"the id {image!r} is given twice", "Give each image once.", record)
            if not 1 <= len(image.encode()) <= LONGEST_ID:
                problem = f"the id {image!r} is empty or too long"
                raise self._error(problem, f"Use 1 to {LONGEST_ID} bytes.", record)
            seen.add(image)

    def _check_vectors(self, vectors: Float[np.ndarray, "n dim"], what: str) -> None:
        if vectors.shape[1] != self.dim:
            problem = f"a {what} has width {vectors.shape[1]}, and the gallery {self.dim}"
            raise self._error(problem, "Use the model that the gallery was filled by.")
        for first in range(0, len(vectors), QUERIES):
            wrong = ~np.isfinite(vectors[first : first + QUERIES]).all(axis=1)
            if wrong.any():
                remedy = "Look for a corrupt image or a diverged training run, and make it again."
                raise self._error(f"a {what} is NaN or infinite", remedy, first + int(wrong.argmax()))

    def _error(self, problem: str, remedy: str, record: int | None = None) -> GalleryError:
        where = f"{self.where}, {self.name}" + ("" if record is None else f", record {record}")
        return GalleryError(problem, where=where, remedy=remedy)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turn what Milvus complains of into one sentence."""
        from pymilvus import MilvusException

        try:
            with _quiet():
                yield
        except MilvusException as error:
            remedy = (
                "If it is damaged, remove it and fill it again."
                if _is_file(self.where)
                else "See whether Milvus still runs there, and call again."
            )
            raise self._error(f"Milvus refuses ({error.message})", remedy) from error


def open_gallery(run: Run, where: Path | str, *, index: Index | None = None) -> Gallery:
    """Open the gallery of a trained run, named by its weights: another model's vectors are never mixed in.

    Parameters
    ----------
    run : whose streams encode; of two, the embeddings stand side by side.
    where, index : as `Gallery` takes them.
    """
    state = run.model.state_dict()
    weights = (state[key].cpu().numpy().tobytes() for key in sorted(state))
    name = f"gallery_{fingerprint(run.config.model.model_dump(), *weights)}"
    return Gallery(where, dim=run.config.model.dim * len(run.model.streams), name=name, index=index)


def fill(
    gallery: Gallery,
    run: Run,
    image_ids: Sequence[str],
    pictures: UInt8[np.ndarray, "images h w 3"],
    *,
    batch: int = 250,
) -> int:
    """Encode pictures and add them to a gallery; return how many it did not yet have.

    When this is interrupted, call it again: what is there is not encoded twice.

    Parameters
    ----------
    gallery : from `open_gallery`.
    run : trained.
    image_ids : one a picture.
    pictures : (images, h, w, 3), as `read_image` makes them; may be mapped from disk.
    batch : pictures encoded at a time.

    Raises
    ------
    GalleryError
        As `Gallery.add` does.
    """
    if len(image_ids) != len(pictures):
        problem = f"there are {len(image_ids)} ids for {len(pictures)} pictures"
        raise GalleryError(problem, where=gallery.where, remedy="Give one a picture.")
    rows = gallery.missing(image_ids)
    for first in range(0, len(rows), batch):
        part = rows[first : first + batch]
        gallery.add([image_ids[row] for row in part], _embedded(run, pictures[part]))
    return len(rows)


@torch.no_grad()
def ask(
    gallery: Gallery,
    run: Run,
    picture: UInt8[np.ndarray, "h w 3"],
    text: str,
    k: int,
    *,
    exclude: str | None = None,
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


def _is_file(where: str) -> bool:
    return where.endswith(".db")


def _batches(queries: Float[np.ndarray, "queries dim"]) -> Iterator[Float[np.ndarray, "part dim"]]:
    return (queries[first : first + QUERIES] for first in range(0, len(queries), QUERIES))


def _connect(where: str, timeout: float) -> Any:
    try:
        from pymilvus import MilvusClient, MilvusException
    except ImportError as error:
        problem, remedy = "pymilvus is not installed", "Install the extra: pip install 'dwclib[scale]'."
        raise GalleryError(problem, where=where, remedy=remedy) from error
    if not _is_file(where) and not where.startswith(("http://", "https://")):
        remedy = "Name a file that ends in .db, or the http://host:port of a cluster."
        raise GalleryError("this is neither a gallery's file nor an address", where=where, remedy=remedy)
    if _is_file(where):
        Path(where).parent.mkdir(parents=True, exist_ok=True)
    try:
        with _quiet():
            return MilvusClient(where, timeout=timeout)
    except MilvusException as error:
        raise _unopened(where, timeout) from error


def _unopened(where: str, timeout: float) -> GalleryError:
    """Say why Milvus did not open: pymilvus does not tell of a file, so try again without it."""
    if not _is_file(where):
        problem = f"Milvus cannot be reached within {timeout:g} s"
        return GalleryError(problem, where=where, remedy="Start it there, or name a file that ends in .db.")
    from milvus_lite.db import MilvusLite
    from milvus_lite.exceptions import DataDirLockedError

    try:
        MilvusLite(where).close()
    except DataDirLockedError:
        problem, remedy = "another process has it open", "Close it there, or name another file."
    except Exception as error:  # whatever a damaged file leads to
        problem, remedy = f"the file is damaged ({error})", "Remove it and fill it again."
    else:
        problem, remedy = "it could not be opened", "Try again."
    return GalleryError(problem, where=where, remedy=remedy)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Milvus, and its server in this process, from logging what is raised or mended as well."""
    loggers = [logging.getLogger(name) for name in ("pymilvus", "milvus_lite", "grpc._server")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
