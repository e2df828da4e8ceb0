import contextlib
import csv
import shutil
import struct
import zlib
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dwclib.data import census, own
from dwclib.data.census import drawn_splits
from dwclib.data.images import read_image
from dwclib.errors import ConfigError, DatasetError, DwcError

LAYOUT, SMALL = "own", {"seed": 0, "train": 32, "val": 32}
pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="module")
def truth(own_cache):
    return drawn_splits(**SMALL)


@pytest.fixture
def few(tmp_path):
    """Four photos, and no table yet."""
    for name in ("red", "blue", "shoes/green", "shoes/grey"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (12, 8), name.split("/")[-1]).save(tmp_path / f"{name}.jpg")
    return tmp_path


def triplets(dataset):
    names = dataset.image_ids
    return [
        (names[reference], text, names[target])
        for reference, text, target in zip(dataset.references, dataset.texts(), dataset.targets, strict=True)
    ]


def one_table(root):
    """Put both tables into one."""
    parts = [(root / f"{split}.csv").read_text().splitlines() for split in own.SPLITS]
    (root / "triplets.csv").write_text("\n".join(parts[0] + parts[1][1:]))
    for split in own.SPLITS:
        (root / f"{split}.csv").unlink()


@pytest.mark.parametrize("split", own.SPLITS)
def test_what_was_written_is_read_again(written, truth, split):
    dataset = own.load(written, split)
    assert triplets(dataset) == triplets(truth[split])
    assert dataset.missing == []


def test_training_has_the_images_it_names_and_a_search_all_of_them(written, truth):
    assert set(own.load(written, "train").image_ids) <= set(truth["train"].image_ids)
    dataset = own.load(written, "val")
    assert dataset.image_ids == truth["train"].image_ids + truth["val"].image_ids
    assert len(dataset.gallery) == 64


def test_the_pictures_are_those_that_were_drawn(written, truth):
    dataset = replace(own.load(written, "val"), size=64)
    assert (dataset.pictures[32:] == truth["val"].pictures).all()


def test_one_table_is_divided_by_target_and_nothing_is_lost(root):
    expected = [row for split in own.SPLITS for row in triplets(own.load(root, split))]
    one_table(root)
    train, val = (triplets(own.load(root, split, val_share=0.3)) for split in own.SPLITS)
    assert sorted(train + val) == sorted(expected)
    assert not {row[2] for row in train} & {row[2] for row in val}
    assert 0.1 < len(val) / len(expected) < 0.5


def test_a_triplet_stays_in_its_split_when_others_are_added(root):
    one_table(root)
    before = triplets(own.load(root, "val"))
    table = root / "triplets.csv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join([lines[0], "val-00001,is older,val-00002.png", *lines[1:]]))
    assert [row for row in triplets(own.load(root, "val")) if row[1] != "is older"] == before


def test_images_may_be_named_from_the_root_without_ending_or_beside_the_table(few):
    (few / "train.csv").write_text(
        "reference,text,target,note\nred.jpg,is blue,blue,x\nshoes/grey,green,./shoes/green.jpg,\n"
    )
    expected = [("red", "is blue", "blue"), ("shoes/grey", "green", "shoes/green")]
    assert triplets(own.load(few, "train")) == expected
    (few / "images").mkdir()
    for name in ("red.jpg", "blue.jpg", "shoes"):
        shutil.move(few / name, few / "images" / name)
    table = (few / "train.csv").read_text()
    (few / "train.csv").write_text(table.replace("red.jpg", "images/red.jpg"))
    dataset = own.load(few, "train")
    assert triplets(dataset) == expected
    assert dataset.missing == []


def test_a_table_of_a_spreadsheet_is_read(few):
    text = 'reference,text,target\r\nred,"is blue, and ""long""",blue\r\n\r\nblue,größer,red\r\n'
    (few / "train.csv").write_bytes(text.encode("utf-8-sig"))
    assert triplets(own.load(few, "train"))[0] == ("red", 'is blue, and "long"', "blue")
    assert triplets(own.load(few, "train"))[1] == ("blue", "größer", "red")


def test_a_table_of_windows_names_images_with_its_own_slashes(few):
    (few / "images").mkdir()
    shutil.move(few / "shoes", few / "images" / "shoes")
    lines = "reference,text,target\n", "images\\shoes\\grey.jpg,a \\ b,shoes\\green\n"
    (few / "train.csv").write_text("".join(lines))
    dataset = own.load(few, "train")
    assert triplets(dataset) == [("shoes/grey", "a \\ b", "shoes/green")]
    assert dataset.missing == []


def test_images_alone_are_enough_for_a_search(few):
    (few / ".thumbs").mkdir()
    shutil.copy(few / "red.jpg", few / ".thumbs" / "red.jpg")
    shutil.copy(few / "red.jpg", few / "._red.jpg")
    (few / "notes.txt").write_text("no image")
    shutil.copy(few / "red.jpg", few / "RED.V2.JPEG")
    found = own.images_of(few)
    assert found.ids == ("RED.V2", "blue", "red", "shoes/green", "shoes/grey")
    assert [path.relative_to(few).as_posix() for path in found.files] == [
        "RED.V2.JPEG", "blue.jpg", "red.jpg", "shoes/green.jpg", "shoes/grey.jpg",
    ]  # fmt: skip


def test_two_images_of_one_name_and_a_folder_without_images_are_refused(few, tmp_path):
    (few / "red.png").write_bytes((few / "red.jpg").read_bytes())
    with pytest.raises(DatasetError, match="'red' occurs twice"):
        own.images_of(few)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="there is no image"):
        own.images_of(tmp_path / "empty")


