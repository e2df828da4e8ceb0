"""Reproductions: recipes of real datasets, what is reported for them, and what was measured."""

from __future__ import annotations

import json

import pytest
import yaml

from dwclib.__main__ import main
from dwclib.book.pages import reproductions_page
from dwclib.data import census
from dwclib.errors import ConfigError
from dwclib.experiments import reproductions as module
from dwclib.experiments.reproductions import (
    cost_of,
    expected,
    is_trained_by,
    keep,
    measured,
    real_recipes,
    reproductions,
)
from dwclib.training import config
from dwclib.training.config import read_recipe
from dwclib.training.runs import Run


@pytest.fixture
def nothing_yet(tmp_path, monkeypatch):
    """Keep what is measured in an empty folder."""
    monkeypatch.setattr(module, "MEASURED", tmp_path / "measured")
    return tmp_path / "measured"


def test_every_dataset_has_a_recipe_and_a_faster_one():
    names = real_recipes()
    plain = [name for name in names if not name.endswith("-fast")]
    assert {f"{name}-fast" for name in plain} == set(names) - set(plain)
    assert {name.split("-")[0] for name in plain} == {"fashioniq", "shoes", "fashion200k", "css3d", "cirr"}


@pytest.mark.parametrize("name", real_recipes())
def test_a_recipe_has_the_published_widths_and_encoders(name):
    config = read_recipe(name)
    model = config.model
    assert (model.dim, model.cnn, model.cnn_weights) == (1024, "resnet50.tv_in1k", "imagenet")
    if not name.endswith("-fast"):
        training = config.training
        assert (config.model.clip, config.model.clip_weights) == ("RN50", "openai")
        assert (training.epochs, training.batch, training.learning_rate) == (200, 32, 1e-4)
        assert training.flip == (name.split("-")[0] in ("fashioniq", "shoes"))


def test_what_is_expected_is_what_is_reported():
    assert expected("fashioniq-dress") == {10: 32.67, 50: 57.96}
    assert expected("fashioniq-dress-fast") == expected("fashioniq-dress")
    assert expected("shoes") == {1: 18.94, 10: 55.55, 50: 80.19}
    assert expected("cirr") == {}


def test_what_nobody_has_run_is_not_on_the_page(nothing_yet):
    assert measured("shoes") is None
    assert (reproductions()["measured here"] == "").all()
    page = reproductions_page()
    assert f"0 of {len(real_recipes())} recipes" in page
    assert "| --- |" not in page
    assert all(f"`{name.removesuffix('-fast')}`" in page for name in real_recipes())


def test_a_run_of_another_configuration_is_no_result_of_a_recipe(tmp_path, nothing_yet):
    run = Run(read_recipe("synthfashion-smoke").but(model={"streams": ["clip"]}), tmp_path, device="cpu")
    with pytest.raises(ConfigError, match="not trained by the recipe 'shoes'"):
        keep("shoes", run, {})
    assert measured("shoes") is None


def test_the_shell_trains_a_recipe_and_puts_its_recall_on_the_page(
    tmp_path, monkeypatch, capsys, own_cache, nothing_yet
):
    small = read_recipe("synthfashion-smoke").model_dump()
    small |= {"data": {"dataset": "own", "size": 32}, "model": {"streams": ["clip"], "dim": 16}}
    small["training"] |= {"epochs": 1, "batch": 16}
    recipe = tmp_path / "recipes" / "own-small.yml"
    recipe.parent.mkdir()
    recipe.write_text(yaml.safe_dump(small))
    monkeypatch.setattr(config, "RECIPES", recipe.parent)
    monkeypatch.setattr(module, "RECIPES", recipe.parent)
    census.write("own", tmp_path / "own", train=24, val=16)
    own, run, cpu = str(tmp_path / "own"), str(tmp_path / "run"), ["--device", "cpu"]
    assert main(["train", str(recipe), "--data", own, "--out", run, *cpu]) == 0
    assert main(["evaluate", run, "--publish", "own-small", *cpu]) == 0
    kept = json.loads((nothing_yet / "own-small.json").read_text())
    assert str(tmp_path) not in json.dumps(kept)  # no path of one machine
    assert kept["standing"] == "16 of 16 queries"
    recall = kept["recall"]["clip"]
    assert f"R@10 {recall['R@10']:.2f}" in capsys.readouterr().out
    row = reproductions().loc["own-small"]
    assert row["measured here"] == ", ".join(f"{name} {value:.2f}" for name, value in recall.items())
    page = reproductions_page()
    assert "1 of 1 recipes" in page
    assert "| own-small |" in page


def test_a_recipe_is_not_published_by_another_protocol(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["evaluate", str(tmp_path), "--publish", "shoes", "--keep-reference"])
    assert "not allowed with" in capsys.readouterr().err


def test_what_depends_on_the_machine_may_differ_from_the_recipe():
    shoes = read_recipe("shoes")
    here = {"data": {"root": "somewhere", "missing": "drop"}, "model": {"cnn_weights": "resnet.pth"}}
    assert is_trained_by(shoes.but(**here, training={"workers": 1, "seed": 3}), "shoes")


@pytest.mark.parametrize(
    "changes",
    [
        {"training": {"epochs": 20}},
        {"model": {"cnn_weights": None}},
        {"model": {"clip": "ViT-B-16"}},
        {"data": {"options": {"doubled": True}}},
        {"data": {"size": 112}},
    ],
    ids=str,
)
def test_another_method_is_not_the_recipe(changes):
    assert not is_trained_by(read_recipe("shoes").but(**changes), "shoes")


def test_the_cost_grows_with_the_length_of_a_text_and_the_vocabulary():
    short, long = (cost_of("shoes", words=100, length=length) for length in (4, 16))
    assert 0 < short.flop < long.flop
    assert short.weights == long.weights
    assert (
        cost_of("shoes", words=101, length=4).weights - short.weights == read_recipe("shoes").model.word_dim
    )
