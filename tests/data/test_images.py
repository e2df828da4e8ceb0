import contextlib
import io
import json
import os
import shutil
import struct
import sys
import time
import zlib
from functools import partial

import numpy as np
import open_clip
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageOps, PngImagePlugin

from dwclib.data import images
from dwclib.data.images import image_store, read_image
from dwclib.errors import DatasetError, DwcError

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="such files are Linux's")
RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


def plain(index, size=8):
    return np.full((size, size, 3), index % 251, dtype=np.uint8)


def logged(folder, index):
    (folder / f"{index}-{os.getpid()}-{len(list(folder.iterdir()))}").touch()
    if (folder.parent / "stop").exists() and index >= 5:
        raise RuntimeError("power cut")
    return plain(index)


def read(files, index):
    return read_image(files[index], 8)


@pytest.fixture
def photo():
    rng = np.random.default_rng(0)
    smooth = rng.integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return Image.fromarray(smooth).resize((60, 40), Image.Resampling.BICUBIC)


@pytest.fixture
def halves():
    """A photo that is red on its left and blue on its right."""
    picture = Image.new("RGB", (40, 40), RED)
    picture.paste(BLUE, (20, 0, 40, 40))
    return picture


def first_half_and_second(path):
    """Return the colours on the left and on the right, as far as a photo's compression keeps them."""
    picture = read_image(path, 8).astype(int)
    return tuple(tuple(int(round(value / 51) * 51) for value in picture[4, column]) for column in (1, 6))


def prepared(picture, size):
    """Return the bytes that open_clip gives to CLIP, before it makes them numbers."""
    resize, crop, *_ = open_clip.image_transform(size, is_train=False).transforms
    return np.asarray(crop(resize(picture)))


SIDES = (1, 7, 8, 9, 15, 16, 17, 33, 64, 65, 97, 224, 225)


@pytest.mark.parametrize("size", [7, 16, 224])
@pytest.mark.parametrize("width", SIDES)
def test_a_photo_is_prepared_as_open_clip_does_pixel_for_pixel(tmp_path, size, width):
    noise = np.random.default_rng(width).integers(0, 256, (max(SIDES), width, 3), np.uint8)
    for height in SIDES:
        Image.fromarray(noise[:height]).save(tmp_path / "photo.bmp")
        expected = prepared(Image.fromarray(noise[:height]), size)
        assert (read_image(tmp_path / "photo.bmp", size) == expected).all(), height


@pytest.mark.parametrize(("width", "height"), [(1, 65_535), (65_535, 1), (2_000, 1)])
def test_a_photo_so_narrow_that_it_would_fill_the_memory_is_told(tmp_path, width, height):
    Image.new("RGB", (width, height)).save(tmp_path / "photo.png")
    with pytest.raises(DatasetError, match=r"brought to 224 it has [\d,]+ x [\d,]+ pixels: the limits"):
        read_image(tmp_path / "photo.png", 224)


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "RGBA"])
@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "gif", "bmp", "tif", "avif"])
def test_an_ordinary_photo_gives_the_bytes_that_open_clip_gives(tmp_path, photo, mode, ending):
    path = tmp_path / f"photo.{ending}"
    photo.convert("RGB" if ending == "jpg" and mode == "RGBA" else mode).save(path)
    with Image.open(path) as opened:
        expected = prepared(opened.convert("RGB"), 16)
    assert (read_image(path, 16) == expected).all()


def turned(picture, orientation):
    """Write a picture as a camera does that was held in another way."""
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # number of Pillow's method that turns it back
    return picture.transpose(Image.Transpose(undo[orientation])) if orientation > 1 else picture


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif"])
def test_a_photo_is_upright_however_the_camera_was_held(tmp_path, photo, orientation, ending):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    turned(photo, orientation).save(tmp_path / f"photo.{ending}", exif=exif, quality=95)
    difference = read_image(tmp_path / f"photo.{ending}", 16).astype(int) - prepared(photo, 16)
    assert np.abs(difference).mean() < 4


def test_a_damaged_orientation_is_no_reason_to_refuse_a_photo(tmp_path, halves):
    halves.save(tmp_path / "photo.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff junk", quality=95)
    assert first_half_and_second(tmp_path / "photo.jpg") == (RED, BLUE)


