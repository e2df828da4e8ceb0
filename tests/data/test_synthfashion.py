import dataclasses
import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dwclib.data import language
from dwclib.data.garments import ATTRIBUTES
from dwclib.data.synthfashion import NAMES, NOISE_KINDS, WORDINGS, Claims, Dials, degraded, synthfashion
from dwclib.errors import ConfigError

SMALL = {"images": 160, "queries": 120, "workers": 1}


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DWC_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def digest(dataset):
    content = hashlib.sha256(np.ascontiguousarray(dataset.pictures).tobytes())
    content.update(dataset.references.tobytes() + dataset.targets.tobytes())
    content.update(json.dumps(dataset.captions).encode())
    return content.hexdigest()


GOLDEN = "0aee5cc98cd31ce85bb17b6d2a883778ca436be58f9dc936d56f28b69b075f88"


def test_same_seed_same_bytes_in_any_process():
    code = (
        "from test_synthfashion import digest, SMALL, synthfashion\n"
        "if __name__ == '__main__': print(digest(synthfashion('val', **{**SMALL, 'workers': 2})))"
    )
    here = Path(__file__).parent
    elsewhere = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=here
    )
    assert digest(synthfashion("val", **SMALL)) == elsewhere.stdout.strip() == GOLDEN


def test_another_seed_or_split_is_another_world():
    one, two, train = (
        synthfashion("val", **SMALL), synthfashion("val", seed=1, **SMALL), synthfashion("train", **SMALL),
    )  # fmt: skip
    assert digest(one) != digest(two)
    assert digest(one) != digest(train)


def test_the_defaults_are_those_of_the_card():
    val = synthfashion("val")
    assert (len(val.image_ids), len(val), val.pictures.shape) == (2000, 2000, (2000, 64, 64, 3))
    assert len(ATTRIBUTES) >= 9


@settings(max_examples=8, deadline=None)
@given(fewest=st.integers(1, 4), extra=st.integers(0, 3), seed=st.integers(0, 99))
def test_targets_differ_in_as_many_attributes_as_the_dial_says(fewest, extra, seed):
    dials = Dials(changes=(fewest, fewest + extra))
    world = synthfashion("val", images=48, queries=10, seed=seed, dials=dials, workers=1, size=8)
    changed = (world.codes[world.references] != world.codes[world.targets]).sum(-1)
    assert changed.min() >= fewest
    assert changed.max() <= fewest + extra
    assert (world.codes[world.references, 0] == world.codes[world.targets, 0]).all()


def test_a_query_is_true_of_its_target_and_of_every_relevant_image():
    world = synthfashion("val", **SMALL)
    relevant = world.relevant()
    place = world.gallery_position(world.targets)
    assert relevant[np.arange(len(world)), place].all()
    for query in range(len(world)):
        for image in np.flatnonzero(relevant[query]):
            allowed = world.beside_reference[query, np.arange(len(NAMES)), world.codes[image]]
            assert allowed.all()
    assert relevant.sum(-1).mean() < 0.25 * len(world.gallery)


def test_excluded_is_what_the_annotators_meaning_leaves_no_room_for():
    world = synthfashion("val", dials=Dials(text_detail=(0.0, 0.6)), **SMALL)
    excluded = world.excluded()
    for query in range(0, len(world), 7):
        for place, image in enumerate(world.gallery):
            values = enumerate(world.codes[image])
            fits = all(world.beside_reference[query, attribute, value] for attribute, value in values)
            assert excluded[query, place] == (not fits)
    vague = world.beside_reference.all((1, 2))
    assert vague.any()
    assert not excluded[vague].any()
    assert excluded[~vague, world.gallery_position(world.references)[~vague]].all()
    assert not (excluded & world.relevant()).any()


def test_duplicates_of_the_target_are_relevant():
    world = synthfashion("val", dials=Dials(duplicates=0.4), **SMALL)
    same = world.identities[world.targets][:, None] == world.identities[world.gallery]
    assert same.sum(-1).max() > 1
    assert (world.relevant() | ~same).all()


