import numpy as np
import pytest

from dwclib.data import language
from dwclib.data.garments import ATTRIBUTES, PALETTE, random_garment
from dwclib.data.language import LIGHTNESS, NOT, PREDICATES, VAGUE, full_caption, phrase, vocabulary

CHANGES = [(name, old, new) for name in PREDICATES for old in ATTRIBUTES[name] for new in ATTRIBUTES[name]
           if old != new]  # fmt: skip


@pytest.mark.parametrize("draw", range(4))
def test_a_claim_is_true_of_the_target_and_tells_it_from_the_reference(draw):
    rng = np.random.default_rng(draw)
    for name, old, new in CHANGES:
        text, claim = phrase(name, old, new, rng)
        assert claim.attribute == name
        assert new in claim.beside_reference, text
        assert old not in claim.beside_reference, text
        assert claim.beside_reference <= claim.alone < frozenset(ATTRIBUTES[name]), text


def test_comparatives_say_less_to_those_who_do_not_see_the_reference():
    rng = np.random.default_rng(0)
    said = dict(phrase("length", "medium", "long", rng) for _ in range(200))
    assert said["is longer"].beside_reference == {"long"}
    assert said["is longer"].alone == {"medium", "long"}
    assert said["is long"].alone == {"long"}


def test_lighter_and_darker_follow_the_palette():
    weights = np.array([0.2126, 0.7152, 0.0722])  # relative luminance of linear sRGB
    light = {name: (np.array(rgb) / 255) ** 2.2 @ weights for name, rgb in PALETTE.items()}
    for one in PALETTE:
        for other in PALETTE:
            if LIGHTNESS[one] < LIGHTNESS[other]:
                assert light[one] < light[other], (one, other)


def test_the_vocabulary_is_wide_and_has_synonyms_comparatives_and_negations():
    words = vocabulary()
    assert len(words) >= 150
    assert {"crimson", "scarlet", "longer", "looser", "darker", "not", "no", "without"} <= words
    assert all(len(options) >= 2 for table in PREDICATES.values() for options in table.values())


def test_every_value_of_every_attribute_can_be_said():
    assert set(PREDICATES) == set(ATTRIBUTES) - {"category"}
    for name, table in PREDICATES.items():
        assert set(table) == set(ATTRIBUTES[name])
    for name, table in NOT.items():
        assert set(table) <= set(ATTRIBUTES[name])


def test_no_statement_is_shared_by_two_values():
    for table in PREDICATES.values():
        texts = [text for options in table.values() for text in options]
        assert len(texts) == len(set(texts))


def test_captions_use_only_the_vocabulary():
    rng = np.random.default_rng(0)
    words = vocabulary()
    for _ in range(300):
        garment = random_garment(rng)
        text = full_caption(garment, rng)
        assert set(text.replace(",", "").split()) <= words, text


def test_a_full_caption_names_everything_that_it_keeps():
    rng = np.random.default_rng(0)
    garment = random_garment(rng)
    assert len(full_caption(garment, rng, keep=1.0).split(",")) >= len(PREDICATES)
    assert full_caption(garment, rng, keep=0.0).split()[-1] in language.NOUNS[garment.category]


def test_an_annotator_with_nothing_to_say_is_vague():
    rng = np.random.default_rng(0)
    said = {language.relative_caption([], "dress", rng) for _ in range(300)}
    assert all(text.removeprefix("the dress ").removeprefix("it ") in VAGUE for text in said)
    joined = language.relative_caption(["is red", "has a belt", "is long"], "gown", rng)
    assert joined.endswith("is red, has a belt and is long")
