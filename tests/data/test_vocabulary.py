"""Words and their numbers."""

import pytest

from dwclib.data.vocabulary import Vocabulary, words_of
from dwclib.errors import DatasetError

TEXTS = ["is red and longer", "has a red belt", "Is RED, isn't it?"]


def test_frequent_words_come_first_and_ties_in_order_of_the_alphabet() -> None:
    vocabulary = Vocabulary.from_texts(TEXTS)
    assert vocabulary.words[:4] == ("<pad>", "<unk>", "red", "is")
    assert list(vocabulary.words[4:]) == sorted(vocabulary.words[4:])


def test_rare_words_are_left_out_on_request() -> None:
    assert Vocabulary.from_texts(TEXTS, at_least=2).words == ("<pad>", "<unk>", "red", "is")


def test_texts_become_padded_numbers_and_unknown_words_one() -> None:
    vocabulary = Vocabulary.from_texts(TEXTS)
    tokens = vocabulary.encode(["red", "is purple red"])
    red, is_ = vocabulary.words.index("red"), vocabulary.words.index("is")
    assert tokens.tolist() == [[red, 0, 0], [is_, 1, red]]


def test_marks_apostrophes_and_case() -> None:
    assert words_of("<BOS> Isn't it RED, v-neck <AND> 2 belts") == [
        "<bos>", "isn't", "it", "red", "v", "neck", "<and>", "2", "belts",
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["purple garment", "?!"])
def test_a_text_of_no_known_word_is_refused_by_name(text: str) -> None:
    with pytest.raises(DatasetError, match="no word of the text") as error:
        Vocabulary.from_texts(TEXTS).encode(["red", text], strict=True)
    assert text in str(error.value)


@pytest.mark.parametrize("words", [["a", "b"], ["<pad>", "<unk>", "a", "a"]])
def test_a_list_that_is_no_vocabulary_is_refused(words: list[str]) -> None:
    with pytest.raises(DatasetError, match="from_texts"):
        Vocabulary(words)
