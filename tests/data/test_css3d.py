import contextlib
import os
import pickle
import shutil
import struct
import tracemalloc
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from strategies import JSON

from dwclib.data import census, css3d
from dwclib.data.census import drawn_splits
from dwclib.errors import ConfigError, DatasetError, DwcError

LAYOUT, SMALL = "css3d", {"seed": 0, "train": 24, "val": 16}
pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="module")
def truth(own_cache):
    train, val = drawn_splits(**SMALL).values()
    return {"train": train, "test": val}


def plain(**changes):
    """Return a small split as the file holds it."""
    mods = [{"from": [0, 1], "to": [1, 2], "to_str": "add red cube"}]
    return {"objects_img": [[{"color": "red", "pos": [0.5, 0.5]}]] * 3, "mods": mods, **changes}


def put(root, content, **options):
    with (root / css3d.FILE).open("wb") as file:
        np.save(file, np.array(content, dtype=object), **options)
    return root


def put_pickle(root, pickled):
    """Write these bytes where the file has its pickle."""
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (), }".ljust(117) + b"\n"
    magic = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header))
    (root / css3d.FILE).write_bytes(magic + header + pickled)
    return root


def in_python_2(value):
    """Return a value as Python 2 pickles it: texts are bytes."""
    if isinstance(value, str):
        return b"U" + bytes([len(value)]) + value.encode("latin1")
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value)
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    if isinstance(value, list):
        return b"](" + b"".join(map(in_python_2, value)) + b"e"
    return b"}(" + b"".join(in_python_2(k) + in_python_2(v) for k, v in value.items()) + b"u"


def array_in_python_2(value):
    """Return an array of one object as Python 2's numpy pickles it."""
    return (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85U\x01b\x87Rq\x03"
        b"(K\x01)cnumpy\ndtype\nq\x04U\x02O8K\x00K\x01\x87Rq\x05"
        b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK?tb\x89](" + in_python_2(value) + b"etb."
    )


def pairs(dataset):
    return list(zip(dataset.references.tolist(), dataset.targets.tolist(), dataset.texts(), strict=True))


@pytest.mark.parametrize("split", css3d.SPLITS)
def test_what_was_written_is_read_again(written, truth, split):
    dataset, drawn = css3d.load(written, split), truth[split]
    assert Counter(pairs(dataset)) == Counter(pairs(drawn))
    same = drawn.identities[:, None] == drawn.identities
    assert ((dataset.identities[:, None] == dataset.identities) == same).all()
    assert dataset.gallery.tolist() == list(range(len(drawn.image_ids)))
    assert (dataset.hit, dataset.exclude_reference, dataset.ks) == ("identity", True, (1,))
    assert dataset.missing == []
    for image, path in enumerate(dataset.files):
        assert path.name == f"css_{split}_{image:06d}.png"
        assert (np.asarray(Image.open(path)) == drawn.pictures[image]).all()


def test_a_modification_pairs_each_reference_with_its_target(tmp_path):
    root = put(tmp_path, {"test": plain(labels=["a", "b", "a"])})
    dataset = css3d.load(root, "test")
    assert pairs(dataset) == [(0, 1, "add red cube"), (1, 2, "add red cube")]
    assert dataset.identities.tolist() == [0, 1, 0]


def test_without_labels_each_image_is_a_composition_of_its_own(tmp_path):
    assert css3d.load(put(tmp_path, {"test": plain()}), "test").identities.tolist() == [0, 1, 2]


