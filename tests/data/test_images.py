import os
from functools import partial

import numpy as np
import pytest
from PIL import Image

from dwclib.data import images
from dwclib.data.images import find_image, image_store, read_image, stored_folder
from dwclib.errors import DatasetError


def plain(index, size=8):
    return np.full((size, size, 3), index % 251, dtype=np.uint8)


def logged(folder, index):
    (folder / f"{index}-{os.getpid()}-{len(list(folder.iterdir()))}").touch()
    if (folder.parent / "stop").exists() and index >= 5:
        raise RuntimeError("power cut")
    return plain(index)


@pytest.fixture
def folder(tmp_path):
    for name, colour in (("red", (255, 0, 0)), ("blue", (0, 0, 255))):
        Image.new("RGB", (40, 20), colour).save(tmp_path / f"{name}.png")
    Image.new("L", (20, 40), 100).save(tmp_path / "grey.jpg")
    return tmp_path


def test_a_store_holds_each_image_in_its_place(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "CHUNK", 7)
    store = image_store(tmp_path / "s.npy", plain, 20, 8, workers=1).pictures
    assert store.shape == (20, 8, 8, 3)
    assert store[:, 0, 0, 0].tolist() == list(range(20))
    assert not list(tmp_path.glob("*.parts"))


def test_a_finished_store_is_read_and_not_made_again(tmp_path):
    made = tmp_path / "made"
    made.mkdir()
    for _ in range(2):
        image_store(tmp_path / "s.npy", partial(logged, made), 6, 8, workers=1)
    assert len(list(made.iterdir())) == 6


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Stop a store of nine images, in chunks of three, on its way; return where each made image is logged."""
    monkeypatch.setattr(images, "CHUNK", 3)
    made = tmp_path / "made"
    made.mkdir()
    (tmp_path / "stop").touch()
    with pytest.raises(RuntimeError, match="power cut"):
        image_store(tmp_path / "s.npy", partial(logged, made), 9, 8, workers=1)
    (tmp_path / "stop").unlink()
    return made


def test_a_stopped_run_goes_on_where_it_was(tmp_path, made):
    assert not (tmp_path / "s.npy").exists()
    store = image_store(tmp_path / "s.npy", partial(logged, made), 9, 8, workers=1).pictures
    assert store[:, 0, 0, 0].tolist() == list(range(9))
    first_chunk = [path for path in made.iterdir() if path.name.split("-")[0] in ("0", "1", "2")]
    assert len(first_chunk) == 3


def test_chunks_whose_file_is_gone_are_made_again(tmp_path, made):
    (unfinished,) = tmp_path.glob("s.*.parts/*.npy")
    unfinished.unlink()
    store = image_store(tmp_path / "s.npy", partial(logged, made), 9, 8, workers=1).pictures
    assert store[:, 0, 0, 0].tolist() == list(range(9))


def test_pictures_are_cut_square_and_converted(folder):
    store, unreadable = stored_folder(
        folder / "cache" / "s.npy", folder, ["red", "grey", "blue"], 10, workers=1
    )
    assert not unreadable
    assert store.shape == (3, 10, 10, 3)
    assert store[0, 5, 5].tolist() == [255, 0, 0]
    assert store[1, 5, 5].tolist() == [100, 100, 100]
    assert store[2, 5, 5].tolist() == [0, 0, 255]


def test_a_missing_image_is_named(folder):
    with pytest.raises(DatasetError, match="there is no image 'green'"):
        find_image(folder, "green")


def test_no_image_is_looked_for_outside_the_folder(folder):
    (folder / "sub").mkdir()
    with pytest.raises(DatasetError, match="leaves the image folder"):
        find_image(folder / "sub", "../red")


@pytest.mark.parametrize("keep", [0, 10, 60])
def test_a_truncated_image_is_named(folder, keep):
    path = folder / "red.png"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DatasetError, match=r"red\.png.*cannot be read"):
        read_image(path, 10)


def test_unreadable_images_are_listed_and_only_fatal_when_asked(folder):
    (folder / "blue.png").write_bytes(b"no image")
    ids, path = ["red", "blue", "missing", "grey"], folder / "cache" / "s.npy"
    with pytest.raises(DatasetError, match=r"blue\.png.*cannot be read"):
        stored_folder(path, folder, ids, 10, strict=True, workers=1)
    assert not path.exists()
    for _ in range(2):
        store, unreadable = stored_folder(path, folder, ids, 10, workers=1)
        assert unreadable.keys() == {1, 2}
        assert "blue.png" in unreadable[1]
        assert "there is no image 'missing'" in unreadable[2]
    assert not store[1].any()
    assert not store[2].any()
    assert store[3, 5, 5].tolist() == [100, 100, 100]
    with pytest.raises(DatasetError, match="2 images cannot be read; the first is number 1"):
        stored_folder(path, folder, ids, 10, strict=True, workers=1)


@pytest.mark.parametrize(("ids", "size"), [(["blue", "red"], 10), (["red"], 10), (["red", "blue"], 12)])
def test_the_store_of_other_images_is_refused(folder, ids, size):
    path = folder / "cache" / "s.npy"
    stored_folder(path, folder, ["red", "blue"], 10, workers=1)
    with pytest.raises(DatasetError, match="made from other images"):
        stored_folder(path, folder, ids, size, workers=1)


def test_a_store_without_its_description_is_refused(folder):
    path = folder / "cache" / "s.npy"
    stored_folder(path, folder, ["red", "blue"], 10, workers=1)
    path.with_suffix(".json").unlink()
    with pytest.raises(DatasetError, match="made from other images"):
        stored_folder(path, folder, ["red", "blue"], 10, workers=1)


def test_chunks_of_other_images_are_not_taken_up(folder, monkeypatch):
    monkeypatch.setattr(images, "CHUNK", 1)
    path = folder / "cache" / "s.npy"
    with pytest.raises(DatasetError):
        stored_folder(path, folder, ["red", "missing"], 10, strict=True, workers=1)
    store, _ = stored_folder(path, folder, ["blue", "red"], 10, strict=True, workers=1)
    assert store[0, 5, 5].tolist() == [0, 0, 255]
