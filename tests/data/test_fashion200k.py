import shutil
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dwclib.data import census, fashion200k
from dwclib.data.census import drawn_splits
from dwclib.errors import ConfigError, DatasetError, DwcError

LAYOUT, SMALL = "fashion200k", {"seed": 0, "train": 64, "val": 48}
pytestmark = pytest.mark.usefixtures("own_cache")
WORDS = st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map(" ".join)


@pytest.fixture(scope="module")
def captions(own_cache):
    """What each image shows, by its name, as the labels say it."""
    found = {}
    for drawn in drawn_splits(**SMALL).values():
        for image, name in enumerate(drawn.image_ids):
            garment = drawn.garment(image)
            found[name] = f"{garment.colour} {garment.pattern} {garment.sleeve} {garment.category}"
    return found


def made(root, labels, queries=(), split="train"):
    """Write labels of which each is (path, caption)."""
    (root / "labels").mkdir(exist_ok=True)
    lines = [f"{path}\t0.9\t{caption}\n" for path, caption in labels]
    (root / "labels" / f"dress_{split}_detect_all.txt").write_text("".join(lines))
    (root / "test_queries.txt").write_text("".join(f"{before} {after}\n" for before, after in queries))
    return root


def shown(dataset, captions):
    """Return the captions of the references and of the targets."""
    by_image = [captions[name.split("/")[-1].removesuffix("_0")] for name in dataset.image_ids]
    return [(by_image[r], by_image[t]) for r, t in zip(dataset.references, dataset.targets, strict=True)]


def one_word_apart(before, after):
    old, new = before.split(), after.split()
    return any(
        old[:i] + old[i + 1 :] == new[:j] + new[j + 1 :] and old[i] != new[j]
        for i in range(len(old))
        for j in range(len(new))
    )


@pytest.mark.parametrize("split", fashion200k.SPLITS)
def test_images_and_captions_are_those_that_were_written(written, captions, split):
    dataset = fashion200k.load(written, split)
    names = [name.split("/")[-1].removesuffix("_0") for name in dataset.image_ids]
    drawn = {"train": "train", "test": "val"}[split]
    assert sorted(names) == sorted(name for name in captions if name.startswith(drawn))
    assert dataset.missing == []
    same = np.array([captions[name] for name in names])
    assert ((same[:, None] == same) == (dataset.identities[:, None] == dataset.identities)).all()
    assert len(set(dataset.identities.tolist())) < len(names)
    assert dataset.gallery.tolist() == list(range(len(names)))
    assert (dataset.hit, dataset.exclude_reference, dataset.ks) == ("identity", True, (1, 10, 50))


def test_test_queries_are_those_of_the_file(written):
    dataset = fashion200k.load(written, "test")
    found = [
        f"{dataset.image_ids[r]}.jpeg {dataset.image_ids[t]}.jpeg"
        for r, t in zip(dataset.references, dataset.targets, strict=True)
    ]
    assert found == (written / "test_queries.txt").read_text().splitlines()
    assert len(dataset) == dataset.annotated == 48


@pytest.mark.parametrize("split", fashion200k.SPLITS)
def test_a_pair_differs_in_one_word_and_the_text_says_which(written, captions, split):
    dataset = fashion200k.load(written, split)
    released = fashion200k.load(written, split, text="released").texts()
    for (before, after), text, longer in zip(
        shown(dataset, captions), dataset.texts(), released, strict=True
    ):
        assert one_word_apart(before, after)
        _, gone, _, come = text.split()
        assert before.replace(gone, come) == after
        assert longer == f"{text} and get {after}"


def test_pairs_are_drawn_by_their_seed(written):
    def draw(**options):
        dataset = fashion200k.load(written, "train", **options)
        return list(zip(dataset.references.tolist(), dataset.targets.tolist(), strict=True))

    assert draw() == draw(seed=0)
    assert draw(seed=1) != draw(seed=0)
    assert len(draw()) == 64
    assert len(draw(pairs=500)) == 500


def test_every_image_with_a_partner_is_drawn_and_no_other(tmp_path):
    labels = [("a/1.jpeg", "red dress"), ("a/2.jpeg", "blue dress"), ("a/3.jpeg", "long green coat")]
    dataset = fashion200k.load(made(tmp_path, labels), "train", pairs=200)
    assert Counter(dataset.texts()).keys() == {"replace red with blue", "replace blue with red"}
    assert set(dataset.references) == set(dataset.targets) == {0, 1}
    assert min(Counter(dataset.texts()).values()) > 60


@settings(max_examples=150, deadline=None)
@given(st.sets(WORDS, min_size=2, max_size=8))
def test_pairs_are_exactly_those_that_a_comparison_of_all_finds(tmp_path_factory, captions):
    labels = [(f"a/{number}.jpeg", caption) for number, caption in enumerate(sorted(captions))]
    pairs = [pair for pair in combinations(sorted(captions), 2) if one_word_apart(*pair)]
    root = made(tmp_path_factory.mktemp("pairs"), labels)
    if not pairs:
        with pytest.raises(DatasetError, match="no two captions differ in exactly one word"):
            fashion200k.load(root, "train")
        return
    dataset = fashion200k.load(root, "train", pairs=60 * len(pairs) + 200)
    named = [caption for _, caption in labels]
    found = {
        tuple(sorted((named[r], named[t]))) for r, t in zip(dataset.references, dataset.targets, strict=True)
    }
    assert found == set(pairs)


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [
        ("red dress", "blue dress", "replace red with blue"),
        ("red red dress", "red blue dress", "replace red with blue"),
        ("red long dress", "long blue dress", "replace red with blue"),
        ("red long dress", "blue short skirt", "replace red with blue"),
        ("red dress", "red long dress", "replace dress with long"),
    ],
)
def test_the_text_names_the_first_words_that_differ(tmp_path, before, after, text):
    labels = [("a/1.jpeg", before), ("a/2.jpeg", after)]
    root = made(tmp_path, labels, [("a/1.jpeg", "a/2.jpeg")], split="test")
    assert fashion200k.load(root, "test").texts() == [text]


