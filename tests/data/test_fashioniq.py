import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import JSON

from dwclib.__main__ import main
from dwclib.data import census, fashioniq
from dwclib.data.census import drawn_splits
from dwclib.errors import ConfigError, DatasetError, DwcError

LAYOUT, SMALL = "fashioniq", {"seed": 0, "train": 32, "val": 32}
pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="module")
def truth(own_cache):
    return drawn_splits(**SMALL)


def edit(root, kind, change):
    """Change the content of an annotation file in place, or put what `change` returns there."""
    folder = "captions" if kind == "cap" else "image_splits"
    path = root / folder / f"{kind}.dress.val.json"
    content = json.loads(path.read_text())
    returned = change(content)
    path.write_text(json.dumps(content if returned is None else returned))


def triplets(dataset):
    names = dataset.image_ids
    return [
        (names[reference], captions, names[target])
        for reference, captions, target in zip(
            dataset.references, dataset.captions, dataset.targets, strict=True
        )
    ]


@pytest.mark.parametrize("split", fashioniq.SPLITS)
@pytest.mark.parametrize("protocol", fashioniq.PROTOCOLS)
def test_what_was_written_is_read_again(written, truth, split, protocol):
    found = []
    for category in fashioniq.CATEGORIES:
        dataset = fashioniq.load(written, split, category=category, protocol=protocol)
        assert dataset.missing == []
        assert dataset.standing() == f"{len(dataset)} of {len(dataset)} queries"
        found += triplets(dataset)
    assert sorted(found) == sorted(triplets(truth[split]))


def test_the_pictures_are_those_that_were_drawn(written, truth):
    dataset = replace(fashioniq.load(written, "val", protocol="original"), size=64)
    drawn = truth["val"].pictures[[truth["val"].image_ids.index(name) for name in dataset.image_ids]]
    assert {path.suffix for path in dataset.files} == {".jpg"}  # what published loaders open
    for image, picture in enumerate(dataset.pictures.astype(int)):
        assert np.abs(picture - drawn).mean(axis=(1, 2, 3)).argmin() == image  # a JPEG is not exact


def test_folder_and_ending_of_the_pictures_are_a_choice_of_the_writer(tmp_path, truth):
    root = tmp_path / "out"
    census.write("fashioniq", root, **SMALL, pictures="all_imgs", ending=".png")
    assert {path.suffix for path in (root / "all_imgs").iterdir()} == {".png"}
    dataset = replace(fashioniq.load(root, "val", protocol="original"), size=64)
    drawn = [truth["val"].image_ids.index(name) for name in dataset.image_ids]
    assert (dataset.pictures == truth["val"].pictures[drawn]).all()


@pytest.mark.parametrize(
    ("layout", "options", "message"),
    [
        ("fashioniq", {"ending": ".bmp"}, "no ending '.bmp'"),
        ("fashioniq", {"pictures": "../out"}, "leaves the image folder"),
        ("shoes", {"pictures": "all_imgs"}, r"no option 'pictures'\. It has no options\."),
    ],
)
def test_a_writer_refuses_what_it_does_not_know(tmp_path, layout, options, message):
    with pytest.raises(DwcError, match=message):
        census.write(layout, tmp_path / "out", **SMALL, **options)
    assert list(tmp_path.iterdir()) == []


def test_a_protocol_says_what_is_searched_and_whether_the_reference_is_ranked(written):
    listed = json.loads((written / "image_splits" / "split.dress.val.json").read_text())
    rows = json.loads((written / "captions" / "cap.dress.val.json").read_text())
    used = {row[role] for row in rows for role in ("candidate", "target")}
    original, without, union = (
        fashioniq.load(written, "val", protocol=protocol) for protocol in fashioniq.PROTOCOLS
    )
    assert [d.exclude_reference for d in (original, without, union)] == [False, True, True]
    for dataset, expected in ((original, set(listed)), (without, set(listed)), (union, used)):
        assert {dataset.image_ids[image] for image in dataset.gallery} == expected
        assert dataset.ks == (10, 50)
    assert used < set(listed)


def test_training_has_its_whole_list_under_every_protocol(written):
    listed = json.loads((written / "image_splits" / "split.dress.train.json").read_text())
    for protocol in fashioniq.PROTOCOLS:
        assert fashioniq.load(written, "train", protocol=protocol).image_ids == tuple(listed)


def test_one_caption_or_both(written):
    both = fashioniq.load(written, "val", captions="both").captions
    first = fashioniq.load(written, "val", captions="first").captions
    assert {len(captions) for captions in both} == {2}
    assert first == tuple(captions[:1] for captions in both)


