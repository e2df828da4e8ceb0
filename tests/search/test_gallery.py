"""Galleries in Milvus Lite: what goes in is found, once, whatever stopped it; what is wrong is told."""

from __future__ import annotations

import logging
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("pymilvus")

from dwclib.errors import DatasetError, GalleryError
from dwclib.search.gallery import Gallery, ask, fill, open_gallery
from dwclib.training.config import parse_config
from dwclib.training.runs import Run

DIM = 8
SMALL = {
    "data": {"train_images": 60, "train_queries": 60, "val_images": 40, "val_queries": 30},
    "model": {"dim": 16, "word_dim": 8},
    "training": {"epochs": 1, "batch": 16, "learning_rate": 1e-3},
}


def _vectors(count: int, *, seed: int = 0, dim: int = DIM) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _ids(count: int) -> list[str]:
    return [f"dress/{number:04d}" for number in range(count)]


@pytest.fixture
def gallery(tmp_path):
    with Gallery(tmp_path / "some" / "gallery.db", dim=DIM) as found:
        yield found


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """Fill a gallery that no test changes."""
    with Gallery(tmp_path_factory.mktemp("filled") / "gallery.db", dim=DIM) as found:
        found.add(_ids(50), _vectors(50), batch=20)
        yield found


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    folder = tmp_path_factory.mktemp("run")
    return Run(parse_config(SMALL, "test"), folder, device="cpu").train(progress=False)


def test_the_best_by_dot_product_are_found_in_order(filled):
    queries = 3 * _vectors(7, seed=1)  # not of length one: scores are products, not cosines
    found = filled.search(queries, 10)
    scores = queries @ _vectors(50).T
    order = np.argsort(-scores, axis=1)[:, :10]
    assert found.ids.tolist() == [[_ids(50)[place] for place in row] for row in order]
    assert found.scores == pytest.approx(np.take_along_axis(scores, order, axis=1), abs=1e-5)


def test_each_query_leaves_its_own_image_out(filled):
    queries = _vectors(50)[:3]
    ids = _ids(50)[:3]
    usual, without = filled.search(queries, 4), filled.search(queries, 3, exclude=[ids[0], None, ids[2]])
    assert usual.ids[:, 0].tolist() == ids
    assert without.ids[0].tolist() == usual.ids[0, 1:].tolist()
    assert without.ids[1].tolist() == usual.ids[1, :3].tolist()
    assert without.ids[2].tolist() == usual.ids[2, 1:].tolist()


def test_more_queries_than_one_request_takes_are_answered_in_order(filled):
    queries = np.tile(_vectors(50), (21, 1))
    assert filled.search(queries, 1).ids[:, 0].tolist() == _ids(50) * 21


def test_no_query_has_no_answer(filled):
    assert filled.search(np.empty((0, DIM), np.float32), 5).ids.shape == (0, 5)


def test_an_image_added_again_is_there_once_with_its_new_vector(gallery):
    old, new = _vectors(2, seed=1)
    gallery.add(["a", "b"], np.stack([old, old]))
    gallery.add(["b", "c"], np.stack([new, old]))
    assert len(gallery) == 3
    assert gallery.search(new[None], 1).ids.tolist() == [["b"]]
    assert gallery.search(new[None], 1).scores == pytest.approx(1.0)


def test_images_added_after_a_search_are_found(gallery):
    gallery.add(["a"], _vectors(1))
    gallery.search(_vectors(1), 1)
    gallery.add(["b"], -_vectors(1))
    assert gallery.search(-_vectors(1), 1).ids.tolist() == [["b"]]


def test_a_closed_gallery_opens_again_as_it_was(tmp_path):
    with Gallery(tmp_path / "g.db", dim=DIM, index="HNSW") as gallery:
        gallery.add(_ids(30), _vectors(30))
        before = gallery.search(_vectors(3), 5)
    with Gallery(tmp_path / "g.db") as again:
        assert (again.dim, again.index, len(again)) == (DIM, "HNSW", 30)
        found = again.search(_vectors(3), 5)
    assert found.ids.tolist() == before.ids.tolist()


@pytest.mark.parametrize("index", ["IVF_FLAT", "HNSW"])
def test_an_index_can_be_changed_and_finds_most(tmp_path, index):
    vectors = _vectors(3_000, dim=16)
    with Gallery(tmp_path / "g.db", dim=16) as gallery:
        gallery.add(_ids(3_000), vectors)
        exact = gallery.search(vectors[:50], 10)
    with Gallery(tmp_path / "g.db", index=index) as gallery:
        found = gallery.search(vectors[:50], 10)
        assert gallery.index == index
    recall = np.mean([len({*a} & {*b}) / 10 for a, b in zip(exact.ids, found.ids, strict=True)])
    assert 0.5 < recall <= 1


