"""Milvus as the gallery needs it: one collection of ids and vectors, one index; its complaints as ours."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32

from dwclib.errors import GalleryError

Index = Literal["FLAT", "IVF_FLAT", "HNSW"]
BUILT: dict[str, dict[str, int]] = {
    "FLAT": {},  # compares with every vector: exact
    "IVF_FLAT": {"nlist": 128},
    "HNSW": {"M": 16, "efConstruction": 200},
}
LONGEST_ID = 512  # bytes
ANSWER = 5.0  # seconds to wait for the connection
PATIENCE = 60.0  # seconds to wait for an answer; pymilvus alone would try a lost cluster for minutes


class Collection:
    """A collection in Milvus.

    Parameters
    ----------
    where, name : as `Gallery` takes them.

    Raises
    ------
    GalleryError
        When pymilvus is not installed, Milvus cannot be reached, or the file is damaged or in use.
    """

    def __init__(self, where: str, name: str) -> None:
        self.where, self.name, self.is_file, self.loaded = where, name, where.endswith(".db"), False
        try:
            import pymilvus
        except ImportError as error:
            remedy = "Install the extra: pip install 'dwclib[scale]'."
            raise GalleryError("pymilvus is not installed", where=where, remedy=remedy) from error
        for logger in ("pymilvus", "milvus_lite", "grpc._server"):  # what they log is raised, or mended, too
            logging.getLogger(logger).setLevel(logging.CRITICAL + 1)
        if self.is_file:
            Path(where).parent.mkdir(parents=True, exist_ok=True)
        elif not where.startswith(("http://", "https://")):
            remedy = "Name a file that ends in .db, or the http://host:port of a cluster."
            raise GalleryError("this is neither a gallery's file nor an address", where=where, remedy=remedy)
        try:
            self.client = pymilvus.MilvusClient(where, timeout=ANSWER)
        except pymilvus.MilvusException as error:
            problem = "another process has it open, or the file is damaged"
            problem = problem if self.is_file else f"Milvus cannot be reached within {ANSWER:g} s"
            remedy = "Close it there, or remove it." if self.is_file else "Start it there, or name a file."
            raise GalleryError(problem, where=where, remedy=remedy) from error

    def call(self, method: str, *values: Any, **options: Any) -> Any:
        """Call a method of Milvus's client for this collection; what it complains of is one sentence."""
        from pymilvus import MilvusException

        try:
            return getattr(self.client, method)(self.name, *values, **options)
        except MilvusException as error:
            lost = "See whether Milvus still runs there, and call again."
            remedy = "If it is damaged, remove it and fill it again." if self.is_file else lost
            where = f"{self.where}, {self.name}"
            raise GalleryError(f"Milvus refuses ({error.message})", where=where, remedy=remedy) from error

    def close(self) -> None:
        """Let go of the connection, and of a file."""
        self.client.close()
        if self.is_file:
            from milvus_lite.server_manager import server_manager_instance

            server_manager_instance.release_server(self.where)

    def create(self, dim: int) -> None:
        """Make it."""
        from pymilvus import DataType

        schema = self.client.create_schema(auto_id=False)
        schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=LONGEST_ID)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dim)
        self.call("create_collection", schema=schema, consistency_level="Strong")

    def width(self) -> int | None:
        """Return the width of the vectors, None where `create` did not make it."""
        fields = {field["name"]: field for field in self.call("describe_collection")["fields"]}
        if set(fields) != {"id", "vector"} or fields["id"]["type"].name != "VARCHAR":
            return None
        return int(fields["vector"]["params"]["dim"])

    def indexed(self, index: str | None) -> str:
        """Name the index that is there; build it, or another, where that is asked for."""
        there = self.call("list_indexes")
        stored = str(self.call("describe_index", there[0])["index_type"]) if there else None
        if stored is not None and index in (None, stored):
            return stored
        if there:
            self.call("release_collection")
            self.call("drop_index", there[0])
        self._build(index or "FLAT")
        return index or "FLAT"

    def load(self, index: str) -> None:
        """Make it ready to be searched, once."""
        if self.loaded:
            return
        self.call("flush")
        try:
            self.call("load_collection")
        except GalleryError:
            if not self.is_file:
                raise
            # Milvus Lite writes its index in place: a process killed meanwhile leaves half of it.
            self.call("drop_index", "vector")
            self._build(index)
            self.call("load_collection")
        self.loaded = True

    def hits(
        self, queries: Float32[np.ndarray, "queries dim"], limit: int, index: str, effort: int | None
    ) -> list[Any]:
        """Return what an index finds for each query, at an effort as `Gallery.search` takes it."""
        candidates = max(limit, effort or max(64, 2 * limit))
        params = {"IVF_FLAT": {"nprobe": effort or 16}, "HNSW": {"ef": candidates}}.get(index, {})
        options = {"limit": limit, "search_params": {"metric_type": "IP", "params": params}}
        return self.call("search", data=list(queries), output_fields=["id"], timeout=PATIENCE, **options)

    def _build(self, index: str) -> None:
        params = self.client.prepare_index_params()
        params.add_index("vector", index_type=index, metric_type="IP", params=BUILT[index])
        self.call("create_index", params)
        self.call("release_collection")  # so that nothing is indexed while images are added