@pytest.mark.parametrize("folder", ["all_imgs", "dress", "."])
@pytest.mark.parametrize("ending", [".jpg", ".PNG"])
def test_images_are_found_in_every_folder_and_with_every_ending_in_use(root, folder, ending):
    (root / folder).mkdir(exist_ok=True)
    for path in (root / "images").iterdir():
        path.rename(root / folder / f"{path.stem}{ending}")
    (root / "images").rmdir()
    dataset = fashioniq.load(root, "val")
    assert dataset.missing == []
    assert {path.suffix for path in dataset.files} == {ending}


def test_missing_images_are_counted_listed_and_dropped_on_request(root):
    of = {"category": "shirt", "protocol": "original"}
    whole = fashioniq.load(root, "val", **of)
    gone = {whole.image_ids[3], whole.image_ids[5]}
    for name in gone:
        (root / "images" / f"{name}.jpg").unlink()
    dataset = fashioniq.load(root, "val", **of)
    assert set(dataset.missing) == gone
    with pytest.raises(DatasetError, match=f"2 of {len(whole.image_ids)} images are missing") as told:
        dataset.check_complete()
    listed = told.value.remedy.split("listed in ")[1].split(". Fetch")[0]
    with open(listed) as file:
        assert set(json.load(file)) == gone
    left = dataset.complete()
    expected = [row for row in triplets(whole) if not gone & {row[0], row[2]}]
    assert triplets(left) == expected
    assert {left.image_ids[image] for image in left.gallery} == set(whole.image_ids) - gone
    assert left.missing == []
    assert len(left.pictures) == len(left.image_ids)
    assert left.standing() == f"{len(expected)} of {len(whole)} queries"
    assert len(expected) < len(whole)


def test_a_damaged_image_is_refused_by_name_and_dropped_on_request(root):
    whole = replace(fashioniq.load(root, "val", category="shirt"), size=16)
    before, broken = whole.pictures, whole.image_ids[whole.targets[0]]
    path = root / "images" / f"{broken}.jpg"
    path.write_bytes(path.read_bytes()[:200])
    dataset = replace(fashioniq.load(root, "val", category="shirt"), size=16)
    with pytest.raises(DatasetError, match=f"1 of {len(whole.image_ids)} images cannot be read.*{broken}"):
        _ = dataset.pictures
    left = dataset.complete()
    assert triplets(left) == [row for row in triplets(whole) if broken not in row]
    assert broken not in {left.image_ids[image] for image in left.gallery}
    np.testing.assert_array_equal(left.pictures[left.gallery], before[left.gallery])


def test_the_census_counts_every_list_and_gallery(root):
    counts = {count.what: count for count in census.census("fashioniq", root)[0]}
    assert all(count.found == count.expected for what, count in counts.items() if "file" in what)
    assert sum(count.found for what, count in counts.items() if "train: triplets" in what) == 48
    assert counts["dress, val, VAL: images"].expected == 2628
    assert counts["dress, val, original: images"].expected == 3817
    union = fashioniq.load(root, "val")
    assert counts["dress, val, VAL: images"].found == len(union.gallery)
    (root / "images" / f"{union.image_ids[0]}.jpg").unlink()
    again = {count.what: count for count in census.census("fashioniq", root)[0]}
    assert again["dress, val, VAL: images with a file"].found == len(union.gallery) - 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: {"rows": rows}, "holds dict, not a list"),
        (lambda rows: [], "no triplet"),
        (lambda rows: rows[3].pop("target") and None, "record 3: the field 'target' is missing"),
        (lambda rows: rows[3].update(candidate=7), "record 3: the field 'candidate' is 7"),
        (lambda rows: rows.insert(2, "a row"), "record 2: the field 'candidate' is missing"),
        (lambda rows: rows[4].update(captions=["one"]), "record 4: there are 1 captions, not 2"),
        (lambda rows: rows[4].update(captions=["a", "b", "c"]), "record 4: there are 3 captions"),
        (lambda rows: rows[4].update(captions="is red"), "record 4: the field 'captions' is 'is red'"),
        (lambda rows: rows[5].update(captions=["is red", None]), "record 5: the caption None is not a text"),
        (lambda rows: rows[6].update(target="B000"), "record 6: the target 'B000' is in no list"),
    ],
)
def test_damaged_captions_are_told_with_their_file_and_record(root, change, message):
    edit(root, "cap", change)
    with pytest.raises(DatasetError, match=message) as told:
        fashioniq.load(root, "val")
    assert "cap.dress.val.json" in told.value.where


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda names: names.append(names[0]), "occurs twice"),
        (lambda names: names.append("../../secret"), "leaves the image folder"),
        (lambda names: names.append("/etc/secret"), "leaves the image folder"),
        (lambda names: names.append(5), "the image id 5 is no text"),
        (lambda names: {"names": names}, "holds dict, not a list"),
    ],
)
def test_a_damaged_list_of_images_is_told_with_its_file(root, change, message):
    edit(root, "split", change)
    with pytest.raises(DatasetError, match=message) as told:
        fashioniq.load(root, "val")
    assert "split.dress.val.json" in told.value.where