@pytest.mark.parametrize("module", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_arrays_and_numbers_of_numpy_are_read(tmp_path, module):
    images = np.arange(3)
    mods = [{"from": images[:2], "to": [images[1], np.int16(2)], "to_str": "add red cube"}]
    content = {"test": plain(mods=mods, labels=np.array(["a", "b", "a"]))}
    pickled = pickle.dumps(np.array(content, dtype=object), protocol=3)
    other = {"numpy.core": "numpy._core", "numpy._core": "numpy.core"}[module.removesuffix(".multiarray")]
    pickled = pickled.replace(other.encode(), module.removesuffix(".multiarray").encode())
    dataset = css3d.load(put_pickle(tmp_path, pickled), "test")
    assert pairs(dataset) == [(0, 1, "add red cube"), (1, 2, "add red cube")]
    assert dataset.identities.tolist() == [0, 1, 0]


def test_a_file_from_python_2_is_read(tmp_path):
    root = put_pickle(tmp_path, array_in_python_2({"train": plain(labels=[7, 8, 7]), "test": plain()}))
    dataset = css3d.load(root, "train")
    assert pairs(dataset) == [(0, 1, "add red cube"), (1, 2, "add red cube")]
    assert dataset.identities.tolist() == [0, 1, 0]


class Evil:
    """Runs a command when it is unpickled by whoever trusts it."""

    def __init__(self, marker, how=os.system):
        self.marker, self.how = marker, how

    def __reduce__(self):
        return self.how, (f"touch {self.marker}",)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_that_would_run_a_command_is_refused_and_runs_nothing(tmp_path, protocol):
    marker = tmp_path / "marker"
    pickled = pickle.dumps({"test": plain(labels=[Evil(marker)] * 3)}, protocol=protocol)
    with pytest.raises(DatasetError, match=r"it asks for posix\.system, which is not plain data"):
        css3d.load(put_pickle(tmp_path, pickled), "test")
    assert not marker.exists()
    pickle.loads(pickled)
    assert marker.exists()  # it was no dud


@pytest.mark.parametrize("how", [eval, exec, np.load, np.frombuffer, np.memmap, os.remove, __import__])
def test_nothing_else_is_called_either(tmp_path, how):
    pickled = pickle.dumps({"test": plain(labels=Evil(tmp_path / "marker", how))})
    with pytest.raises(DatasetError, match=r"it asks for .*, which is not plain data"):
        css3d.load(put_pickle(tmp_path, pickled), "test")


def test_a_way_around_by_an_attribute_is_refused(tmp_path):
    name = b"ndarray.__class__.__mro__"
    dotted = b"\x80\x04\x8c\x05numpy\x8c" + bytes([len(name)]) + name + b"\x93."
    with pytest.raises(DatasetError, match=r"numpy\.ndarray\.__class__\.__mro__, which is not plain data"):
        css3d.load(put_pickle(tmp_path, dotted), "test")


@pytest.mark.parametrize(
    ("name", "attribute"),
    [
        (b"numpy\nndarray", b"__setstate__"),
        (b"numpy\ndtype", b"read"),
        (b"numpy.core.multiarray\nscalar", b"__new__"),
    ],
)
def test_a_pickle_cannot_change_what_the_next_one_means(tmp_path, name, attribute):
    patch = b"\x80\x02c" + name + b"\nN}(U" + bytes([len(attribute)]) + attribute + b"Nu\x86b."
    with pytest.raises(DatasetError, match="cannot be read"):
        css3d.load(put_pickle(tmp_path, patch), "test")
    test_arrays_and_numbers_of_numpy_are_read(tmp_path, "numpy.core.multiarray")


def test_a_forged_type_that_makes_numbers_of_addresses_is_refused(tmp_path):
    forged = array_in_python_2("address!").replace(b"](U\x08address!e", b"U\x08address!")
    with pytest.raises(DatasetError, match=r"it holds an array of \|O8"):
        css3d.load(put_pickle(tmp_path, forged), "test")


def test_a_memo_that_would_fill_the_memory_is_refused(tmp_path):
    pickled = b"\x80\x02}r" + struct.pack("<I", 2**31 - 1) + b"."
    with pytest.raises(DatasetError, match="cannot be read"):
        css3d.load(put_pickle(tmp_path, pickled), "test")


@pytest.mark.parametrize("opcode", [b"\x8e", b"\x96", b"\x8d"])
def test_a_length_beyond_the_file_is_refused(tmp_path, opcode):
    pickled = b"\x80\x05" + opcode + struct.pack("<Q", 2**40) + b"abc."
    with pytest.raises(DatasetError, match="cannot be read"):
        css3d.load(put_pickle(tmp_path, pickled), "test")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "cannot be read"),
        ("text", "the field 'test' is missing"),
        ({"train": plain()}, "test: the field 'test' is missing"),
        ({"test": {"mods": []}}, "the field 'objects_img' is missing"),
        ({"test": {"objects_img": []}}, "the field 'mods' is missing"),
        ({"test": plain(mods=[])}, "it holds no triplet"),
        ({"test": plain(mods=["add"])}, "modification 0: the field 'to_str' is missing"),
        ({"test": plain(mods=[{"from": [0], "to_str": "add"}])}, "modification 0: the field 'to' is missing"),
        (
            {"test": plain(mods=[{"from": [0, 1], "to": [1], "to_str": "add"}])},
            "modification 0: there are 2 references but 1 targets",
        ),
        ({"test": plain(mods=[{"from": [0], "to": [3], "to_str": "add"}])}, "no image 3, only 3"),
        ({"test": plain(mods=[{"from": [-1], "to": [2], "to_str": "add"}])}, "no image -1"),
        ({"test": plain(mods=[{"from": ["../x"], "to": [2], "to_str": "add"}])}, "no image '../x'"),
        ({"test": plain(labels=[1, 2])}, "there are 3 images but 2 labels"),
        ({"test": plain(labels=[1, [2], 3])}, "image 1: the label is a list, neither number nor text"),
    ],
)
def test_damaged_content_is_told_with_its_record(tmp_path, content, message):
    with pytest.raises(DatasetError, match=message) as told:
        css3d.load(put(tmp_path, content), "test")
    assert css3d.FILE in told.value.where