def test_the_more_the_text_says_the_larger_its_share():
    shares = [
        synthfashion("val", dials=Dials(text_detail=(d, d)), **SMALL).text_share().mean()
        for d in (0.0, 0.5, 1.0)
    ]
    assert shares[0] == 0
    assert shares[0] < shares[1] < shares[2] <= 1


def test_the_share_grows_with_the_attributes_that_are_named():
    world = synthfashion("val", **SMALL)
    named = (~world.alone.all(-1)).sum(-1)
    assert stats.spearmanr(named, world.text_share()).statistic > 0.8


@pytest.mark.parametrize("kind", ["vague", "wrong attribute", "mismatched target"])
def test_noise_comes_at_its_rate_and_of_its_kind(kind):
    world = synthfashion("train", dials=Dials(noise=0.5, noise_kind=kind), **SMALL)
    assert 0.35 < world.noisy.mean() < 0.65
    satisfied = world.alone[
        np.arange(len(world))[:, None], np.arange(len(NAMES)), world.codes[world.targets]
    ].all(-1)
    moved = world.targets != world.intended
    assert satisfied[~world.noisy].all()
    assert not moved[~world.noisy].any()
    if kind == "vague":
        assert world.alone[world.noisy].all()
    elif kind == "wrong attribute":
        assert not satisfied[world.noisy].any()
    else:
        assert moved[world.noisy].mean() > 0.9
        assert (world.targets != world.references).all()


def test_without_noise_nothing_is_wrong():
    world = synthfashion("train", **SMALL)
    assert not world.noisy.any()
    assert (world.targets == world.intended).all()


def test_occlusion_and_blur_come_at_their_rates():
    world = synthfashion("val", dials=Dials(occlusion=1.0, blur=0.0), **SMALL)
    assert all(scene.occlusion > 0 and scene.blur == 0 for scene in world.scenes)
    clear = synthfashion("val", dials=Dials(occlusion=0.0, blur=1.0), **SMALL)
    assert all(scene.occlusion == 0 and scene.blur > 0 for scene in clear.scenes)


def test_a_photo_can_be_taken_again_with_more_in_the_way():
    world = synthfashion("val", dials=Dials(occlusion=0.0, blur=0.0), **SMALL)
    images = np.arange(5)
    assert (degraded(world, images) == world.pictures[images]).all()
    hidden = degraded(world, images, occlusion=0.5)
    assert (hidden != world.pictures[images]).any(axis=(1, 2, 3)).all()


def test_a_seed_is_a_natural_number():
    with pytest.raises(ConfigError, match="seed -1 is no natural number"):
        synthfashion("val", seed=-1, **SMALL)


@pytest.mark.parametrize(
    "dial",
    [{"occlusion": 1.2}, {"noise": -0.1}, {"text_detail": (0.5, 2.0)}, {"changes": (0, 3)},
     {"changes": (4, 2)}, {"noise_kind": "typos"}],
)  # fmt: skip
def test_a_dial_out_of_range_is_refused(dial):
    with pytest.raises(ConfigError, match=next(iter(dial))):
        Dials(**dial)


KINDS = [Dials(), *(Dials(noise=0.5, noise_kind=kind) for kind in NOISE_KINDS)]


def _claims_of(captions: tuple[str, ...], said: Claims):
    """Read captions phrase by phrase: what each claims, found by its words alone."""
    found = []
    for caption, own in zip(captions, said, strict=True):
        first, _, last = caption.rpartition(" and ")
        phrases = [*first.split(", "), last] if first else [last]
        phrases[0] = re.sub(r"^(it|the \w+) ", "", phrases[0])
        if not own:
            assert phrases[0] in language.VAGUE
            phrases = []
        known = {text: claim for claim in own for text in claim.wordings}
        found.append(tuple(known[text] for text in phrases))
    return tuple(found)