def test_missing_images_are_counted_and_dropped_on_request(root):
    whole = own.load(root, "val")
    gone = whole.image_ids[whole.targets[0]]
    (root / "images" / f"{gone}.png").unlink()
    dataset = own.load(root, "val")
    assert dataset.missing == [gone]
    assert triplets(dataset) == triplets(whole)
    with pytest.raises(DatasetError, match=f"1 of 64 images are missing, the first is '{gone}'"):
        dataset.check_complete()
    expected = [row for row in triplets(whole) if gone not in row]
    assert triplets(dataset.complete()) == expected
    assert dataset.complete().standing() == f"{len(expected)} of 32 queries"


def test_the_census_counts_images_and_triplets(root):
    (root / "images" / "val-00000.png").unlink()
    counts = {count.what: count[1:] for count in census.census("own", root)[0]}
    assert counts["train: triplets"] == (48, None)
    assert counts["val: triplets"] == (32, None)
    assert counts["val: images with a file"] == (63, 64)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("", "not one column 'reference' but nothing"),
        ("reference,caption,target\nred,is blue,blue\n", "column 'text' but reference, caption, target"),
        ("reference;text;target\nred;is blue;blue\n", "not one column 'reference'"),
        ("reference,text,text,target\nred,is blue,x,blue\n", "not one column 'text'"),
        ("reference,text,target\n", "it holds no triplet"),
        ("reference,text,target\nred,is blue, long,blue\n", "line 2: it has more cells than the head"),
        ("reference,text,target\nred,is blue,blue\nred,is blue\n", "line 3: the target is empty"),
        ("reference,text,target\nred,  ,blue\n", "line 2: the text is empty"),
        ("reference,text,target\n,is blue,blue\n", "line 2: the reference is empty"),
        ("reference,text,target\n../red,is blue,blue\n", r"line 2, image 0: the image id '\.\./red' leaves"),
        ("reference,text,target\nred,is blue,/blue\n", "the image id '/blue' leaves"),
        ("reference,text,target\nred,is red,red.jpg\n", "line 2: 'red' is its own reference"),
        ('reference,text,target\nred,"is blue,blue\n', "the table cannot be read"),
        ("reference,text,target\nred,größer,blue\n".encode("latin-1"), "byte 28 is not UTF-8"),
    ],
)  # fmt: skip
def test_a_damaged_table_is_told_with_its_line(few, table, message):
    (few / "train.csv").write_bytes(table if isinstance(table, bytes) else table.encode())
    with pytest.raises(DatasetError, match=message) as told:
        own.load(few, "train")
    assert "train.csv" in told.value.where


def test_no_table_and_too_many_are_refused(root):
    shutil.copy(root / "train.csv", root / "triplets.csv")
    with pytest.raises(DatasetError, match=r"triplets\.csv and train\.csv are both there"):
        own.load(root, "train")
    (root / "triplets.csv").unlink()
    (root / "val.csv").unlink()
    with pytest.raises(DatasetError, match=r"triplets\.csv and val\.csv are neither of them there"):
        own.load(root, "val")


@pytest.mark.parametrize("share", [0, 1, -0.5, 3.0, float("nan")])
def test_a_share_is_between_0_and_1(written, share):
    with pytest.raises(ConfigError, match="is no share"):
        own.load(written, "val", val_share=share)


def test_an_unknown_split_is_refused(written):
    with pytest.raises(ConfigError, match="no split 'test'"):
        own.load(written, "test")


@settings(max_examples=80, deadline=None)
@given(at=st.floats(0, 1), junk=st.binary(max_size=4), cut=st.booleans())
def test_whatever_the_bytes_it_loads_or_says_why_not(written, at, junk, cut):
    path = written / "val.csv"
    whole = path.read_bytes()
    place = int(at * len(whole))
    path.write_bytes(whole[:place] + junk + (b"" if cut else whole[place + len(junk) :]))
    try:
        own.load(written, "val")
    except DwcError:
        pass
    finally:
        path.write_bytes(whole)


@settings(max_examples=80, deadline=None)
@given(cells=st.lists(st.lists(st.text(max_size=5), min_size=1, max_size=4), max_size=3))
def test_whatever_the_cells_it_loads_or_says_why_not(written, cells):
    path = written / "val.csv"
    whole = path.read_bytes()
    try:
        with path.open("a", newline="", encoding="utf-8", errors="surrogatepass") as file:
            csv.writer(file, escapechar="\\").writerows(cells)
        own.load(written, "val")
    except DwcError:
        pass
    finally:
        path.write_bytes(whole)


def tiny_file_of_a_huge_picture(path, width, height):
    """Write a PNG of a few hundred bytes that says it has so many pixels."""

    def chunk(kind, content):
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(bytes(100))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b""))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [9_000, 10_000, 60_000])
def test_a_picture_with_too_many_pixels_is_not_decoded(tmp_path, side):
    tiny_file_of_a_huge_picture(tmp_path / "bomb.png", side, side)
    with pytest.raises(DatasetError, match=r"bomb\.png: the image cannot be read .*pixels"):
        read_image(tmp_path / "bomb.png", 8)


@settings(max_examples=60, deadline=None)
@given(at=st.floats(0, 1, exclude_max=True), junk=st.binary(min_size=1, max_size=3), jpeg=st.booleans())
def test_whatever_the_bytes_a_picture_is_read_or_refused(written, at, junk, jpeg):
    path = written.parent / f"damaged.{'jpg' if jpeg else 'png'}"
    Image.open(written / "images" / "val-00000.png").save(path)
    whole = path.read_bytes()
    place = int(at * len(whole))
    path.write_bytes(whole[:place] + junk + whole[place + len(junk) :])
    with contextlib.suppress(DatasetError):
        assert read_image(path, 8).shape == (8, 8, 3)
