import hashlib
import subprocess
import sys
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dwclib.data.drawing import render
from dwclib.data.garments import (
    ATTRIBUTES,
    BACKDROPS,
    OCCLUDERS,
    PALETTE,
    Garment,
    Scene,
    random_garment,
    random_scene,
)
from dwclib.errors import DatasetError

BASES = (
    Garment("dress", "blue", "plain", "white", "short", "round", "medium", "regular", "no belt", "none",
            "no pocket", "straight"),
    Garment("shirt", "yellow", "plain", "red", "long", "collar", "long", "loose", "no belt", "none",
            "no pocket", "straight"),
    Garment("top", "green", "plain", "pink", "elbow", "square", "long", "slim", "no belt", "none",
            "no pocket", "straight"),
)  # fmt: skip
CASES = [
    (base, attribute, one, other)
    for base in BASES
    for attribute, values in ATTRIBUTES.items()
    for one, other in combinations(values, 2)
]


def with_value(base, attribute, value):
    """Change one attribute; make room for it where colour and accent would be the same."""
    changes = {attribute: value}
    if attribute in ("colour", "accent"):
        partner = "accent" if attribute == "colour" else "colour"
        changes[partner] = "grey" if value != "grey" else "orange"
    if attribute == "accent":
        changes["pattern"] = "dots"
    return replace(base, **changes)


def changed_pixels(one, other, size=64):
    a, b = (render(garment, size).astype(int) for garment in (one, other))
    return int((abs(a - b).max(-1) > 24).sum())


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_every_difference_can_be_seen_at_64_pixels(attribute):
    for base, name, one, other in CASES:
        if name == attribute:
            seen = changed_pixels(with_value(base, name, one), with_value(base, name, other))
            assert seen >= 12, (base.category, one, other, seen)


@pytest.mark.parametrize("background", BACKDROPS)
@pytest.mark.parametrize("colour", PALETTE)
def test_a_garment_stands_out_from_every_backdrop(colour, background):
    accent = "grey" if colour != "grey" else "orange"
    plain = replace(BASES[0], colour=colour, accent=accent)
    photo = render(plain, 64, Scene(background=background)).astype(int)
    inside, outside = photo[26, 22:42], photo[26, 2:10].mean(0)
    edge = abs(photo[26, 8:32] - outside).sum(-1).max()  # the outline, or the cloth itself
    assert edge > 50
    assert inside.shape == (20, 3)


def test_small_and_large_pictures_show_the_same():
    rng = np.random.default_rng(0)
    for _ in range(10):
        garment = random_garment(rng)
        small = render(garment, 64).astype(float)
        large = render(garment, 256).astype(float).reshape(64, 4, 64, 4, 3).mean((1, 3))
        assert abs(small - large).mean() < 6


def digest():
    rng = np.random.default_rng(7)
    content = hashlib.sha256()
    for _ in range(20):
        content.update(render(random_garment(rng), 64, random_scene(rng, occlusion_rate=0.3, blur_rate=0.3)))
    return content.hexdigest()


def test_the_same_arguments_give_the_same_bytes_in_another_process():
    code = "from test_garments import digest; print(digest())"
    here = Path(__file__).parent
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=here)
    assert found.stdout.strip() == digest()


@pytest.mark.parametrize("size", [16, 64, 100, 256])
def test_a_picture_has_the_size_that_was_asked_for(size):
    picture = render(BASES[0], size)
    assert picture.shape == (size, size, 3)
    assert picture.dtype == np.uint8


@given(st.integers(0, 10_000))
def test_codes_and_names_say_the_same(seed):
    garment = random_garment(np.random.default_rng(seed))
    assert Garment.from_codes(garment.codes) == garment
    assert garment.colour != garment.accent


@pytest.mark.parametrize("change", [{"sleeve": "huge"}, {"colour": "octarine"}, {"accent": "blue"}])
def test_an_impossible_garment_is_refused(change):
    with pytest.raises(DatasetError, match="garment"):
        replace(BASES[0], **change)


@pytest.mark.parametrize("occluder", OCCLUDERS)
@pytest.mark.parametrize("share", [0.2, 0.4, 0.6])
def test_an_occluder_hides_the_share_that_was_asked_for(occluder, share):
    for base in BASES:
        clean = render(base, 256).astype(int)
        bare = render(replace(base, colour="black" if base.colour != "black" else "red"), 256).astype(int)
        cloth = abs(clean - bare).max(-1) > 40  # where the garment's colour decides
        hidden = render(base, 256, Scene(occlusion=share, occluder=occluder)).astype(int)
        covered = (abs(hidden - clean).max(-1) > 12) & cloth
        assert covered.sum() / cloth.sum() == pytest.approx(share, abs=0.12)


def test_every_nuisance_changes_the_photo():
    clean = render(BASES[0])
    for nuisance in (
        {"background": "dusk"}, {"x": 0.04}, {"y": 0.04}, {"scale": 0.9}, {"rotation": 6.0}, {"light": 0.8},
        {"warmth": 1.0}, {"slope": 0.3}, {"noise": 5.0}, {"occlusion": 0.4}, {"blur": 0.03},
    ):  # fmt: skip
        assert (render(BASES[0], 64, Scene(**nuisance)) != clean).mean() > 0.05, nuisance


def test_noise_has_its_standard_deviation_and_its_seed():
    clean = render(BASES[0], 128, Scene(light=0.8)).astype(float)
    noisy = render(BASES[0], 128, Scene(light=0.8, noise=5.0)).astype(float)
    assert (noisy - clean).std() == pytest.approx(5.0, abs=0.4)
    assert abs((noisy - clean).mean()) < 0.2
    other = render(BASES[0], 128, Scene(light=0.8, noise=5.0, seed=1))
    assert (other != noisy).any()


def test_scenes_follow_their_rates():
    rng = np.random.default_rng(0)
    scenes = [random_scene(rng, occlusion_rate=0.3, blur_rate=0.6) for _ in range(500)]
    assert np.mean([scene.occlusion > 0 for scene in scenes]) == pytest.approx(0.3, abs=0.08)
    assert np.mean([scene.blur > 0 for scene in scenes]) == pytest.approx(0.6, abs=0.08)
    assert {scene.background for scene in scenes} == set(BACKDROPS)


@pytest.mark.parametrize("field", [{"background": "moon"}, {"occluder": "cat"}, {"occlusion": 1.5}])
def test_an_impossible_scene_is_refused(field):
    with pytest.raises(DatasetError, match=f"scene: .*{next(iter(field))}"):
        Scene(**field)