def test_the_list_of_another_category_is_told(root):
    lists = root / "image_splits"
    shutil.copy(lists / "split.shirt.val.json", lists / "split.dress.val.json")
    with pytest.raises(
        DatasetError, match=r"cap\.dress\.val\.json, record 0: .*in no list.*split\.dress\.val\.json"
    ):
        fashioniq.load(root, "val")


def test_a_field_that_occurs_twice_is_told(root):
    path = root / "captions" / "cap.dress.val.json"
    path.write_text(path.read_text().replace('"target":', '"target": "x", "target":', 1))
    with pytest.raises(DatasetError, match="'target' occurs twice"):
        fashioniq.load(root, "val")


def test_missing_annotations_are_told(root):
    (root / "captions" / "cap.dress.val.json").unlink()
    with pytest.raises(DatasetError, match=r"there is no captions/cap\.dress\.val\.json\. Looked in"):
        fashioniq.load(root, "val")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"category": "shoes"}, "no category 'shoes'.*dress, shirt, toptee"),
        ({"protocol": "val"}, "no protocol 'val'"),
        ({"captions": "second"}, "no choice of captions 'second'"),
        ({"split": "dev"}, "no split 'dev'"),
        ({"split": "test"}, "the test split has no targets"),
    ],
)
def test_an_unknown_choice_is_refused(written, option, message):
    with pytest.raises(ConfigError, match=message):
        fashioniq.load(written, **{"split": "val", **option})


@pytest.fixture(scope="module")
def bare(written, tmp_path_factory):
    root = tmp_path_factory.mktemp("bare")
    for folder in ("captions", "image_splits"):
        shutil.copytree(written / folder, root / folder)
    return root


ANNOTATIONS = st.sampled_from(["captions/cap.dress.val.json", "image_splits/split.dress.val.json"])


def load_damaged(bare, name, content):
    """Load with a damaged file: it loads, or it is told as an error of ours; another error is a failure."""
    path = bare / name
    whole = path.read_bytes()
    path.write_bytes(content(whole))
    try:
        fashioniq.load(bare, "val")
    except DwcError:
        pass
    finally:
        path.write_bytes(whole)


@settings(max_examples=60, deadline=None)
@given(name=ANNOTATIONS, at=st.floats(0, 1), junk=st.binary(max_size=4), cut=st.booleans())
def test_whatever_the_bytes_it_loads_or_says_why_not(bare, name, at, junk, cut):
    def damage(content):
        place = int(at * len(content))
        return content[:place] + junk + (b"" if cut else content[place + len(junk) :])

    load_damaged(bare, name, damage)


@settings(max_examples=60, deadline=None)
@given(name=ANNOTATIONS, row=st.integers(0, 5), role=st.sampled_from(["target", "captions"]), value=JSON)
def test_whatever_the_values_it_loads_or_says_why_not(bare, name, row, role, value):
    def damage(content):
        rows = json.loads(content)
        rows[row] = rows[row] | {role: value} if isinstance(rows[row], dict) else value
        return json.dumps(rows).encode()

    load_damaged(bare, name, damage)


def test_the_command_line_writes_it_and_never_over_another_folder(tmp_path, capsys):
    command = ["synthfashion", "--out", str(tmp_path / "out"), "--train", "32", "--val", "32"]
    assert main(command) == 0
    assert len(list((tmp_path / "out" / "images").iterdir())) == 64
    assert main(command) == 2
    assert "there already" in capsys.readouterr().err
    assert main([*command[:2], str(tmp_path / "x"), "--layout", "imagenet"]) == 2
    assert "no dataset 'imagenet'" in capsys.readouterr().err


def test_too_few_images_for_every_category_leave_nothing_behind(tmp_path):
    with pytest.raises(ConfigError, match="8 images hold no triplet of a"):
        census.write("fashioniq", tmp_path / "out", train=8, val=8)
    assert list(tmp_path.iterdir()) == []


def test_positions_are_those_of_the_images_that_are_kept(written):
    union, whole = (fashioniq.load(written, "val", protocol=p) for p in ("VAL", "original"))
    assert triplets(union) == triplets(whole)
    assert (np.sort(np.union1d(union.references, union.targets)) == np.arange(len(union.image_ids))).all()