def cut_out(picture):
    mask = Image.new("L", picture.size, 255)
    mask.paste(0, (20, 0, 40, 40))
    picture.putalpha(mask)
    return picture


@pytest.mark.parametrize(
    ("ending", "change"),
    [
        ("png", cut_out),
        ("webp", cut_out),
        ("tif", cut_out),
        ("avif", cut_out),
        ("gif", cut_out),
        ("png", lambda picture: cut_out(picture).quantize(4)),
        ("png", lambda picture: cut_out(picture.convert("L").convert("RGB")).convert("LA")),
    ],
)
def test_what_is_transparent_lies_on_white(tmp_path, halves, ending, change):
    change(halves).save(tmp_path / f"photo.{ending}")
    assert first_half_and_second(tmp_path / f"photo.{ending}")[1] == WHITE
    assert first_half_and_second(tmp_path / f"photo.{ending}")[0] != WHITE


def test_a_colour_may_be_named_transparent(tmp_path, halves):
    halves.save(tmp_path / "photo.png", transparency=BLUE)
    assert first_half_and_second(tmp_path / "photo.png") == (RED, WHITE)


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_grey_of_16_bits_is_as_bright_as_in_8(tmp_path, ending):
    grey = np.arange(256, dtype=np.uint16).reshape(16, 16)
    Image.fromarray(grey * 257).save(tmp_path / f"photo.{ending}")
    assert (read_image(tmp_path / f"photo.{ending}", 16) == grey[:, :, None]).all()


def test_photos_of_other_colour_models_and_with_several_frames_are_read(tmp_path, halves):
    other = ImageOps.mirror(halves)
    halves.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=95)
    halves.convert("P").save(tmp_path / "palette.png")
    for ending, kind in (("gif", "GIF"), ("png", "PNG"), ("webp", "WEBP"), ("jpg", "MPO"), ("avif", "AVIF")):
        halves.save(tmp_path / f"frames.{ending}", kind, save_all=True, append_images=[other], quality=95)
    assert len(list(tmp_path.iterdir())) == 7
    for path in tmp_path.iterdir():
        assert first_half_and_second(path) == (RED, BLUE), path


def put_eps(path):
    path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(pwned) print\nshowpage\n")


def put_png_that_says(width, height, path):
    """Write a PNG of less than a hundred bytes that says it has so many pixels."""
    parts = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(bytes(100))),
        (b"IEND", b""),
    )
    chunks = [struct.pack(">I", len(p)) + k + p + struct.pack(">I", zlib.crc32(k + p)) for k, p in parts]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


def put_long_text(path):
    text = PngImagePlugin.PngInfo()
    text.add_text("prompt", "a" * 2_000_000, zip=True)
    Image.new("RGB", (9, 9)).save(path, "PNG", pnginfo=text)


