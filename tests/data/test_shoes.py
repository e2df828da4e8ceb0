import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dwclib.data import census, shoes
from dwclib.data.census import drawn_splits
from dwclib.errors import ConfigError, DatasetError, DwcError

LAYOUT, SMALL = "shoes", {"seed": 0, "train": 24, "val": 16}
pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="module")
def truth(own_cache):
    train, val = drawn_splits(**SMALL).values()
    return {"train": train, "test": val}


def edit(root, change):
    """Change the records in place, or write what `change` returns instead of them."""
    path = root / shoes.CAPTIONS
    rows = json.loads(path.read_text())
    changed = change(rows)
    path.write_text(json.dumps(rows if changed is None else changed))


def pairs(dataset):
    return list(zip(dataset.references.tolist(), dataset.targets.tolist(), dataset.texts(), strict=True))


@pytest.mark.parametrize("split", shoes.SPLITS)
def test_what_was_written_is_read_again(written, truth, split):
    dataset, drawn = shoes.load(written, split), truth[split]
    assert pairs(dataset) == pairs(drawn)
    assert [name.split("_")[-1] for name in dataset.image_ids] == list(drawn.image_ids)
    assert dataset.gallery.tolist() == list(range(len(drawn.image_ids)))
    assert (dataset.hit, dataset.exclude_reference, dataset.ks) == ("image", True, (1, 10, 50))
    assert dataset.standing() == f"{len(drawn)} of {len(drawn)} queries"


def test_each_image_is_found_in_its_folder(written, truth):
    dataset, drawn = shoes.load(written, "test"), truth["test"]
    assert dataset.missing == []
    for image, path in enumerate(dataset.files):
        assert path.parent.parent.name == f"womens_{drawn.garment(image).category}"
        difference = np.abs(np.asarray(Image.open(path), float) - drawn.pictures).mean(axis=(1, 2, 3))
        assert difference.argmin() == image  # a JPEG is not exact


def test_a_doubled_triplet_stands_once_for_each_of_its_images_in_the_order_of_the_list(written):
    once, twice = shoes.load(written, "train"), shoes.load(written, "train", doubled=True)
    assert Counter(pairs(twice)) == Counter({pair: 2 * n for pair, n in Counter(pairs(once)).items()})
    expected = [
        pair for image in range(len(once.image_ids)) for pair in pairs(once) if image in (pair[0], pair[1])
    ]
    assert pairs(twice) == expected


def test_a_missing_image_is_counted(root):
    gone = shoes.load(root, "test").files[3]
    gone.unlink()
    assert shoes.load(root, "test").missing == [gone.stem]
    counts = {count.what: count for count in census.census("shoes", root)[0]}
    assert (counts["test: images with a file"].found, counts["test: images with a file"].expected) == (15, 16)


def test_the_census_stands_beside_the_expected_counts(written):
    counts = {count.what: (count.found, count.expected) for count in census.census("shoes", written)[0]}
    assert counts["train: triplets"] == (36, 8990)
    assert counts["test: triplets"] == (16, 1761)
    assert counts["train: images"] == (24, 10000)
    assert counts["test: images"] == (16, 4658)


@pytest.fixture
def shorter(root):
    """The list of evaluation names lacks images that four triplets or fewer need; and the number of these."""
    used = shoes.load(root, "test")
    lacking = {used.image_ids[image] for image in (used.references[0], used.targets[5])}
    lost = sum(bool({used.image_ids[r], used.image_ids[t]} & lacking) for r, t, _ in pairs(used))
    names = (root / "eval_im_names.txt").read_text().splitlines()
    kept = [name for name in names if name.removesuffix(".jpg") not in lacking]
    (root / "eval_im_names.txt").write_text("\n".join(kept))
    return root, lost


def test_the_shorter_list_is_told_with_the_number_of_triplets_that_it_loses(shorter):
    root, lost = shorter
    with pytest.raises(DatasetError, match=f"{lost} of 16 triplets .* in no list.*listing: shorter"):
        shoes.load(root, "test")
    assert len(shoes.load(root, "train")) == 36


