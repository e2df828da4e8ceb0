import numpy as np
import pytest

from dwclib.data.triplets import Triplets, check_captions
from dwclib.errors import DatasetError


def make(**changes):
    fields = {
        "name": "toy",
        "image_ids": ("a", "b", "c", "d"),
        "identities": np.array([0, 1, 1, 2]),
        "references": np.array([0, 1]),
        "targets": np.array([1, 3]),
        "captions": (("is red", "is long"), ("is blue",)),
        "gallery": np.array([3, 1, 2]),
    }
    return Triplets(**{**fields, **changes})


def test_a_dataset_knows_its_size_texts_and_gallery_places():
    toy = make()
    assert len(toy) == 2
    assert toy.texts() == ["is red and is long", "is blue"]
    assert toy.texts(joiner=" <AND> ")[0] == "is red <AND> is long"
    assert toy.gallery_position(np.array([0, 1, 2, 3])).tolist() == [-1, 1, 2, 0]


@pytest.mark.parametrize(
    "image_id", ["../secret", "a/../../b", "a/..", "/etc/passwd", "\\x", "", "..\\x", "C:x"]
)
def test_an_image_id_must_stay_in_its_folder(image_id):
    with pytest.raises(DatasetError, match="leaves the image folder"):
        make(image_ids=("a", "b", "c", image_id))


@pytest.mark.parametrize("image_id", ["a..b", "..a", "12:30", "a b/c.d", "...", "größe/é"])
def test_an_image_id_may_be_any_other_name(image_id):
    assert make(image_ids=("a", "b", "c", image_id)).image_ids[3] == image_id


def test_an_image_is_listed_once():
    with pytest.raises(DatasetError, match=r"image 2.*occurs twice"):
        make(image_ids=("a", "b", "a", "d"))


@pytest.mark.parametrize("captions", [(), ("",), ("  ",), (None,), (3,), ("fine", ""), ("\ud83d",)])
def test_a_caption_is_a_text_with_something_in_it(captions):
    with pytest.raises(DatasetError, match="toy, query 7"):
        check_captions(captions, "toy, query 7")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"references": np.array([0, 4])}, "record 1: the reference is image 4"),
        ({"targets": np.array([-1, 3])}, "record 0: the target is image -1"),
        ({"gallery": np.array([3, 1, 9])}, "record 2: the gallery image is image 9"),
        ({"gallery": np.array([3, 2])}, "query 0: the target 'b' is not in the gallery"),
        ({"captions": (("is red",),)}, "2 references, 2 targets and 1 caption lists"),
        ({"identities": np.array([0, 1])}, "4 images but 2 identities"),
        ({"captions": (("is red",), ("",))}, "toy, query 1"),
    ],
)
def test_a_broken_record_is_named(changes, message):
    with pytest.raises(DatasetError, match=message):
        make(**changes)