@pytest.mark.parametrize(("field", "value"), [("to_str", "here"), ("to", ["here"])])
def test_what_is_nested_without_end_is_told_in_brief(tmp_path, field, value):
    mod = {"from": [0], "to": [1], "to_str": "add", field: value}
    pickled = pickle.dumps([{"test": plain(mods=[mod])}], 2)
    nested = pickled.replace(b"X\x04\x00\x00\x00here", b"K\x00" + b"\x85" * 100_000)
    with pytest.raises(DatasetError, match=r"modification 0: .*\(\.\.\.\)"):
        css3d.load(put_pickle(tmp_path, nested), "test")


def test_other_arrays_and_no_file_are_told(tmp_path):
    with pytest.raises(DatasetError, match=r"there is no css_toy.*dup\.npy\. Looked in"):
        css3d.load(tmp_path, "test")
    np.save(tmp_path / css3d.FILE, np.zeros(3))
    with pytest.raises(DatasetError, match="it is not one pickled object"):
        css3d.load(tmp_path, "test")


def test_an_unknown_split_is_refused(written):
    with pytest.raises(ConfigError, match=r"no split 'val'.*train, test"):
        css3d.load(written, "val")


def test_a_missing_image_is_counted(root):
    (root / "images" / "css_test_000003.png").unlink()
    assert css3d.load(root, "test").missing == ["css_test_000003"]
    counts = {count.what: count for count in census.census("css3d", root)[0]}
    with_file = counts["test: images with a file"]
    assert (with_file.found, with_file.expected) == (15, 16)
    assert counts["train: triplets"].found == 36


PAIR = b"q\x01h\x01\x86"  # of the last thing twice: a hundred of them hold 2^100 things
NEST = b")" + PAIR * 100
U1 = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tbq\x04"
EMPTY = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
FILL = EMPTY + b"(K\x01K\x01\x85h\x04\x89h\x03tb"
SPLIT = b"}(U\x0bobjects_img](K\x01K\x02eU\x04mods]("
MOD = b"}(U\x04from](" + b"K\x00" * 500 + b"eU\x02to](" + b"K\x01" * 500 + b"eU\x06to_strU\x03addu"
HUGE = MOD.replace(b"K\x00", b"\x8b" + struct.pack("<i", 3000) + b"\x01" * 3000, 1)
DEEP = b"}" + b")" + b"\x85" * 20_000 + b"K\x01s", b"]" * 20_000 + b"a" * 19_999


@pytest.mark.parametrize(
    ("pickled", "message"),
    [
        (b"}" + NEST + b"K\x01s", "a key is neither number nor text"),
        (b"}(" + NEST + b"K\x01u", "a key is neither number nor text"),
        (b"(" + NEST + b"K\x01d", "a key is neither number nor text"),
        (b"\x8f(" + NEST + b"\x90", "it asks for EMPTY_SET"),
        (b"(" + NEST + b"\x91", "it asks for FROZENSET"),
        (b"cnumpy\ndtype\n" + NEST + b"\x85R", "cannot be read"),
        (NEST + b"K\x01R", "it calls what is no type of numpy"),
        (NEST + b")R", "it calls what is no type of numpy"),
        (b"cnumpy\ndtype\n" + b"]" + NEST + b"aR", "it calls what is no type of numpy"),
        (
            b"](" + b"U\xff" + b"a" * 255 + b"q\x03" + U1 + FILL * 1000 + b"e",
            "arrays are longer than the file",
        ),
        (b"](}(U\x04test" + SPLIT + MOD + b"q\x05" + b"h\x05" * 500 + b"euue", "more triplets than the file"),
        (b"](}(U\x04test" + SPLIT + HUGE + b"euue", "it asks for LONG4"),
        (b"](}(U\x04test" + SPLIT + b"}(U\x06to_str" + NEST + b"ueuue", "the field 'to_str' is"),
        (b"]q\x01h\x01a", "the field 'test' is missing"),
        (b"K\x01\x81", "it asks for NEWOBJ"),
        (b"(cos\nsystem\no", "it asks for OBJ"),
        (b"(ios\nsystem\n", "it asks for INST"),
        (b"\x82\x01", "it asks for EXT1"),
        (b"K\x01Q", "it asks for BINPERSID"),
    ],
)
def test_a_small_file_takes_neither_memory_nor_time(tmp_path, pickled, message):
    tracemalloc.start()
    with pytest.raises(DatasetError, match=message):
        css3d.load(put_pickle(tmp_path, b"\x80\x04" + pickled + b"."), "test")
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 4_000_000 + 400 * len(pickled)