@on_linux
@pytest.mark.parametrize(
    ("put", "message", "remedy"),
    [
        (put_eps, "it is none of JPEG, PNG, .*AVIF", "save it as JPEG or PNG"),
        (lambda path: path.write_bytes(b""), "it is none of", "Fetch"),
        (lambda path: path.mkdir(), "it is a folder, a pipe or a device", "remove it"),
        (lambda path: os.mkfifo(path), "it is a folder, a pipe or a device", "remove it"),
        (lambda path: path.symlink_to("/dev/zero"), "it is a folder, a pipe or a device", "remove it"),
        (lambda path: path.symlink_to("nowhere"), "No such file", "Fetch"),
        (lambda path: path.symlink_to(path), "symbolic links", "Try again"),
        (lambda path: path.symlink_to("/proc/self/mem"), "Input/output error", "Try again"),
        (partial(put_png_that_says, 1, 80_000_000), "1 x 80,000,000 pixels.* a side", "Save it smaller"),
        (partial(put_png_that_says, 65_536, 1), "65,536 x 1 pixels.* a side", "Save it smaller"),
        (partial(put_png_that_says, 9_000, 9_000), "the limits are 80,000,000", "Save it smaller"),
        (partial(put_png_that_says, 12_000, 8_000), "12,000 x 8,000 pixels", "Save it smaller"),
        (partial(put_png_that_says, 60_000, 60_000), "the limits are 80,000,000", "Save it smaller"),
        (put_long_text, "1 MB of text", "without its texts"),
        (lambda path: Image.new("F", (9, 9)).save(path, "TIFF"), "its grey has 32 bits", "save it as"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_told_with_its_reason_and_never_waited_for(tmp_path, put, message, remedy):
    put(tmp_path / "photo.jpg")
    with pytest.raises(DatasetError, match=f"the image cannot be read .*{message}") as told:
        read_image(tmp_path / "photo.jpg", 8)
    assert remedy in told.value.remedy


@pytest.mark.parametrize("keep", [0, 10, 60, 200])
def test_a_truncated_image_is_named(tmp_path, photo, keep):
    path = tmp_path / "photo.png"
    photo.save(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DatasetError, match=r"photo\.png.*cannot be read"):
        read_image(path, 10)


@pytest.fixture(scope="module")
def whole_files():
    picture = Image.effect_noise((24, 16), 90)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation], exif[ExifTags.Base.Make] = 6, "a camera"
    found = {}
    for kind, mode in (("JPEG", "CMYK"), ("JPEG", "L"), ("PNG", "RGBA"), ("PNG", "P"), ("GIF", "P"),
                       ("WEBP", "RGBA"), ("TIFF", "L"), ("BMP", "RGB"), ("AVIF", "RGB")):  # fmt: skip
        file = io.BytesIO()
        picture.convert("RGB").convert(mode).save(file, kind, exif=exif)
        found[f"{kind} {mode}"] = file.getvalue()
    return found


@settings(max_examples=250, deadline=None)
@given(
    data=st.data(),
    at=st.floats(0, 1, exclude_max=True),
    junk=st.binary(min_size=1, max_size=6),
    cut=st.booleans(),
)
def test_whatever_the_bytes_of_a_photo_it_is_read_or_told(tmp_path_factory, whole_files, data, at, junk, cut):
    whole = whole_files[data.draw(st.sampled_from(sorted(whole_files)))]
    place = int(at * len(whole))
    path = tmp_path_factory.getbasetemp() / "photo"
    path.write_bytes(whole[:place] + junk + (b"" if cut else whole[place + len(junk) :]))
    with contextlib.suppress(DatasetError):
        assert read_image(path, 8).shape == (8, 8, 3)


def test_a_store_holds_each_image_in_its_place(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "CHUNK", 7)
    store = image_store(tmp_path / "s.npy", plain, 20, 8, workers=1).pictures
    assert store.shape == (20, 8, 8, 3)
    assert store[:, 0, 0, 0].tolist() == list(range(20))
    assert (np.load(tmp_path / "s.npy") == store).all()
    assert not list(tmp_path.glob("*.parts"))


def test_a_finished_store_is_read_and_not_made_again(tmp_path):
    made = tmp_path / "made"
    made.mkdir()
    for _ in range(2):
        image_store(tmp_path / "s.npy", partial(logged, made), 6, 8, workers=1)
    assert time.time() - (tmp_path / "s.npy").stat().st_mtime > 5  # no write leaves this time stamp
    shutil.copy(tmp_path / "s.npy", tmp_path / "t.npy")  # a store that was moved has another time stamp
    shutil.copy(tmp_path / "s.json", tmp_path / "t.json")
    image_store(tmp_path / "t.npy", partial(logged, made), 6, 8, workers=1)
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


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "whole.npy").unlink(),
        lambda folder: (folder / "whole.npy").write_bytes(b""),
        lambda folder: (folder / "00000000.json").write_text("{"),
        lambda folder: (folder / "00000000.json").write_text("[]"),
        lambda folder: (folder / "00000000.json").write_bytes(b"\xff" * 50),
        lambda folder: np.load(folder / "whole.npy", mmap_mode="r+")[1, 2].fill(99),
    ],
)
def test_damaged_chunks_are_made_again(tmp_path, made, damage):
    (folder,) = tmp_path.glob("*.parts")
    damage(folder)
    store = image_store(tmp_path / "s.npy", partial(logged, made), 9, 8, workers=1).pictures
    assert store[:, 0, 0, 0].tolist() == list(range(9))
    assert store[:, 7, 7, 2].tolist() == list(range(9))
    assert (store[1] == 1).all()


