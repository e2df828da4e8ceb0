"""Exercises: an answer that is not right yet gets a sentence, and no traceback."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any


class NotYet(AssertionError):
    """An answer that its check does not accept."""

    def _render_traceback_(self) -> list[str]:
        """Tell IPython what to show."""
        return [f"Not yet. {self}"]


def exercise(check: Callable[[Any], None]) -> Callable[[Any], None]:
    """Make of a check's assertions, and of whatever else an answer stops in, one sentence.

    Parameters
    ----------
    check : takes an answer, and asserts what a right one fulfils.

    Returns
    -------
    The check, which raises `NotYet` and nothing else.
    """

    @wraps(check)
    def told(answer: Any) -> None:
        if _has_dots(answer):
            raise NotYet("Your answer still has dots: write your own in their place.")
        try:
            check(_watched(answer) if callable(answer) else answer)
        except AssertionError as error:
            raise NotYet(str(error) or "The numbers are not the expected ones.") from None
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
            raise NotYet(f"Your answer cannot be used ({why}). Is it what the exercise asks for?") from None

    return told


def _watched(answer: Callable[..., Any]) -> Callable[..., Any]:
    """Tell a function that is still the stub from one that is wrong."""

    @wraps(answer)
    def watched(*given: Any, **named: Any) -> Any:
        found = answer(*given, **named)
        if found is None or _has_dots(found):
            raise NotYet("Your function returns nothing yet: write its lines in place of the dots.")
        return found

    return watched


def _has_dots(answer: Any) -> bool:
    """Tell whether a stub's dots stand anywhere in an answer."""
    if isinstance(answer, Mapping):
        return _has_dots(list(answer.values()))
    if isinstance(answer, list | tuple | set):
        return any(map(_has_dots, answer))
    return answer is ...
