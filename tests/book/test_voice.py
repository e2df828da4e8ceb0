"""One voice for findings: the words follow from the interval, and what is said is shown as Markdown."""

from __future__ import annotations

import pytest

from dwclib.book import claimed, finding, in_words, leaderboard, number, say
from dwclib.experiments import Comparison, Gain, Interval, quantity, verdict_of
from dwclib.experiments.leaderboard import Standing

ABOVE, BELOW, BETWEEN = Interval(2.0, 1.0, 3.0), Interval(-2.0, -3.0, -1.0), Interval(0.5, -1.0, 2.0)


@pytest.mark.parametrize(
    ("found", "expected"),
    [((ABOVE,), "better"), ((BELOW,), "worse"), ((BETWEEN,), "no detectable difference"),
     ((Interval(1.0, 0.0, 2.0),), "no detectable difference"), ((Gain(ABOVE, 0.01),), "better"),
     ((Gain(ABOVE, 0.05),), "no detectable difference"),
     ((Comparison(BELOW, 0.2, "cannot tell"),), "no detectable difference"),
     ((ABOVE, Gain(ABOVE, 0.01)), "better"), ((BELOW, BELOW), "worse"),
     ((ABOVE, BELOW), "no detectable difference"), ((ABOVE, BETWEEN), "no detectable difference")],
)  # fmt: skip
def test_the_words_follow_from_interval_and_p_value(found, expected):
    assert in_words(*found) == expected


@pytest.mark.parametrize(("found", "word"), [(ABOVE, "wider"), (BELOW, "narrower"), (BETWEEN, "alike")])
def test_the_words_are_the_writers(found, word):
    assert in_words(found, more="wider", less="narrower", same="alike") == word
    said = finding(
        "the gap changes by", found, "", digits="+.2f", more="wider", less="narrower", same="alike"
    )
    assert said == f"the gap changes by {found:+.2f}: **{word}**."


@pytest.mark.parametrize("found", [ABOVE, Gain(ABOVE, 0.01), Comparison(ABOVE, 0.01, "supported")])
def test_a_finding_is_a_sentence_with_number_unit_and_word(found):
    assert finding("Soft labels: R@10", found) == "Soft labels: R@10 2.0 [1.0, 3.0] points: **better**."


def test_an_interval_is_written_as_finely_as_asked():
    assert f"{Interval(0.126, -0.004, 0.3):+.2f}" == "+0.13 [0.00, +0.30]"
    assert f"{ABOVE}" == str(ABOVE) == "2.0 [1.0, 3.0]"


def test_an_interval_that_leaves_zero_out_is_not_written_as_if_it_touched_it():
    assert str(Interval(0.2, 0.03, 0.4)) == "0.20 [0.03, 0.40]"
    assert f"{Interval(-0.003, -0.005, -0.0003):+.3f}" == "-0.0030 [-0.0050, -0.0003]"
    assert str(Interval(5.0, 1e-9, 9.0)) == "5.0 [0.0, 9.0]"
    assert str(Interval(0.0, 0.0, 0.0)) == "0.0 [0.0, 0.0]"


def test_one_sentence_is_a_paragraph_and_several_are_a_list(monkeypatch):
    shown = []
    monkeypatch.setattr("dwclib.book.voice.display", shown.append)
    say("All is well.")
    say("first", "second")
    assert [output.data for output in shown] == ["All is well.", "- first\n- second"]


def test_a_number_is_the_registrys_and_says_whose_it_is():
    found = quantity("CLIP stream", "R@10")
    assert number("CLIP stream", "R@10") == f'<span data-quantity="CLIP stream, R@10">{found}</span>'


def test_a_leaderboard_marks_each_number_and_says_who_is_ahead():
    board = {
        "sum": Standing(10, {"R@10": BETWEEN}, None),
        "CLIP stream": Standing(10, {"R@10": ABOVE}, Comparison(ABOVE, 0.0001, "supported")),
        "TIRG": Standing(10, {"R@10": BELOW}, Comparison(BELOW, 0.2, "cannot tell")),
    }
    shown = leaderboard(board).data
    for name, row in board.items():
        assert f'<td><span data-quantity="{name}, R@10">{row.measures["R@10"]}</span></td>' in shown
    assert "<td>+2.0 [+1.0, +3.0]</td>\n      <td>ahead, p &lt; 0.001</td>" in shown
    assert "<td>-2.0 [-3.0, -1.0]</td>\n      <td>no detectable difference, p = 0.200</td>" in shown


def test_a_claimed_verdict_is_that_of_the_claims_page():
    part = verdict_of("mutual enhancement, both")
    said = claimed("mutual enhancement, both")
    assert said.startswith(f"verdict: **{part.verdict}**, {part.found.interval} points of R@10, p")
    assert said.endswith(f"of the {part.tests} tests on the [claims page](../book/claims.md)")
    assert claimed("reported recalls").startswith("verdict: **not testable here**, on the [claims page]")