def test_unreadable_images_are_black_and_listed(tmp_path, photo):
    for name in ("a.png", "c.png"):
        photo.save(tmp_path / name)
    (tmp_path / "b.png").write_bytes(b"no image")
    make = partial(read, [tmp_path / name for name in ("a.png", "b.png", "c.png")])
    for _ in range(2):
        store, unreadable = image_store(tmp_path / "s.npy", make, 3, 8, workers=1)
        assert unreadable.keys() == {1}
        assert "b.png" in unreadable[1]
        assert [bool(picture.any()) for picture in store] == [True, False, True]


@on_linux
def test_an_error_that_may_pass_is_not_kept(tmp_path, photo):
    files = [tmp_path / "a.png", tmp_path / "b.png"]
    photo.save(files[0])
    files[1].symlink_to("/proc/self/mem")  # reading it is an input/output error
    store, unreadable = image_store(tmp_path / "s.npy", partial(read, files), 2, 8, workers=1)
    assert "Input/output error" in unreadable[1]
    assert store[0].any()
    assert not store[1].any()
    files[1].unlink()
    photo.save(files[1])
    store, unreadable = image_store(tmp_path / "s.npy", partial(read, files), 2, 8, workers=1)
    assert not unreadable
    assert (store[1] == store[0]).all()


def test_a_store_of_another_shape_is_made_anew(tmp_path):
    for count, size in ((6, 8), (5, 8), (6, 10), (4, 4), (1, 8)):  # the last two have as many bytes
        store = image_store(tmp_path / "s.npy", partial(plain, size=size), count, size, workers=1).pictures
        assert (store == np.arange(count)[:, None, None, None]).all()
        assert store.shape == (count, size, size, 3)


def test_a_store_without_its_description_or_with_an_older_one_is_made_anew(tmp_path):
    made = tmp_path / "made"
    made.mkdir()
    make = partial(logged, made)
    image_store(tmp_path / "s.npy", make, 6, 8, workers=1)
    (tmp_path / "s.json").unlink()
    image_store(tmp_path / "s.npy", make, 6, 8, workers=1)
    (tmp_path / "s.json").write_text(json.dumps({"key": "0123", "unreadable": {}}))
    image_store(tmp_path / "s.npy", make, 6, 8, workers=1)
    assert len(list(made.iterdir())) == 18


def test_a_place_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "s.lock").mkdir()
    with pytest.raises(DwcError, match="cannot be written"):
        image_store(tmp_path / "s.npy", plain, 3, 8, workers=1)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    image_store(folder / "s.npy", plain, 6, 8, workers=1)
    return {
        path.name: (path.read_bytes(), path.stat()) for path in folder.glob("s.*") if path.suffix != ".lock"
    }


@settings(max_examples=100, deadline=None)
@given(
    name=st.sampled_from(["s.npy", "s.json"]),
    at=st.floats(0, 1, exclude_max=True),
    junk=st.binary(max_size=4),
    cut=st.booleans(),
    swap=st.booleans(),
)
def test_whatever_the_damage_a_store_gives_the_images_that_were_made(
    tmp_path_factory, finished, name, at, junk, cut, swap
):
    folder = tmp_path_factory.getbasetemp() / "damaged"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for file, (content, state) in finished.items():
        (folder / file).write_bytes(content)
        os.utime(folder / file, ns=(state.st_atime_ns, state.st_mtime_ns))
    whole = finished[name][0]
    place = int(at * (len(whole) if swap else 300))
    (folder / name).write_bytes(whole[:place] + junk + (b"" if cut else whole[place + len(junk) :]))
    store, unreadable = image_store(folder / "s.npy", plain, 6, 8, workers=1)
    assert unreadable == {}
    assert (store == np.arange(6)[:, None, None, None]).all()


def slow(index):
    time.sleep(0.05)
    return plain(index)


def test_a_bar_is_shown_only_when_it_takes_long(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(images, "CHUNK", 1)
    monkeypatch.setattr(images, "PATIENCE", 600)
    image_store(tmp_path / "s.npy", plain, 9, 8, workers=1)
    assert capfd.readouterr().err == ""
    monkeypatch.setattr(images, "PATIENCE", 0.2)
    image_store(tmp_path / "t.npy", slow, 9, 8, workers=1)
    assert "images" in capfd.readouterr().err
