"""What a reader sees who has not solved an exercise yet, or has given a notebook what it cannot use."""

import pytest
from IPython.core.interactiveshell import InteractiveShell

from dwclib.book import exercise
from dwclib.book.exercises import NotYet
from dwclib.errors import ConfigError, check_least

SOURCE = '''
@exercise
def check_double(answer):
    """Check `answer(x)`."""
    found = answer(3.0)
    assert found != 9, "That is the square."
    assert abs(found - 6) < 1e-9
'''  # run as a notebook runs it: pytest would rewrite its assertions
exec(SOURCE, names := {"exercise": exercise})
check_double = names["check_double"]


def test_a_right_answer_passes():
    check_double(lambda x: 2 * x)
    assert check_double.__doc__ == "Check `answer(x)`."


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda x: x**2, "That is the square."),
        (lambda x: x, "The numbers are not the expected ones."),
        (lambda x: None, "Your function returns nothing yet: write its lines in place of the dots."),
        (lambda x: ..., "Your function returns nothing yet: write its lines in place of the dots."),
        (lambda x: (x, ...), "Your function returns nothing yet"),
        (..., "Your answer still has dots: write your own in their place."),
        (([1.0, ...], [..., 2.0]), "Your answer still has dots"),
        ({..., "a"}, "Your answer still has dots"),
        ({"a": (..., ...)}, "Your answer still has dots"),
        (lambda x: "6", "Is it what the exercise asks for?"),
        (None, "Your answer cannot be used"),
        (lambda: 6, "Your answer cannot be used"),
    ],
)
def test_any_other_answer_gets_a_sentence(answer, said):
    with pytest.raises(NotYet, match=r"\S") as told:
        check_double(answer)
    assert said in str(told.value)


@pytest.fixture
def shell():
    made = InteractiveShell()
    made.user_ns |= {"check_double": check_double, "check_least": check_least}
    return made


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("check_double(lambda x: x**2)", "Not yet. That is the square."),
        (
            "check_least(1, epochs=0)",
            "parameters: epochs = 0 is no whole number of 1 or more. Use 1 or more.",
        ),
    ],
)
def test_a_notebook_shows_one_line_and_no_traceback(shell, capsys, code, said):
    assert not shell.run_cell(code).success
    assert capsys.readouterr().out.strip() == said


@pytest.mark.parametrize("value", [0, -1, True, "a", None, float("nan"), float("inf"), 1.5])
def test_what_is_no_whole_number_from_one_on_is_told(value):
    with pytest.raises(ConfigError, match="epochs = "):
        check_least(1, epochs=value)


def test_a_number_that_may_have_digits_may_be_whole():
    check_least(0.0, learning_rate=1)
    check_least(0.0, learning_rate=0.001)
