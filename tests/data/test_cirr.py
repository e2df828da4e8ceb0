import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import JSON

from dwclib.data import census, cirr
from dwclib.data.census import drawn_splits
from dwclib.data.synthfashion import FAMILY
from dwclib.errors import ConfigError, DatasetError, DwcError

LAYOUT, SMALL = "cirr", {"seed": 0, "train": 32, "val": 32}
pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="module")
def truth(own_cache):
    return drawn_splits(**SMALL)


def edit(root, name, change):
    """Change the content of an annotation file in place, or put what `change` returns there."""
    content = json.loads((root / name).read_text())
    returned = change(content)
    (root / name).write_text(json.dumps(content if returned is None else returned))


CAPTIONS, LIST = "captions/cap.rc2.val.json", "image_splits/split.rc2.val.json"


@pytest.mark.parametrize("split", cirr.SPLITS)
def test_what_was_written_is_read_again(written, truth, split):
    dataset, drawn = cirr.load(written, split), truth[split]
    assert dataset.image_ids == drawn.image_ids
    for field in ("references", "targets", "gallery"):
        assert (getattr(dataset, field) == getattr(drawn, field)).all()
    assert dataset.captions == tuple((text,) for text in drawn.texts())
    assert dataset.missing == []
    assert dataset.ks == (1, 5, 10, 50)
    assert dataset.exclude_reference


def test_the_pictures_are_those_that_were_drawn(written, truth):
    dataset = replace(cirr.load(written, "val"), size=64)
    assert (dataset.pictures == truth["val"].pictures).all()


def test_a_subset_has_the_target_and_its_family_but_not_the_reference(written):
    dataset = cirr.load(written, "val")
    assert dataset.members.shape == (32, 5)
    for reference, target, members in zip(dataset.references, dataset.targets, dataset.members, strict=True):
        assert target in members
        assert reference not in members
        assert (members // FAMILY == reference // FAMILY).all()
        assert len(set(members)) == 5


def test_a_smaller_subset_is_filled_up(root):
    edit(root, CAPTIONS, lambda rows: rows[1]["img_set"].update(
        members=[rows[1]["reference"], rows[1]["target_hard"]]
    ))  # fmt: skip
    dataset = cirr.load(root, "val")
    assert dataset.members[1].tolist() == [dataset.targets[1], -1, -1, -1, -1]
    assert (dataset.members[0] >= 0).all()


@pytest.mark.parametrize("folder", ["images", "img_raw"])
def test_images_are_found_below_the_folders_in_use_and_with_another_ending(root, folder):
    for part in ("dev", "train"):
        shutil.move(root / part, root / folder / part)
    for path in (root / folder / "dev").iterdir():
        path.rename(path.with_suffix(".jpg"))
    assert cirr.load(root, "val").missing == []
    assert cirr.load(root, "train").missing == []


def test_missing_images_are_counted_and_dropped_on_request(root):
    whole = cirr.load(root, "val")
    target = int(whole.targets[0])
    (root / "dev" / f"{whole.image_ids[target]}.png").unlink()
    dataset = cirr.load(root, "val")
    assert dataset.missing == [whole.image_ids[target]]
    with pytest.raises(DatasetError, match="1 of 32 images are missing"):
        dataset.check_complete()
    left = dataset.complete()
    kept = (whole.references != target) & (whole.targets != target)
    assert 0 < len(left) == kept.sum() < 32
    assert left.standing() == f"{kept.sum()} of 32 queries"
    for row, members in zip(np.flatnonzero(kept), left.members, strict=True):
        named = {left.image_ids[image] for image in members if image >= 0}
        assert named == {whole.image_ids[image] for image in whole.members[row]} - set(dataset.missing)


def test_the_census_counts_pairs_and_images(written):
    counts = {count.what: count for count in census.census("cirr", written)[0]}
    assert counts["val: triplets"][1:] == (32, 4181)
    assert counts["val: images"][1:] == (32, 2297)
    assert counts["train: triplets"].found == 48
    assert counts["train: images"][1:] == (32, 16_939)
    assert counts["train: images with a file"].found == 32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: {"rows": rows}, "holds dict, not a list"),
        (lambda rows: [], "no triplet"),
        (lambda rows: rows[3].pop("target_hard") and None, "record 3: the field 'target_hard' is missing"),
        (lambda rows: rows[3].update(reference=["a"]), r"record 3: the field 'reference' is \['a'\]"),
        (lambda rows: rows[4].update(reference="dev-x"), "record 4: the reference 'dev-x' is in no list"),
        (lambda rows: rows[5].update(img_set=3), "record 5: the field 'img_set' is 3"),
        (lambda rows: rows[5]["img_set"].pop("members") and None, "record 5: the field 'members' is missing"),
        (
            lambda rows: rows[5]["img_set"]["members"].append("dev-x"),
            "record 5: the member 5 of the subset 'dev-x'",
        ),
        (lambda rows: rows[5]["img_set"]["members"].append(1), "record 5: an image of img_set.members"),
        (
            lambda rows: rows[5]["img_set"]["members"].append(rows[5]["target_hard"]),
            "record 5: an image occurs twice",
        ),
        (
            lambda rows: rows[5]["img_set"]["members"].remove(rows[5]["target_hard"]),
            "record 5: the target is not among",
        ),
        (lambda rows: rows[5].update(target_hard=rows[5]["reference"]), "record 5: .* is its own reference"),
    ],
)
def test_damaged_captions_are_told_with_their_file_and_record(root, change, message):
    edit(root, CAPTIONS, change)
    with pytest.raises(DatasetError, match=message) as told:
        cirr.load(root, "val")
    assert "cap.rc2.val.json" in told.value.where


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda listed: list(listed), "holds list, not an object"),
        (lambda listed: listed.update(new="../../secret.png"), "leaves the image folder"),
        (lambda listed: listed.update(new="./dev/val-00000.png"), "'dev/val-00000' occurs twice"),
        (lambda listed: listed.update({"../new": "dev/new.png"}), "leaves the image folder"),
        (lambda listed: listed.update(new=None), "the field 'new' is missing"),
        (lambda listed: listed.update(new=""), "leaves the image folder"),
    ],
)
def test_a_damaged_list_of_images_is_told_with_its_file(root, change, message):
    edit(root, LIST, change)
    with pytest.raises(DatasetError, match=message) as told:
        cirr.load(root, "val")
    assert "split.rc2.val.json" in told.value.where