def test_milvus_logs_no_error_where_there_is_none(tmp_path, caplog):
    for index in ("FLAT", "HNSW"):
        with Gallery(tmp_path / "g.db", dim=DIM, index=index) as gallery:
            gallery.add(_ids(30), _vectors(30))
            gallery.search(_vectors(1), 1)
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.parametrize(("index", "most"), [("IVF_FLAT", 128), ("HNSW", 1_000)])
def test_more_effort_misses_less(tmp_path, index, most):
    vectors = _vectors(3_000, dim=16)
    with Gallery(tmp_path / "g.db", dim=16) as gallery:
        gallery.add(_ids(3_000), vectors)
        exact = gallery.search(vectors[:50], 10)
    recalls = []
    with Gallery(tmp_path / "g.db", index=index) as gallery:
        for effort in (1, most):
            found = gallery.search(vectors[:50], 10, effort=effort)
            recalls.append(np.mean([len({*a} & {*b}) for a, b in zip(exact.ids, found.ids, strict=True)]))
        with pytest.raises(GalleryError, match="an effort of 0 finds nothing"):
            gallery.search(vectors[:1], 10, effort=0)
    assert recalls[0] < recalls[1]
    assert recalls[1] >= 9.9


def test_two_galleries_share_a_file(tmp_path):
    first = Gallery(tmp_path / "g.db", dim=DIM, name="first")
    second = Gallery(tmp_path / "g.db", dim=4, name="second")
    first.add(["a"], _vectors(1))
    second.add(["b"], _vectors(1, dim=4))
    assert [first.search(_vectors(1), 1).ids.item(), second.search(_vectors(1, dim=4), 1).ids.item()] == [
        "a",
        "b",
    ]
    second.close()


def test_float16_mapped_from_disk_goes_in(tmp_path, gallery):
    np.save(tmp_path / "v.npy", _vectors(30).astype(np.float16))
    gallery.add(_ids(30), np.load(tmp_path / "v.npy", mmap_mode="r"))
    assert gallery.search(_vectors(30), 1).ids[:, 0].tolist() == _ids(30)


def test_missing_names_the_places_of_what_is_not_there(filled):
    assert filled.missing(["new", "dress/0003", "newer"]).tolist() == [0, 2]
    assert filled.missing([]).tolist() == []


INSERT = """
import sys, numpy as np
from dwclib.search.gallery import Gallery
gallery = Gallery(sys.argv[1], dim=64)
vectors = np.random.default_rng(0).standard_normal((10_000, 64)).astype(np.float32)
print("begin", flush=True)
gallery.add([f"{number}" for number in range(10_000)], vectors, batch=50)
print("end", flush=True)
"""