@pytest.mark.parametrize("pickled", DEEP)
def test_depth_does_not_matter(tmp_path, pickled):
    with pytest.raises(DatasetError, match=r"a key is neither|the field 'test' is missing"):
        css3d.load(put_pickle(tmp_path, b"\x80\x04" + pickled + b"."), "test")


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8).filter(str.strip)
PAIRS = st.lists(st.sampled_from([(0, 1), (1, 2), (2, 0)]), max_size=3)
TYPES = st.sampled_from([int, np.int8, np.uint16, np.int64])


@settings(max_examples=60, deadline=None)
@given(
    protocol=st.integers(0, pickle.HIGHEST_PROTOCOL),
    pairs_of=st.dictionaries(
        TEXTS, st.lists(st.sampled_from([(0, 1), (1, 2), (2, 0)]), max_size=3), max_size=4
    ),
    labels=st.lists(TEXTS | st.integers(-(2**40), 2**40), min_size=3, max_size=3),
    kind=TYPES,
    extra=JSON,
)
def test_plain_data_is_read_as_python_reads_it(tmp_path_factory, protocol, pairs_of, labels, kind, extra):
    mods = [
        {"from": [kind(pair[0]) for pair in found], "to": [kind(pair[1]) for pair in found], "to_str": text}
        for text, found in pairs_of.items()
    ]
    content = {"test": plain(labels=labels, mods=mods, extra=extra)}
    if protocol < 3 and kind is not int:
        return  # Python 3 wraps the bytes of a number in a call
    root = put_pickle(tmp_path_factory.mktemp("plain"), pickle.dumps([content], protocol))
    expected = [(*pair, text) for text, found in pairs_of.items() for pair in found]
    if not expected:
        with pytest.raises(DatasetError, match="it holds no triplet"):
            css3d.load(root, "test")
        return
    dataset = css3d.load(root, "test")
    assert pairs(dataset) == expected
    same = [[a == b for b in labels] for a in labels]
    assert ((dataset.identities[:, None] == dataset.identities) == same).all()


PIECES = [
    b"]", b"}", b")", b"(", b"N", b"\x88", b"K\x01", b"U\x04test", b"U\x04mods", b"U\x02to", b"e", b"a",
    b"s", b"u", b"t", b"l", b"d", b"\x85", b"\x86", b"\x87", b"q\x01", b"h\x01", b"q\x02", b"h\x02",
    b"\x94", b"R", b"b", b"cnumpy\ndtype\n", b"cnumpy.core.multiarray\nscalar\n", b"cnumpy\nndarray\n",
    b"\x93", b"cos\nsystem\n", b"U\x02u1", b"C\x04abcd", b"\x8a\x01\x05", b"G@\t!\xfbTD-\x18", b"0", b"2",
    b"1", b"o", b"\x81", b"\x8f", b"\x90", EMPTY, U1, SPLIT, MOD, NEST,
    b"](}(U\x04test" + SPLIT + b"}(U\x04from](K\x00e", b"euue",
]  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=30).map(b"".join))
def test_whatever_the_instructions_it_loads_or_says_why_not(tmp_path_factory, pickled):
    root = put_pickle(tmp_path_factory.mktemp("pieces"), b"\x80\x04" + pickled + b".")
    with contextlib.suppress(DwcError):
        css3d.load(root, "test")


@settings(max_examples=300, deadline=None)
@given(at=st.floats(0, 1), junk=st.binary(max_size=4), cut=st.booleans(), python_2=st.booleans())
def test_whatever_the_bytes_it_loads_or_says_why_not(tmp_path_factory, written, at, junk, cut, python_2):
    root = tmp_path_factory.mktemp("damaged")
    shutil.copy(written / css3d.FILE, root)
    if python_2:
        put_pickle(root, array_in_python_2({"test": plain(labels=["a", "b", "a"])}))
    whole = (root / css3d.FILE).read_bytes()
    place = int(at * len(whole))
    (root / css3d.FILE).write_bytes(whole[:place] + junk + (b"" if cut else whole[place + len(junk) :]))
    told = css3d.FILE
    try:
        css3d.load(root, "test")
    except DwcError as error:
        told = str(error)
    assert css3d.FILE in told
