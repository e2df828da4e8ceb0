"""What all loaders of real datasets owe their readers, whatever the layout."""

import contextlib
import json
import os
import shutil
from collections import Counter
from itertools import cycle, islice

import numpy as np
import pytest
from PIL import Image

from dwclib.__main__ import main
from dwclib.code import code_of
from dwclib.data import census, cirr, datasets, fashion200k, fashioniq, own, shoes
from dwclib.data.datasets import DataConfig, PhotoConfig, load_data
from dwclib.errors import DatasetError, DwcError

pytestmark = pytest.mark.usefixtures("own_cache")
SIZES = {"train": 40, "val": 40}
READ = {  # a file of each layout that holds text, and the split that reads it
    "captions/cap.dress.val.json": "fashioniq",
    "image_splits/split.dress.val.json": "fashioniq",
    "relative_captions_shoes.json": "shoes",
    "eval_im_names.txt": "shoes",
    "test_queries.txt": "fashion200k",
    "labels/dress_test_detect_all.txt": "fashion200k",
    "captions/cap.rc2.val.json": "cirr",
    "image_splits/split.rc2.val.json": "cirr",
    "val.csv": "own",
}


@pytest.fixture(scope="module")
def layouts(tmp_path_factory, own_cache):
    """Every layout, written once."""
    folder = tmp_path_factory.mktemp("layouts")
    for name in datasets.LOADERS:
        census.write(name, folder / name, **SIZES)
    return folder


@pytest.fixture
def copy(layouts, tmp_path):
    """Return a function that copies a layout, so that a test may damage it."""
    return lambda name: shutil.copytree(layouts / name, tmp_path / name)


def triplets(dataset):
    names = dataset.image_ids
    return [
        (names[reference], captions, names[target])
        for reference, captions, target in zip(
            dataset.references, dataset.captions, dataset.targets, strict=True
        )
    ]


def evaluated(name, root):
    return datasets.load(name, root, datasets.splits(name)[1])


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def published_fashioniq(root):
    """Write annotations of FashionIQ's published sizes, with the fifteen empty captions of its own files."""
    empty = {("shirt", "val"): 1, ("toptee", "train"): 12, ("toptee", "val"): 2}
    for number, category in enumerate(fashioniq.CATEGORIES):
        for split in fashioniq.SPLITS:
            count = fashioniq.TRIPLETS[split][number]
            listed, used = (
                (fashioniq.GALLERY["original"][number], fashioniq.GALLERY["VAL"][number])
                if split == "val"
                else (6_100, 6_100)
            )
            ids = [f"B{split[0]}{image:05d}" for image in range(listed)]
            ends = list(islice(cycle(ids[-used:]), 2 * count))
            rows = [
                {"target": target, "candidate": reference, "captions": ["is red", "is long"]}
                for target, reference in zip(ends[::2], ends[1::2], strict=True)
            ]
            for row in rows[: empty.get((category, split), 0)]:
                row["captions"][0] = ""
            write_json(root / "captions" / f"cap.{category}.{split}.json", rows)
            write_json(root / "image_splits" / f"split.{category}.{split}.json", ids)
    return root


def test_every_published_count_of_fashioniq_comes_out_of_its_own_files(tmp_path):
    counts, problems = census.census("fashioniq", published_fashioniq(tmp_path))
    assert problems == {}
    found = [(c.found, c.expected) for c in counts if c.what.endswith((": triplets", ": images", "be asked"))]
    assert [pair for pair in found if pair[1] not in (None, pair[0])] == []
    expected = Counter(expected for _, expected in found if expected)
    for published in (*sum(fashioniq.TRIPLETS.values(), ()), *sum(fashioniq.GALLERY.values(), ())):
        assert expected[published]


@pytest.mark.parametrize("captions", ["both", "first"])
@pytest.mark.parametrize("protocol", fashioniq.PROTOCOLS)
def test_an_empty_caption_leaves_the_other_and_two_leave_the_images(copy, captions, protocol):
    root = copy("fashioniq")
    whole = fashioniq.load(root, "val", captions=captions, protocol=protocol)
    path = root / "captions" / "cap.dress.val.json"
    rows = json.loads(path.read_text())
    said = rows[1]["captions"][1]
    rows[1]["captions"][0], rows[2]["captions"] = "", ["", " "]
    path.write_text(json.dumps(rows))
    dataset = fashioniq.load(root, "val", captions=captions, protocol=protocol)
    assert dataset.captions[1] == (said,)
    expected = triplets(whole)
    expected[1] = (expected[1][0], (said,), expected[1][2])
    assert triplets(dataset) == expected[:2] + expected[3:]
    assert dataset.image_ids == whole.image_ids  # those that only a silent query names are still searched
    assert dataset.standing() == f"{len(whole) - 1} of {len(whole)} queries"
    counts = {c.what: c[1:] for c in census.census("fashioniq", root)[0]}
    assert counts["dress, val, VAL: triplets"][0] == len(whole)
    assert counts["dress, val, VAL: triplets that can be asked"] == (len(whole) - 1, len(whole))