def test_an_image_that_is_listed_twice_is_told(root):
    text = (root / LIST).read_text()
    (root / LIST).write_text(text.replace("{", '{"val-00003": "./dev/other.png",', 1))
    with pytest.raises(DatasetError, match="'val-00003' occurs twice"):
        cirr.load(root, "val")


@pytest.mark.parametrize(("split", "message"), [("test1", "has no targets"), ("dev", "no split 'dev'")])
def test_an_unknown_split_and_one_without_targets_are_refused(written, split, message):
    with pytest.raises(ConfigError, match=message):
        cirr.load(written, split)


@pytest.fixture(scope="module")
def bare(written, tmp_path_factory):
    root = tmp_path_factory.mktemp("bare")
    for folder in ("captions", "image_splits"):
        shutil.copytree(written / folder, root / folder)
    return root


def load_damaged(bare, name, content):
    """Load with a damaged file: it loads, or it is told as an error of ours; another error is a failure."""
    path = bare / name
    whole = path.read_bytes()
    path.write_bytes(content(whole))
    try:
        cirr.load(bare, "val")
    except DwcError:
        pass
    finally:
        path.write_bytes(whole)


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from([CAPTIONS, LIST]), at=st.floats(0, 1), junk=st.binary(max_size=4), cut=st.booleans()
)
def test_whatever_the_bytes_it_loads_or_says_why_not(bare, name, at, junk, cut):
    def damage(content):
        place = int(at * len(content))
        return content[:place] + junk + (b"" if cut else content[place + len(junk) :])

    load_damaged(bare, name, damage)


@settings(max_examples=60, deadline=None)
@given(
    row=st.integers(0, 31),
    role=st.sampled_from(["reference", "target_hard", "caption", "img_set"]),
    value=JSON,
)
def test_whatever_the_values_it_loads_or_says_why_not(bare, row, role, value):
    def damage(content):
        rows = json.loads(content)
        rows[row][role] = {"members": value} if role == "img_set" and row % 2 else value
        return json.dumps(rows).encode()

    load_damaged(bare, CAPTIONS, damage)


@settings(max_examples=60, deadline=None)
@given(name=st.text(max_size=8), path=JSON | st.text())
def test_whatever_is_listed_it_loads_or_says_why_not(bare, name, path):
    load_damaged(bare, LIST, lambda content: json.dumps(json.loads(content) | {name: path}).encode())
