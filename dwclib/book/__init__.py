"""The book as a program: execute, stage, check, pages, figures, and one voice for what was found."""

from dwclib import lazy

__getattr__, __dir__ = lazy(
    __name__,
    dials="dial_data in_one_row",
    exercises="exercise",
    voice="claimed finding in_words leaderboard number say",
)