def _insert(path: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", INSERT, str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def test_a_killed_insert_called_again_has_each_image_once(tmp_path):
    path = tmp_path / "g.db"
    killed = _insert(path)
    assert killed.stdout.readline() == "begin\n"
    while not list(path.rglob("wal_data*")):  # nothing has been inserted yet
        assert killed.poll() is None
        time.sleep(0.01)
    killed.kill()
    assert killed.communicate()[0] == ""
    with Gallery(path) as gallery:
        assert len(gallery) < 10_000
    assert _insert(path).communicate()[0] == "begin\nend\n"
    vectors = np.random.default_rng(0).standard_normal((10_000, 64)).astype(np.float32)
    with Gallery(path) as gallery:
        assert len(gallery) == 10_000
        assert len(gallery.missing([str(number) for number in range(10_000)])) == 0
        found = gallery.search(vectors[::1_000], 2)
        assert found.ids[:, 0].tolist() == [str(number) for number in range(0, 10_000, 1_000)]
        assert (found.ids[:, 0] != found.ids[:, 1]).all()


def test_half_an_index_is_made_anew(tmp_path):
    with Gallery(tmp_path / "g.db", dim=DIM) as gallery:
        gallery.add(_ids(30), _vectors(30))
        gallery.search(_vectors(1), 1)
    (index,) = tmp_path.rglob("*.idx")
    index.write_bytes(index.read_bytes()[:100])
    with Gallery(tmp_path / "g.db") as gallery:
        assert gallery.search(_vectors(30), 1).ids[:, 0].tolist() == _ids(30)


def test_a_picture_and_a_text_find_what_the_run_finds(run, tmp_path, monkeypatch):
    monkeypatch.setattr("dwclib.search.gallery.BATCH", 7)
    dataset, pictures = run.evaluation.dataset, run.evaluation.dataset.pictures
    ids = [dataset.image_ids[image] for image in dataset.gallery]
    with open_gallery(run, tmp_path / "g.db") as gallery:
        assert fill(gallery, run, ids, pictures[dataset.gallery]) == len(ids)
        assert fill(gallery, run, ids, pictures[dataset.gallery]) == 0
        reference, text = int(dataset.references[0]), dataset.texts()[0]
        own = dataset.image_ids[reference]
        found = ask(gallery, run, pictures[reference], text, 5, exclude=own)
    embedded = run.embedded()
    scores = sum(part.queries[0] @ part.gallery.T for part in embedded.values())
    order = [place for place in scores.argsort(descending=True).tolist() if ids[place] != own][:5]
    assert found.ids.tolist() == [ids[place] for place in order]
    assert found.scores == pytest.approx(scores[order].numpy(), abs=1e-4)
    for name, part in embedded.items():
        assert found.modality_weight[name] == pytest.approx(float(part.modality_weight[0]), abs=1e-4)


def test_a_stopped_fill_goes_on_and_encodes_nothing_twice(run, tmp_path):
    pictures = run.evaluation.dataset.pictures[:30]
    with open_gallery(run, tmp_path / "g.db") as gallery:
        fill(gallery, run, _ids(20), pictures[:20])
        assert fill(gallery, run, _ids(30), pictures) == 10
        assert len(gallery) == 30


def test_another_models_vectors_stay_apart(run, tmp_path):
    with open_gallery(run, tmp_path / "g.db") as before:
        fill(before, run, _ids(5), run.evaluation.dataset.pictures[:5])
    weight = next(run.model.parameters())
    with torch.no_grad():
        weight += 1
    with open_gallery(run, tmp_path / "g.db") as after:
        assert len(after) == 0
    run.restore()


def test_a_text_without_a_known_word_is_told(run, tmp_path):
    with open_gallery(run, tmp_path / "g.db") as gallery:
        fill(gallery, run, _ids(3), run.evaluation.dataset.pictures[:3])
        with pytest.raises(DatasetError, match="no word of the text 'xyzzy' is known"):
            ask(gallery, run, run.evaluation.dataset.pictures[0], "xyzzy", 1)


def _closed_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return opened.getsockname()[1]


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr("dwclib.search.milvus.ANSWER", 1.0)
    monkeypatch.setattr("dwclib.search.milvus.PATIENCE", 1.0)
    monkeypatch.setattr("dwclib.search.gallery.PATIENCE", 1.0)


def test_a_cluster_that_is_not_there_is_told_by_its_address(impatient):
    where = f"http://127.0.0.1:{_closed_port()}"
    with pytest.raises(GalleryError, match=f"{where}: Milvus cannot be reached within 1 s"):
        Gallery(where, dim=DIM)


def test_a_cluster_that_does_not_answer_is_not_waited_for(impatient):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        where = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(GalleryError, match=f"{where}: Milvus cannot be reached within 1 s"):
            Gallery(where, dim=DIM)


@pytest.fixture
def server(tmp_path):
    """Serve Milvus at an address, as a cluster does."""
    from milvus_lite.adapter.grpc.server import start_server_in_thread

    server, database, port = start_server_in_thread(str(tmp_path / "server"))
    yield server, f"http://127.0.0.1:{port}"
    server.stop(grace=0)
    database.close()


def test_an_address_in_place_of_a_file_changes_nothing_else(server, filled):
    with Gallery(server[1], dim=DIM) as remote:
        remote.add(_ids(50), _vectors(50))
    with Gallery(server[1]) as again:
        assert len(again) == 50
        found, expected = (place.search(_vectors(5, seed=1), 7) for place in (again, filled))
    assert found.ids.tolist() == expected.ids.tolist()


def test_a_cluster_that_goes_away_is_told_by_its_address(server, impatient):
    with Gallery(server[1], dim=DIM) as remote:
        remote.add(["a"], _vectors(1))
        remote.search(_vectors(1), 1)
        server[0].stop(grace=0).wait()
        with pytest.raises(GalleryError, match=f"{server[1]}, gallery: Milvus refuses"):
            remote.search(_vectors(1), 1)
        with pytest.raises(GalleryError, match="See whether Milvus still runs there"):
            remote.add(["b"], _vectors(1))


def test_neither_a_file_nor_an_address_is_told():
    with pytest.raises(GalleryError, match="neither a gallery's file nor an address"):
        Gallery("localhost", dim=DIM)


def test_a_gallery_of_another_width_is_told(filled):
    with pytest.raises(GalleryError, match="it holds vectors of width 8, not 16"):
        Gallery(filled.where, dim=16)
    with pytest.raises(GalleryError, match="a vector has width 9, and the gallery 8"):
        filled.add(["x"], _vectors(1, dim=9))
    with pytest.raises(GalleryError, match="a vector has width 9, and the gallery 8"):
        filled.search(_vectors(1, dim=9), 1)


def test_a_gallery_that_is_not_there_needs_a_width(tmp_path):
    with pytest.raises(GalleryError, match="there is no gallery"):
        Gallery(tmp_path / "g.db")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_vector_that_is_not_finite_is_named_and_nothing_is_added(filled, value):
    vectors = _vectors(1_500)
    vectors[1_234, 5] = value
    with pytest.raises(GalleryError, match="record 1234: a vector is NaN or infinite"):
        filled.add([f"bad/{number}" for number in range(1_500)], vectors, batch=100)
    assert len(filled) == 50
    with pytest.raises(GalleryError, match="record 1234: a vector is NaN or infinite"):
        filled.search(vectors, 1)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (["a", "b", "a"], "record 2: the id 'a' is given twice"),
        (["a", "b"], "there are 2 ids for 3 images"),
        (["a", "", "c"], "record 1: the id '' is empty or too long"),
        (["a", "é" * 257, "c"], "is empty or too long"),
    ],
)
def test_ids_that_cannot_be_told_apart_are_refused(filled, ids, message):
    with pytest.raises(GalleryError, match=message):
        filled.add(ids, _vectors(3))
    assert len(filled) == 50