@pytest.mark.parametrize("doubled", [False, True])
def test_the_shorter_list_is_a_choice_that_says_on_how_many_queries_it_stands(shorter, doubled):
    root, lost = shorter
    dataset = shoes.load(root, "test", listing="shorter", doubled=doubled)
    times = 1 + doubled
    assert dataset.standing() == f"{times * (16 - lost)} of {times * 16} queries"
    assert len(dataset.gallery) == 14
    counts = {count.what: count[1:] for count in census.census("shoes", root)[0]}
    assert counts["test: triplets"] == (16, 1761)
    assert counts["test: triplets that can be asked"] == (16 - lost, 16)
    assert counts["test: images"] == (14, 4658)


def test_an_unknown_listing_is_refused(written):
    with pytest.raises(ConfigError, match=r"no listing '4621'.*whole, shorter"):
        shoes.load(written, "test", listing="4621")


def test_a_triplet_across_the_splits_is_told(root):
    stranger = shoes.load(root, "test").image_ids[0]
    edit(root, lambda rows: rows[2].update(ImageName=f"{stranger}.jpg"))
    for split in shoes.SPLITS:
        with pytest.raises(DatasetError, match=r"shoes\.json, record 2: of .* one is for train"):
            shoes.load(root, split)


def test_empty_lines_and_those_of_another_system_are_read(root):
    path = root / "eval_im_names.txt"
    before = shoes.load(root, "test").image_ids
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n") + b"\r\n  \r\n")
    assert shoes.load(root, "test").image_ids == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: {"rows": rows}, "it holds dict, not a list"),
        (lambda rows: [], "it holds no triplet"),
        (
            lambda rows: rows[3].pop("RelativeCaption") and None,
            "record 3: the field 'RelativeCaption' is miss",
        ),
        (lambda rows: rows[3].update(ImageName=7), "record 3: the field 'ImageName' is 7"),
        (lambda rows: rows.insert(2, "shoe"), "record 2: the field 'RelativeCaption' is missing"),
        (lambda rows: rows[4].update(ImageName="../../x.jpg"), "'../../x'"),
    ],
)
def test_damaged_records_are_told(root, change, message):
    edit(root, change)
    with pytest.raises(DatasetError, match=message) as told:
        shoes.load(root, "train")
    assert shoes.CAPTIONS in str(told.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [("../../secret.jpg", "leaves the image folder"), ("/etc/secret.jpg", "leaves the image folder")],
)
def test_a_name_that_leaves_the_folder_is_refused(root, line, message):
    with (root / "eval_im_names.txt").open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(DatasetError, match=rf"eval_im_names\.txt, image 16: .*{message}"):
        shoes.load(root, "test")


def test_a_name_that_is_listed_twice_is_told(root):
    path = root / "train_im_names.txt"
    path.write_text(path.read_text() + path.read_text().splitlines()[0])
    with pytest.raises(DatasetError, match=r"train_im_names\.txt, image 24: .*occurs twice"):
        shoes.load(root, "train")


@pytest.mark.parametrize("name", [shoes.CAPTIONS, *shoes.LISTS.values()])
def test_a_missing_file_is_told(root, name):
    (root / name).unlink()
    with pytest.raises(DatasetError, match=f"there is no {name}. Looked in"):
        shoes.load(root, "train")


def test_an_unknown_split_is_refused(written):
    with pytest.raises(ConfigError, match=r"no split 'val'.*train, test"):
        shoes.load(written, "val")


@settings(max_examples=100, deadline=None)
@given(
    name=st.sampled_from([shoes.CAPTIONS, *shoes.LISTS.values()]),
    at=st.floats(0, 1),
    junk=st.binary(max_size=4),
    cut=st.booleans(),
)
def test_whatever_the_bytes_it_loads_or_says_why_not(written, name, at, junk, cut):
    path = written / name
    whole = path.read_bytes()
    place = int(at * len(whole))
    path.write_bytes(whole[:place] + junk + (b"" if cut else whole[place + len(junk) :]))
    told = shoes.CAPTIONS
    try:
        shoes.load(written, "test")
    except DwcError as error:
        told = str(error)
    finally:
        path.write_bytes(whole)
    assert "_names.txt" in told or shoes.CAPTIONS in told


def test_an_interrupted_write_leaves_nothing(tmp_path):
    with pytest.raises(ConfigError):
        census.write("shoes", tmp_path / "out", seed=0, train=24, val=1)
    assert list(tmp_path.iterdir()) == []
