"""Texts that the small CLIP cannot read, each with what is said of it: on the page, and at the desk."""

import pytest

unreadable = pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "Say what should change"),
        (" , . ", "Say what should change"),
        ("red " * 200, "reads 62 pieces of words, and these are 200"),
        ("is red 👗", "leave out “👗”"),
        ("is sparkly", "never read that word: “sparkly”"),
        ("is sparkly and constructor", "never read these words: “sparkly”, “constructor”"),
        ("<b>is</b>", "never read"),
    ],
    ids=["empty", "signs", "200 words", "emoji", "a word", "two words", "HTML"],
)
