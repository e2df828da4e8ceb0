import os
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dwclib.data.finder import find_files, photos_below, places, without_ending
from dwclib.errors import DatasetError


def put(root, *names, content="photo"):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)


@pytest.mark.parametrize(
    ("image_id", "file"),
    [
        ("B001", "images/dress/B001.jpg"),
        ("B001", "image_data/dress/B001.png"),
        ("B001", "resized_image/dress/B001.webp"),
        ("B001", "img/B001"),
        ("B001", "B001.JPG"),
        ("B001", "images/B001.jpg.jpg"),
        ("B001.jpg", "images/B001.png"),
        ("B001", "images/B001.jpeg.PNG"),
        ("B001.v2", "images/B001.v2.avif"),
        ("img_womens_boots_12", "attributedata/womens_boots/0/img_womens_boots_12.jpg"),
        ("women/dresses/casual/51/51_0", "women/dresses/casual/51/51_0.jpeg"),
        ("women/dresses/casual/51/51_0.jpeg", "fashion200k/women/dresses/casual/51/51_0.JPEG"),
        ("./dev/dev-0-0-img0.png", "img_raw/dev/dev-0-0-img0.png"),
        (unicodedata.normalize("NFC", "été"), unicodedata.normalize("NFD", "images/été.jpg")),
        (unicodedata.normalize("NFD", "é/café"), unicodedata.normalize("NFC", "é/café.jpg")),
    ],
)
def test_a_photo_is_found_wherever_it_lies_and_whatever_its_ending(tmp_path, image_id, file):
    put(tmp_path, file, "images/B0012.jpg", "images/other/B001-2.jpg", "captions/cap.B001.json")
    assert find_files(tmp_path, [image_id, "nowhere"]) == (tmp_path / file, None)


def test_a_path_fits_as_a_whole_or_not_at_all(tmp_path):
    put(tmp_path, "women/a/1/1_0.jpg", "xdev/1.png")
    assert find_files(tmp_path, ["women/b/1/1_0", "dev/1"]) == (None, None)


def test_photos_one_level_above_the_annotations_are_found_in_the_folders_that_are_named(tmp_path):
    put(tmp_path, "dev/dev-0.png", "train/7/train-7.png", "cirr/captions/x.json", "elsewhere/dev/dev-1.png")
    names = ["dev/dev-0", "train/7/train-7", "dev/dev-1"]
    found = find_files(tmp_path / "cirr", names, beside=["train", "dev"])
    assert found == (tmp_path / "dev" / "dev-0.png", tmp_path / "train" / "7" / "train-7.png", None)
    assert places(tmp_path / "cirr", ["dev"]) == [tmp_path / "cirr", tmp_path / "dev"]


def test_links_to_folders_and_files_are_followed_and_circles_end(tmp_path):
    put(tmp_path, "disk/photos/a.jpg", "disk/photos/sub/b.jpg", "disk/c.jpg", "data/d.jpg")
    data = tmp_path / "data"
    (data / "images").symlink_to(tmp_path / "disk" / "photos", target_is_directory=True)
    (data / "circle").symlink_to(data, target_is_directory=True)
    (tmp_path / "disk" / "photos" / "back").symlink_to(data, target_is_directory=True)
    (data / "itself").symlink_to(data / "itself")
    (data / "c.jpg").symlink_to(tmp_path / "disk" / "c.jpg")
    found = find_files(data, ["a", "b", "c", "d"])
    below = [data / "images" / "a.jpg", data / "images" / "sub" / "b.jpg", data / "c.jpg", data / "d.jpg"]
    assert list(found) == below
    assert len(list(photos_below(data))) == 5  # the fifth is the link to itself, which reading will tell


def test_a_folder_is_named_by_itself_and_not_by_a_link_to_it(tmp_path):
    put(tmp_path, "photos/x.jpg")
    (tmp_path / "a link").symlink_to(tmp_path / "photos", target_is_directory=True)
    assert [photo.name for photo in photos_below(tmp_path)] == ["photos/x"]


def test_two_files_that_differ_are_told_and_copies_are_one(tmp_path):
    put(tmp_path, "images/a.jpg", "copy/a.jpg", "images/b.jpg")
    assert find_files(tmp_path, ["a"])[0].name == "a.jpg"
    put(tmp_path, "copy/b.png", content="other")
    with pytest.raises(DatasetError, match="'b' has several files that differ, and so have 0 others") as told:
        find_files(tmp_path, ["a", "b"])
    assert str(tmp_path / "copy" / "b.png") in told.value.where
    assert str(tmp_path / "images" / "b.jpg") in told.value.where
    assert find_files(tmp_path, ["a"]) != (None,)  # what nothing names is nobody's business


def test_the_category_decides_between_its_photos_and_anothers(tmp_path):
    put(tmp_path, "images/dress/a.jpg")
    put(tmp_path, "images/toptee/a.jpg", content="other")
    for category in ("dress", "toptee"):
        found = find_files(tmp_path, ["a"], prefer=category)
        assert found == (tmp_path / "images" / category / "a.jpg",)
    with pytest.raises(DatasetError, match="several files"):
        find_files(tmp_path, ["a"], prefer="shirt")


def test_hidden_files_and_folders_that_may_not_be_read_are_passed_over(tmp_path):
    put(tmp_path, ".thumbs/a.jpg", "__MACOSX/._a.jpg", "images/a.jpg", "images/10:30.jpg", "images/x|?*.jpg")
    (tmp_path / "lost+found").mkdir(mode=0)
    assert [photo.name for photo in photos_below(tmp_path)] == ["images/10:30", "images/a", "images/x|?*"]
    assert list(photos_below(tmp_path / "nowhere")) == []


@pytest.mark.skipif(sys.platform != "linux", reason="such files are Linux's")
def test_what_is_no_file_is_found_so_that_reading_tells_it(tmp_path):
    os.mkfifo(tmp_path / "a.jpg")
    (tmp_path / "b.jpg").symlink_to("nowhere")
    (tmp_path / "c.jpg").mkdir()
    assert find_files(tmp_path, ["a", "b", "c"]) == (tmp_path / "a.jpg", tmp_path / "b.jpg", None)


@pytest.mark.parametrize("name", ["", ".png", "a/.png", "/a", "../a", "a.b", "a/b.c/d", "a.txt"])
def test_what_has_no_ending_stays_as_it_is(name):
    assert without_ending(name) == name


@given(st.text(max_size=12))
def test_whatever_the_name_its_ending_goes_and_nothing_else(name):
    bare = without_ending(name)
    assert without_ending(bare + ".jpg") in (bare, bare + ".jpg")
    assert find_files(Path("nowhere"), [name]) == (None,)