@pytest.mark.parametrize("blank", ["", " \t"])
@pytest.mark.parametrize("name", ["cirr", "shoes", "css3d"])
def test_a_blank_caption_is_a_query_that_is_not_asked_in_every_layout(copy, name, blank):
    root = copy(name)
    whole = evaluated(name, root)
    if name == "css3d":
        path = root / "css_toy_dataset_novel2_small.dup.npy"
        content = np.load(path, allow_pickle=True).item()
        silent = len(content["test"]["mods"][0]["to"])
        content["test"]["mods"][0]["to_str"] = blank
        np.save(path, np.array(content, dtype=object))
        expected = triplets(whole)[silent:]
    else:
        file, number, field = {
            "cirr": ("captions/cap.rc2.val.json", 0, "caption"),
            "shoes": (shoes.CAPTIONS, -1, "RelativeCaption"),
        }[name]
        rows = json.loads((root / file).read_text())
        rows[number][field] = blank
        write_json(root / file, rows)
        expected = triplets(whole)[1:] if name == "cirr" else triplets(whole)[:-1]
    dataset = evaluated(name, root)
    assert triplets(dataset) == expected
    assert dataset.image_ids == whole.image_ids
    assert dataset.standing() == f"{len(expected)} of {len(whole)} queries"
    assert "or the text is empty" in dataset.dropped()


def test_records_that_all_are_silent_are_told(copy):
    root = copy("fashioniq")
    path = root / "captions" / "cap.dress.val.json"
    path.write_text(json.dumps([row | {"captions": ["", ""]} for row in json.loads(path.read_text())]))
    with pytest.raises(DatasetError, match=r"cap\.dress\.val\.json: it holds no triplet"):
        fashioniq.load(root, "val")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be"])
@pytest.mark.parametrize(("file", "name"), READ.items())
def test_files_of_windows_are_read(layouts, copy, file, name, encoding):
    root = copy(name)
    text = (root / file).read_text().replace("\n", "\r\n")
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    (root / file).write_bytes((mark + text).encode(encoding))
    assert triplets(evaluated(name, root)) == triplets(evaluated(name, layouts / name))


@pytest.mark.parametrize(("file", "name"), READ.items())
def test_another_encoding_and_what_is_no_file_are_told(copy, file, name):
    root = copy(name)
    (root / file).write_bytes((root / file).read_bytes() + "größer".encode("latin-1"))
    with pytest.raises(DatasetError, match=r"byte \d+ is not UTF-8\)\. .*save them in UTF-8"):
        evaluated(name, root)
    (root / file).unlink()
    os.mkfifo(root / file)
    with pytest.raises(DatasetError, match="it is no file"):
        evaluated(name, root)


def the_same_image_twice(name, root):
    """Make the target of a query its reference; return where the query stands."""
    if name == "fashioniq":
        path, number, roles = root / "captions" / "cap.dress.val.json", 1, ("candidate", "target")
    elif name == "shoes":
        path, number, roles = root / shoes.CAPTIONS, 62, ("ReferenceImageName", "ImageName")
    elif name == "cirr":
        path, number, roles = root / "captions" / "cap.rc2.val.json", 1, ("reference", "target_hard")
    elif name == "css3d":
        path = root / "css_toy_dataset_novel2_small.dup.npy"
        content = np.load(path, allow_pickle=True).item()
        content["test"]["mods"][0]["to"][0] = content["test"]["mods"][0]["from"][0]
        np.save(path, np.array(content, dtype=object))
        return f"{path}, test, modification 0"
    else:
        path = root / {"fashion200k": fashion200k.QUERIES, "own": "val.csv"}[name]
        lines = path.read_text().splitlines()
        lines[1] = (
            f"{lines[1].split()[0]} " * 2 if name == "fashion200k" else "val-00001,is red,val-00001.png"
        )
        path.write_text("\n".join(lines))
        return f"{path}, line 2"
    rows = json.loads(path.read_text())
    rows[number][roles[1]] = rows[number][roles[0]]
    path.write_text(json.dumps(rows))
    return f"{path}, record {number}"


@pytest.mark.parametrize("name", datasets.LOADERS)
def test_a_query_whose_target_is_its_reference_is_told_with_file_and_record(copy, name):
    root = copy(name)
    where = the_same_image_twice(name, root)
    with pytest.raises(DatasetError, match="is its own reference") as told:
        evaluated(name, root)
    assert told.value.where == where


