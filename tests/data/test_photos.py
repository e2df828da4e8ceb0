import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dwclib.data import census, datasets, images
from dwclib.data.finder import find_files
from dwclib.data.photos import PhotoTriplets
from dwclib.errors import DatasetError

NAMES = ("a", "b", "c", "d", "e")
pytestmark = pytest.mark.usefixtures("own_cache")
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="such files are Linux's")


@pytest.fixture
def folder(tmp_path):
    for number, name in enumerate(NAMES):
        Image.new("RGB", (12, 8), (50 * number, 0, 0)).save(tmp_path / f"{name}.png")
    return tmp_path


def load(folder):
    """Two triplets, a to b and b to c, over five images, all of them searched; a third had no text."""
    return PhotoTriplets(
        name="toy/train",
        image_ids=NAMES,
        identities=np.arange(5),
        references=np.array([0, 1]),
        targets=np.array([1, 2]),
        captions=(("is red",), ("is long",)),
        gallery=np.arange(5),
        members=np.array([[1, 3], [2, -1]]),
        files=find_files(folder, NAMES),
        annotated=3,
        size=8,
    )


def test_the_pictures_are_those_of_the_files(folder):
    assert load(folder).pictures[:, 4, 4, 0].tolist() == [0, 50, 100, 150, 200]


def test_training_demands_the_photos_of_its_triplets_alone(folder):
    for name in ("d", "e"):
        (folder / f"{name}.png").unlink()
    dataset = load(folder)
    assert dataset.missing == ["d", "e"]
    training = dataset.for_training()
    training.check_complete()
    assert len(training) == 2
    assert training.image_ids == NAMES
    assert training.pictures[:3, 4, 4, 0].tolist() == [0, 50, 100]


def test_what_is_left_out_is_said_in_numbers(folder):
    whole = load(folder)
    assert whole.dropped().startswith("toy/train: 1 of 3 triplets are left out")
    assert replace(whole, annotated=2).dropped() == ""
    (folder / "a.png").unlink()
    assert load(folder).complete().dropped().startswith("toy/train: 2 of 3 triplets are left out")
    (folder / "c.png").write_bytes(b"no image")
    with pytest.raises(DatasetError, match="no triplet has both its images"):
        load(folder).complete()


def test_without_a_photo_nothing_is_decoded_and_it_is_told_at_once(folder, monkeypatch, tmp_path_factory):
    cache = tmp_path_factory.mktemp("empty")
    monkeypatch.setenv("DWC_CACHE", str(cache))
    for path in folder.glob("*.png"):
        path.unlink()
    with pytest.raises(DatasetError, match="no triplet has both its images: 0 of 5 can be used"):
        load(folder).complete()
    assert not list(cache.rglob("*.npy"))


def test_a_photo_that_was_replaced_under_its_old_time_stamp_is_seen(folder):
    path = folder / "b.png"
    assert load(folder).pictures[1, 4, 4, 1] == 0
    state = path.stat()
    Image.new("RGB", (30, 20), (0, 250, 0)).save(path)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert path.stat().st_mtime_ns == state.st_mtime_ns
    assert load(folder).pictures[1, 4, 4, 1] == 250


@pytest.mark.parametrize(
    ("old", "new", "again"), [("BICUBIC", "BILINEAR", True), ("upright", "turned", False)]
)
def test_photos_are_decoded_again_once_their_preparation_is_another(
    folder, tmp_path_factory, monkeypatch, old, new, again
):
    before = load(folder).pictures.filename
    code = Path(images.__file__).read_text()
    assert old in code
    edited = tmp_path_factory.mktemp("edited") / "images.py"
    edited.write_text(code.replace(old, new))
    monkeypatch.setattr(images, "__file__", str(edited))
    assert (load(folder).pictures.filename != before) == again


@on_linux
def test_a_photo_that_could_not_be_read_for_a_while_is_read_later(folder):
    path = folder / "b.png"
    whole = path.read_bytes()
    path.unlink()
    path.symlink_to("/proc/self/mem")  # reading it is an input/output error
    with pytest.raises(DatasetError, match=r"1 of 5 images cannot be read, the first is 'b' .*Input/output"):
        _ = load(folder).pictures
    path.unlink()
    path.write_bytes(whole)
    assert load(folder).pictures[1, 4, 4, 0] == 50


@on_linux
@pytest.mark.parametrize("put", ["mkfifo", "symlink", "mkdir"])
def test_what_stands_in_the_place_of_a_photo_is_told_and_never_waited_for(folder, put):
    (folder / "b.png").unlink()
    getattr(os, put)(*(["nowhere"] if put == "symlink" else []), folder / "b.png")
    with pytest.raises(DatasetError, match="the first is 'b'"):
        _ = load(folder).pictures
    (folder / "c.png").unlink()
    with pytest.raises(DatasetError, match="no triplet has both its images"):
        load(folder).complete()


def test_a_training_starts_without_the_photos_that_only_its_list_names(tmp_path):
    census.write("fashioniq", tmp_path / "out", seed=0, train=80, val=32)
    options = {"protocol": "VAL", "category": "dress"}
    dataset = datasets.load("fashioniq", tmp_path / "out", "train", **options)
    (unused, *_) = sorted(set(range(len(dataset.image_ids))) - {*dataset.references, *dataset.targets})
    dataset.files[unused].unlink()
    config = datasets.PhotoConfig(dataset="fashioniq", root=str(tmp_path / "out"), options=options, size=8)
    train, _ = datasets.load_data(config)
    assert dataset.image_ids[unused] in train.image_ids
    assert train.pictures.shape == (len(dataset.image_ids), 8, 8, 3)