@pytest.mark.parametrize("dials", KINDS, ids=lambda dials: dials.noise_kind if dials.noise else "clean")
def test_paraphrases_say_the_same_in_other_words(dials):
    world = synthfashion("val", images=400, queries=500, size=8, workers=1, dials=dials)
    others = world.paraphrases(6)
    for query, said in enumerate(world.said):
        wordings = [one.captions[query] for one in (world, *others)]
        assert len(set(wordings)) == 7
        assert all(_claims_of(captions, said) == said for captions in wordings)
    for one in others:
        for name in ("beside_reference", "alone", "targets", "references", "noisy"):
            assert (getattr(one, name) == getattr(world, name)).all()
        assert (one.relevant() == world.relevant()).all()
        assert not set(" ".join(one.texts()).replace(",", "").split()) - language.vocabulary()


def test_the_claims_that_are_kept_are_the_ones_behind_the_tables():
    world = synthfashion("val", images=400, queries=500, size=8, workers=1)
    for query, said in enumerate(world.said):
        for attribute, name in enumerate(NAMES):
            own = [claim for claims in said for claim in claims if claim.attribute == name]
            for position, value in enumerate(ATTRIBUTES[name]):
                for table, field in ((world.beside_reference, "beside_reference"), (world.alone, "alone")):
                    left = all(value in getattr(claim, field) for claim in own)
                    assert table[query, attribute, position] == left


def test_paraphrases_are_the_same_each_time_and_change_nothing_else():
    world = synthfashion("val", **SMALL)
    before = digest(world)
    few, more, other = world.paraphrases(2), world.paraphrases(4), world.paraphrases(2, seed=1)
    assert [one.captions for one in few] == [one.captions for one in more[:2]]
    assert few[0].captions != other[0].captions
    assert digest(world) == before


def test_a_query_of_the_fewest_words_has_as_many_wordings_as_can_be_asked_for():
    world = synthfashion("val", **SMALL)
    said_somewhere = {claim for claims in world.said for own in claims for claim in own}
    (denial,) = (claim for claim in said_somewhere if claim.wordings == ("has no buttons",))
    query = np.flatnonzero(world.codes[world.intended, 0] == ATTRIBUTES["category"].index("top"))[0]
    said, captions = list(world.said), list(world.captions)
    said[query], captions[query] = ((denial,), (denial,)), ("has no buttons", "has no buttons")
    terse = dataclasses.replace(world, said=tuple(said), captions=tuple(captions))
    wordings = {one.captions[query] for one in terse.paraphrases(WORDINGS)}
    assert len(wordings - {captions[query]}) == WORDINGS


@pytest.mark.parametrize("n", [0, WORDINGS + 1])
def test_as_many_paraphrases_as_there_are_not_are_refused(n):
    with pytest.raises(ConfigError, match="n = "):
        synthfashion("val", **SMALL).paraphrases(n)


def test_an_unknown_split_and_too_many_queries_are_refused():
    with pytest.raises(ConfigError, match="no split 'test'"):
        synthfashion("test")
    with pytest.raises(ConfigError, match="fewer queries"):
        synthfashion("val", images=16, queries=10_000)


def test_a_text_can_give_the_target_away():
    dataset = synthfashion("val", images=80, queries=40)
    given = dataset.texts(style="with target")
    for plain, text, image in zip(dataset.texts(), given, dataset.targets, strict=True):
        assert text.startswith(f"{plain} and get a ")
        assert any(noun in text for noun in language.NOUNS[dataset.garment(image).category])
    assert given == dataset.texts(style="with target")
    assert dataset.texts(style="marked")[0].startswith("<BOS>")


@pytest.mark.parametrize("wrong", [{"images": 0}, {"images": -1}, {"queries": -1}])
def test_a_size_that_is_no_number_of_things_is_told(wrong):
    with pytest.raises(ConfigError, match="whole number"):
        synthfashion("val", **wrong)