@pytest.mark.parametrize("caption", ["\ud83d", "red \udc00"])
def test_half_a_character_is_no_text(copy, caption):
    root = copy("cirr")
    path = root / "captions" / "cap.rc2.val.json"
    rows = json.loads(path.read_text())
    rows[3]["caption"] = caption
    path.write_text(json.dumps(rows))
    with pytest.raises(DatasetError, match=r"record 3: the caption .* is not a text"):
        cirr.load(root, "val")


@pytest.mark.parametrize("name", ["record", "where", "kinds"])
def test_an_image_may_have_any_name(copy, name):
    root = copy("cirr")
    path = root / "image_splits" / "split.rc2.val.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: f"./dev/{name}.png"}))
    assert cirr.load(root, "val").missing == [name]


@pytest.mark.parametrize("name", datasets.LOADERS)
def test_a_message_is_short_whatever_a_file_holds(copy, name):
    root, long = copy(name), "x" * 100_000
    for file in [file for file, layout in READ.items() if layout == name]:
        text = (root / file).read_text()
        (root / file).write_text(text.replace("val-0000", f"{long}-0000").replace('"is', f'"{long}'))
    if name == "css3d":
        np.save(root / "css_toy_dataset_novel2_small.dup.npy", np.array({"test": {long: long}}, dtype=object))
    with contextlib.suppress(DwcError):
        evaluated(name, root).check_complete()
        return
    with pytest.raises(DwcError) as told:
        evaluated(name, root).check_complete()
    assert len(str(told.value)) < 1500


# What `check` says.


def test_only_one_category_is_counted_and_what_is_missing_is_named(copy, capsys):
    root = copy("fashioniq")
    photo = fashioniq.load(root, "val").files[0]
    for path in [*root.glob("*/*.shirt.*"), *root.glob("*/split.toptee.*"), photo]:
        path.unlink()
    assert main(["check", "fashioniq", str(root)]) == 1
    out = capsys.readouterr().out
    assert "dress, val, VAL: triplets" in out
    assert "not counted: shirt, val, original; shirt, val, VAL" in out
    assert "there is no captions/cap.shirt.val.json and no image_splits/split.shirt.val.json" in out
    assert "there is no image_splits/split.toptee.train.json. " in out
    assert f"Looked in {root}" in out
    assert f"photos were looked for in {root}" in out
    assert out.splitlines()[-1].endswith("6 of 9 parts are not counted.")


def test_a_split_that_is_missing_or_damaged_hides_no_other(copy):
    root = copy("cirr")
    (root / "captions" / "cap.rc2.train.json").write_text("[")
    lines, good = census.report("cirr", root)
    assert not good
    assert any(line.startswith("val: triplets") for line in lines)
    assert any("cap.rc2.train.json: the annotations are no JSON" in line for line in lines)