def test_ten_thousand_captions_are_paired(tmp_path):
    rng = np.random.default_rng(0)
    words = [f"word{number}" for number in range(100)]
    labels = [(f"a/{image}.jpeg", " ".join(rng.choice(words, 3))) for image in range(10_000)]
    dataset = fashion200k.load(made(tmp_path, labels), "train")
    assert len(dataset) == 10_000
    for r, t in zip(dataset.references[:200], dataset.targets[:200], strict=True):
        assert one_word_apart(labels[r][1], labels[t][1])


def test_a_missing_image_is_counted(root):
    gone = fashion200k.load(root, "test").files[3]
    gone.unlink()
    assert fashion200k.load(root, "test").missing == [str(gone.relative_to(root).with_suffix(""))]
    counts = {count.what: count for count in census.census("fashion200k", root)[0]}
    assert [(c.found, c.expected) for what, c in counts.items() if what == "test: images with a file"] == [
        (47, 48)
    ]
    assert counts["train: images"][1:] == (64, 172_049)
    assert counts["test: images"][1:] == (48, 29_789)
    assert counts["test: triplets"][1:] == (48, 33_480)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("women/x.jpeg\tred dress", "there are 2 columns, not 3"),
        ("women/x.jpeg\t0.9\tred dress\tmore", "there are 4 columns"),
        ("women/x.jpeg\t0.9\t  ", "the caption '' is not a text"),
        ("../x.jpeg\t0.9\tred dress", "leaves the image folder"),
        ("/x.jpeg\t0.9\tred dress", "leaves the image folder"),
        ("\t0.9\tred dress", "leaves the image folder"),
        ("women/a.jpeg\t0.9\tred dress", "'women/a' occurs twice"),
    ],
)
def test_a_damaged_label_is_told_with_its_file_and_line(root, line, message):
    lines = f"women/a.jpeg\t0.9\tred dress\n\n{line}\nwomen/b.jpeg\t0.9\tblue dress\n"
    (root / "labels" / "zzz_train_detect_all.txt").write_text(lines)
    with pytest.raises(DatasetError, match=rf"zzz_train_detect_all\.txt, line 3.*: .*{message}"):
        fashion200k.load(root, "train")


def test_an_image_in_two_label_files_is_told(root):
    labels = root / "labels"
    shutil.copy(labels / "dress_test_detect_all.txt", labels / "zzz_test_detect_all.txt")
    with pytest.raises(DatasetError, match=r"zzz_test_detect_all\.txt, line 1: .*occurs twice"):
        fashion200k.load(root, "test")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("women/nothing.jpeg women/nothing.jpeg", "the reference 'women/nothing' is in no list"),
        ("women/nothing.jpeg", "there are 1 paths, not 2"),
        ("../x.jpeg ../y.jpeg", "the reference '../x' is in no list"),
    ],
)
def test_a_damaged_query_is_told_with_its_line(root, line, message):
    path = root / "test_queries.txt"
    path.write_text(path.read_text() + line)
    with pytest.raises(DatasetError, match=rf"test_queries\.txt, line 49: {message}"):
        fashion200k.load(root, "test")


def test_what_macos_leaves_beside_a_label_file_is_passed_over(root):
    expected = fashion200k.load(root, "train").image_ids
    (root / "labels" / "._dress_train_detect_all.txt").write_bytes(b"\x00\x05\x16\x07")
    assert fashion200k.load(root, "train").image_ids == expected


def test_missing_files_are_told(root):
    (root / "test_queries.txt").write_text("\n")
    with pytest.raises(DatasetError, match="it holds no triplet"):
        fashion200k.load(root, "test")
    (root / "test_queries.txt").unlink()
    with pytest.raises(DatasetError, match=r"there is no test_queries\.txt\. Looked in"):
        fashion200k.load(root, "test")
    shutil.rmtree(root / "labels")
    with pytest.raises(DatasetError, match="there is no label for train"):
        fashion200k.load(root, "train")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"split": "val"}, "no split 'val'"),
        ({"text": "VAL"}, "no text 'VAL'.*TIRG, released"),
        ({"pairs": 0}, "pairs = 0 is no whole number of 1 to 1000000"),
        ({"pairs": True}, "pairs = True is no whole number"),
        ({"pairs": 10**13}, "pairs = 10000000000000 is no whole number"),
        ({"seed": -1}, "the seed -1"),
    ],
)
def test_an_unknown_choice_is_refused(written, option, message):
    with pytest.raises(ConfigError, match=message):
        fashion200k.load(written, **{"split": "train", **option})


@settings(max_examples=100, deadline=None)
@given(
    name=st.sampled_from(["labels/dress_test_detect_all.txt", "test_queries.txt"]),
    at=st.floats(0, 1),
    junk=st.binary(max_size=4),
    cut=st.booleans(),
)
def test_whatever_the_bytes_it_loads_or_says_why_not(written, name, at, junk, cut):
    path = written / name
    whole = path.read_bytes()
    place = int(at * len(whole))
    path.write_bytes(whole[:place] + junk + (b"" if cut else whole[place + len(junk) :]))
    told = path.name
    try:
        fashion200k.load(written, "test")
    except DwcError as error:
        told = str(error)
    finally:
        path.write_bytes(whole)
    assert ".txt" in told
