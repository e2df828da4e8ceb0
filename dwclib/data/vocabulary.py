"""Words and their numbers, for an encoder that learns its words from the training texts (notebook 07)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from dwclib.errors import DatasetError

PADDING, UNKNOWN = "<pad>", "<unk>"

# Of scripts without blanks (Thai to Burmese, Khmer, Chinese, Japanese, Yi), a character is a word; in
# the others, accents, points and vowel signs are part of one.
UNSPACED = (
    r"\u0e01-\u109f\u1780-\u17ff\u2e80-\u2fdf\u3005-\u3007\u3040-\ua4cf\uf900-\ufaff\uff66-\uff9f"
    r"\U00020000-\U0003ffff"
)
SIGNS = r"\u0300-\u036f\u0591-\u05c7\u064b-\u0670\u0900-\u0dff"
LETTERS = rf"(?:[^\W_{UNSPACED}]|[{SIGNS}])+"
WORD = re.compile(rf"<\w+>|[{UNSPACED}]|{LETTERS}(?:'{LETTERS})?")


class Vocabulary:
    """A list of words; a word's number is its place. Place 0 pads, place 1 stands for every unknown word.

    Parameters
    ----------
    words : in order, with `PADDING` and `UNKNOWN` first.
    """

    def __init__(self, words: Sequence[str]) -> None:
        if tuple(words[:2]) != (PADDING, UNKNOWN) or len(set(words)) < len(words):
            raise DatasetError(
                f"the words do not begin with {PADDING}, {UNKNOWN}, or one occurs twice",
                where="vocabulary",
                remedy="Build it with Vocabulary.from_texts.",
            )
        self.words = tuple(words)
        self._number = {word: number for number, word in enumerate(self.words)}

    @classmethod
    def from_texts(cls, texts: Iterable[str], *, at_least: int = 1) -> Vocabulary:
        """Collect the words that occur `at_least` so often, the most frequent first."""
        counts = Counter(word for text in texts for word in words_of(text))
        chosen = [word for word, count in counts.items() if count >= at_least]
        return cls((PADDING, UNKNOWN, *sorted(chosen, key=lambda word: (-counts[word], word))))

    def __len__(self) -> int:
        """Return the number of words, padding and unknown included."""
        return len(self.words)

    def encode(
        self, texts: Sequence[str], *, strict: bool = False, one_number: bool = False
    ) -> Int[Tensor, "texts length"]:
        """Return the words' numbers, padded with 0 at the end to the longest text.

        Parameters
        ----------
        texts : one without any word is read as one unknown word.
        strict : refuse a text of which no word is known, as what a person asks for.
        one_number : give unknown words and marks the padding's number (released code).

        Raises
        ------
        DatasetError
            For a text that is refused.
        """
        rows = [[self._number.get(word, 1) for word in words_of(text)] or [1] for text in texts]
        for text, row in zip(texts, rows, strict=True):
            if strict and all(number == 1 for number in row):
                raise DatasetError(
                    f"no word of the text {text!r} is known",
                    where="vocabulary",
                    remedy="Say it in words of the training texts, or train with texts like it.",
                )
        tokens = torch.zeros(len(rows), max(map(len, rows), default=0), dtype=torch.long)
        for row, numbers in zip(tokens, rows, strict=True):
            row[: len(numbers)] = torch.tensor(numbers)
        if one_number:
            shared = [number for number, word in enumerate(self.words) if word.startswith("<")]
            tokens[torch.isin(tokens, torch.tensor(shared))] = 0
        return tokens


def without_padding(texts: Shaped[Tensor, "batch ..."]) -> Shaped[Tensor, "batch ..."]:
    """Return word numbers without the columns that only pad, but with one column at least.

    Texts that are no word numbers, as CLIP's features, are returned as they are.
    """
    if texts.is_floating_point():
        return texts
    used = texts.any(dim=0).nonzero()
    return texts[:, : int(used.max()) + 1 if len(used) else 1]


def words_of(text: str) -> list[str]:
    """Split a text into lower-case words and numbers; a mark in angle brackets such as <AND> is a word."""
    return WORD.findall(text.lower())