@pytest.mark.parametrize("name", [name for name in datasets.LOADERS if name != "own"])
def test_a_folder_that_holds_nothing_of_a_dataset_says_so(tmp_path, name, capsys):
    (tmp_path / "notes.md").write_text("nothing here")
    assert main(["check", name, str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert f"the folder holds nothing of {name}: there is no " in told
    assert "Looked " in told
    assert "again" not in told


# Where photos lie, and where the folder is.


@pytest.mark.parametrize("named", ["cirr_dataset", "cirr_dataset/cirr"])
def test_photos_of_cirr_may_lie_above_the_annotations(copy, named):
    root = copy("cirr")
    (root.parent / "cirr_dataset" / "cirr").mkdir(parents=True)
    for part in ("captions", "image_splits"):
        shutil.move(root / part, root.parent / "cirr_dataset" / "cirr" / part)
    for part in ("dev", "train"):
        shutil.move(root / part, root.parent / "cirr_dataset" / part)
    for split in cirr.SPLITS:
        assert cirr.load(root.parent / named, split).missing == []


def test_a_name_with_a_colon_is_no_reason_to_refuse_a_folder(copy):
    root = copy("own")
    expected = own.load(root, "val")
    for name in ("photo 12:30.png", "C:x.png", "a\\..\\..\\b.png"):
        Image.new("RGB", (8, 8)).save(root / "images" / name)
    dataset = own.load(root, "val")
    assert triplets(dataset) == triplets(expected)
    assert set(dataset.image_ids) == {*expected.image_ids, "photo 12:30"}
    assert dataset.missing == []


def test_a_home_folder_and_a_relative_path_are_the_same_dataset(copy, monkeypatch):
    root = copy("own")
    monkeypatch.setenv("HOME", str(root.parent))
    monkeypatch.chdir(root.parent)
    files = [datasets.load("own", name, "val").files for name in ("~/own", "own", "./own/", root)]
    assert files == [files[0]] * 4
    assert load_data(PhotoConfig(dataset="own", root="~/own"))[1].files == files[0]


def test_an_edited_table_is_read_again(copy):
    root = copy("own")
    config = PhotoConfig(dataset="own", root=str(root), size=16)
    before = load_data(config)
    path = root / "train.csv"
    path.write_text(path.read_text() + "train-00001,is much older,train-00002\n")
    after = load_data(config)
    assert triplets(after[0]) == [*triplets(before[0]), ("train-00001", ("is much older",), "train-00002")]


@pytest.mark.parametrize("missing", ["refuse", "drop"])
def test_a_photo_that_is_fetched_or_replaced_later_is_seen(copy, missing):
    root = copy("own")
    config = PhotoConfig(dataset="own", root=str(root), size=16, missing=missing)
    whole, _ = load_data(config)
    image = whole.targets[0]
    photo = root / "images" / f"{whole.image_ids[image]}.png"
    photo.rename(root / "away")
    if missing == "drop":
        assert len(load_data(config)[0]) < len(whole)
    else:
        with pytest.raises(DatasetError, match="images are missing"):
            load_data(config)
    (root / "away").rename(photo)
    assert triplets(load_data(config)[0]) == triplets(whole)
    Image.new("RGB", (16, 16), "red").save(photo)
    assert (load_data(config)[0].pictures[image] == (255, 0, 0)).all()


def test_a_drawn_world_is_drawn_once():
    config = DataConfig(train_images=8, train_queries=8, val_images=8, val_queries=8, size=8)
    assert load_data(config)[0] is load_data(config.model_copy())[0]


def test_a_run_on_the_drawn_world_does_not_depend_on_how_photos_are_found():
    used = {path.name for path in code_of("dwclib.training.runs")}
    assert {"datasets.py", "synthfashion.py"} <= used
    assert not used & {"census.py", "finder.py", "photos.py", "records.py"}


def test_dropped_triplets_are_said_in_numbers(copy, caplog):
    root = copy("own")
    whole = own.load(root, "train")
    gone = whole.image_ids[whole.targets[0]]
    (root / "images" / f"{gone}.png").unlink()
    with pytest.raises(DatasetError, match="images are missing"):
        load_data(PhotoConfig(dataset="own", root=str(root), size=16))
    train, _ = load_data(PhotoConfig(dataset="own", root=str(root), size=16, missing="drop"))
    lost = sum(gone in row for row in triplets(whole))
    assert f"own/train: {lost} of {len(whole)} triplets are left out" in caplog.text
    assert len(train) == len(whole) - lost


def test_the_command_line_asks_to_drop_what_is_missing(tmp_path, monkeypatch):
    from dwclib.training import runs

    asked = []
    monkeypatch.setattr(runs, "Run", lambda config, *_, **__: asked.append(config) or exit_quietly())
    recipe = tmp_path / "mine.yml"
    recipe.write_text("data: {dataset: own}\n")
    command = ["train", str(recipe), "--out", str(tmp_path / "run"), "--data", str(tmp_path)]
    for more in ([], ["--missing", "drop"]):
        assert main([*command, *more]) == 130
    assert [config.data.missing for config in asked] == ["refuse", "drop"]


def exit_quietly():
    raise KeyboardInterrupt


# What the book writes for others.


@pytest.mark.parametrize("images", [6, 9, 13, 40])
def test_a_subset_of_cirr_has_six_images_whatever_the_number(tmp_path, images):
    census.write("cirr", tmp_path / "out", train=images, val=images)
    for split in cirr.SPLITS:
        rows = json.loads((tmp_path / "out" / "captions" / f"cap.rc2.{split}.json").read_text())
        for row in rows:
            members = row["img_set"]["members"]
            assert len(set(members)) == 6
            assert {row["reference"], row["target_hard"]} <= set(members)


def test_too_few_images_for_a_subset_are_told(tmp_path):
    with pytest.raises(DwcError, match="a subset has 6 images"):
        census.write("cirr", tmp_path / "out", train=16, val=5)
    assert list(tmp_path.iterdir()) == []


def test_the_command_line_chooses_folder_and_ending(tmp_path):
    out = tmp_path / "out"
    command = ["synthfashion", "--out", str(out), "--train", "32", "--val", "32"]
    assert main([*command, "--pictures", "all_imgs", "--ending", ".png"]) == 0
    assert {path.suffix for path in (out / "all_imgs").iterdir()} == {".png"}
    assert main([*command[:2], str(tmp_path / "x"), "--layout", "cirr", "--ending", ".png"]) == 2