def test_more_images_than_there_are_cannot_be_asked_for(filled):
    for k in (0, -1, 16_385):
        with pytest.raises(GalleryError, match=f"{k} images are asked for"):
            filled.search(_vectors(1), k)
    with pytest.raises(GalleryError, match="51 images are asked for and 50 can be ranked"):
        filled.search(_vectors(1), 51)
    with pytest.raises(GalleryError, match="50 images are asked for and 49 can be ranked"):
        filled.search(_vectors(1), 50, exclude=["dress/0001"])
    assert filled.search(_vectors(1), 50).ids.shape == (1, 50)


def test_an_exclusion_is_wanted_for_each_query(filled):
    with pytest.raises(GalleryError, match="there are 1 exclusions for 2 queries"):
        filled.search(_vectors(2), 1, exclude=["dress/0001"])


def test_an_empty_gallery_can_give_nothing(gallery):
    with pytest.raises(GalleryError, match="1 images are asked for and 0 can be ranked"):
        gallery.search(_vectors(1), 1)


def test_a_file_of_something_else_is_told(tmp_path):
    path = tmp_path / "g.db"
    path.write_text("no gallery")
    with pytest.raises(GalleryError, match="the file is damaged"):
        Gallery(path, dim=DIM)
    assert path.read_text() == "no gallery"


@pytest.mark.parametrize("damaged", ["schema.json", "*.parquet"])
def test_a_damaged_file_is_told(tmp_path, damaged):
    with Gallery(tmp_path / "g.db", dim=DIM) as gallery:
        gallery.add(_ids(30), _vectors(30))
        gallery.search(_vectors(1), 1)
    paths = list(tmp_path.rglob(damaged))
    assert paths
    for path in paths:
        path.write_bytes(b"damaged")
    with (
        pytest.raises(GalleryError, match="If it is damaged, remove it"),
        Gallery(tmp_path / "g.db") as gallery,
    ):
        gallery.search(_vectors(1), 1)


def test_a_file_that_another_process_has_open_is_told(tmp_path):
    path = tmp_path / "g.db"
    program = f"from dwclib.search.gallery import Gallery\nGallery({str(path)!r}, dim=4)\n"
    program += "print(flush=True)\ninput()"
    other = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    other.stdout.readline()
    with pytest.raises(GalleryError, match="another process has it open"):
        Gallery(path, dim=4)
    other.communicate("\n")
    with Gallery(path) as gallery:
        assert gallery.dim == 4


def test_a_collection_of_another_program_is_told(tmp_path, filled):
    from pymilvus import MilvusClient

    client = MilvusClient(str(tmp_path / "g.db"))
    client.create_collection("gallery", 8)
    client.close()
    with pytest.raises(GalleryError, match="none of this library's"):
        Gallery(tmp_path / "g.db", dim=8)


def test_a_copy_of_the_file_is_the_gallery(tmp_path):
    with Gallery(tmp_path / "g.db", dim=DIM) as gallery:
        gallery.add(_ids(30), _vectors(30))
    shutil.copytree(tmp_path / "g.db", tmp_path / "copy.db")
    with Gallery(tmp_path / "copy.db") as copy:
        assert len(copy) == 30
