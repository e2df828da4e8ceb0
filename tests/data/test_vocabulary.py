"""Words and their numbers."""

import pytest
import torch

from dwclib.data.vocabulary import Vocabulary, without_padding, words_of
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


@pytest.mark.parametrize("text", ["purple garment", "红色的", "😀", "?!", ""])
def test_in_a_dataset_words_that_are_not_known_become_the_unknown_word(text: str) -> None:
    tokens = Vocabulary.from_texts(TEXTS).encode(["is red", text, "is"])
    assert set(tokens[1].tolist()) - {0} == {1}
    assert tokens[1, 0] == 1  # nothing is read as padding alone


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("红色的 dress短裙。", ["红", "色", "的", "dress", "短", "裙"]),
        ("赤いドレス、長い", ["赤", "い", "ド", "レ", "ス", "長", "い"]),
        ("แดง red", ["แ", "ด", "ง", "red"]),
        ("𠮷x", ["𠮷", "x"]),
        ("한국어 드레스", ["한국어", "드레스"]),
        ("हिन्दी साड़ी", ["हिन्दी", "साड़ी"]),
        ("اَلْفُسْتَان أحمر", ["اَلْفُسْتَان", "أحمر"]),
        ("это красное", ["это", "красное"]),
        ("cafe\u0301 größer", ["cafe\u0301", "größer"]),
        ("<BOS> 红 <AND> x", ["<bos>", "红", "<and>", "x"]),
    ],
)
def test_a_script_without_blanks_is_split_by_character(text: str, words: list[str]) -> None:
    assert words_of(text) == words


@pytest.mark.parametrize("words", [["a", "b"], ["<pad>", "<unk>", "a", "a"]])
def test_a_list_that_is_no_vocabulary_is_refused(words: list[str]) -> None:
    with pytest.raises(DatasetError, match="from_texts"):
        Vocabulary(words)


def test_the_released_code_has_one_number_for_padding_unknown_words_and_marks() -> None:
    words = Vocabulary.from_texts(["<BOS> red <AND> long <EOS>"])
    text = ["<BOS> red <AND> shiny <EOS>", "long"]
    own, shared = words.encode(text), words.encode(text, one_number=True)
    assert (own[0] > 0).all()
    assert (shared > 0).tolist() == [[False, True, False, False, False], [True, *4 * [False]]]


def test_texts_are_padded_to_the_longest_of_a_batch() -> None:
    tokens = torch.tensor([[3, 0, 2, 0, 0], [4, 0, 0, 0, 0]])
    assert without_padding(tokens).tolist() == [[3, 0, 2], [4, 0, 0]]
    assert without_padding(torch.zeros(2, 5, dtype=torch.long)).shape == (2, 1)
    features = torch.zeros(2, 5)
    assert without_padding(features) is features
