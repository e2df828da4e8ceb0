"""One YAML file: what it says is used, and what cannot be used is named."""

from __future__ import annotations

import pytest

from dwclib.data.datasets import dials_from
from dwclib.errors import ConfigError
from dwclib.training.config import RECIPES, Config, parse_config, read_config, read_recipe


def test_an_empty_file_gives_the_paper_s_claims(tmp_path) -> None:
    (tmp_path / "run.yml").write_text("")
    config = read_config(tmp_path / "run.yml")
    assert config == Config()
    training = config.training
    assert (training.order, training.teacher_target, training.teacher_mode) == ("alternate", "target", "eval")
    assert (training.detach_labels, training.select_on, training.shared_scaler) == (True, "validation", False)
    assert (config.model.mask_padding, config.data.captions) == (True, "joined")
    assert (training.learning_rate, training.weight_decay, training.batch) == (1e-4, 1e-6, 32)
    assert (training.alpha, training.temperature, training.mutual_scale) == (0.2, 0.07, 10)


def test_values_are_read_and_written_back(tmp_path) -> None:
    (tmp_path / "run.yml").write_text("training: {epochs: 3, learning_rate: 1}\nmodel: {streams: [clip]}\n")
    config = read_config(tmp_path / "run.yml")
    assert (config.training.epochs, config.model.streams) == (3, ["clip"])
    assert parse_config(config.model_dump(), "again") == config


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("training: {epoch: 3}", "training.epoch"),
        ("trainig: {}", "trainig"),
        ("training: {epochs: '3'}", "training.epochs"),
        ("training: {epochs: 2.5}", "training.epochs"),
        ("training: {batch: 1}", "training.batch"),
        ("training: {detach_labels: 'no way'}", "training.detach_labels"),
        ("training: {order: random}", "training.order"),
        ("model: {streams: []}", "model.streams"),
        ("model: {streams: [clip, gru]}", "model.streams.1"),
        ("model: {dim: 100}", "model.dim"),
        ("data: {dataset: imagenet}", "data.dataset"),
        ("[1, 2]", "the file"),
    ],
)
def test_unknown_and_ill_typed_keys_are_refused_by_name(tmp_path, text: str, key: str) -> None:
    (tmp_path / "run.yml").write_text(text)
    with pytest.raises(ConfigError) as error:
        read_config(tmp_path / "run.yml")
    assert key in error.value.problem
    assert error.value.where.endswith("run.yml")


@pytest.mark.parametrize("text", ["a: [", None])
def test_no_yaml_and_no_file_are_told(tmp_path, text: str | None) -> None:
    if text:
        (tmp_path / "run.yml").write_text(text)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_config(tmp_path / "run.yml")


@pytest.mark.parametrize("name", [path.stem for path in RECIPES.glob("*.yml")])
def test_every_recipe_is_read(name):
    assert read_recipe(name).training.batch >= 2


def test_an_unknown_recipe_names_the_known_ones():
    with pytest.raises(ConfigError, match=r"no recipe 'synth'.*synthfashion-laptop"):
        read_recipe("synth")


def test_a_changed_copy_keeps_the_rest_and_is_checked():
    recipe = read_recipe("synthfashion-smoke")
    changed = recipe.but(training={"mutual_weight": 0.0}, model={"streams": ["clip"]})
    assert (changed.training.mutual_weight, changed.model.streams) == (0.0, ["clip"])
    assert (changed.training.batch, changed.data) == (recipe.training.batch, recipe.data)
    assert recipe.training.mutual_weight == 1.0
    with pytest.raises(ConfigError, match=r"training\.epoch"):
        recipe.but(training={"epoch": 3})


def test_dials_are_checked_when_they_are_declared():
    recipe = read_recipe("synthfashion-smoke")
    noisy = recipe.but(data={"train_dials": {"noise": 0.3, "changes": [1, 2]}})
    assert dials_from(noisy.data.train_dials).changes == (1, 2)
    for dials, name in (({"nois": 0.3}, "nois"), ({"noise": 3.0}, "noise"), ({"noise_kind": "loud"}, "loud")):
        with pytest.raises(ConfigError, match=name):
            recipe.but(data={"train_dials": dials})


@pytest.mark.parametrize("weight", [1.5, -0.1, "matrix"])
def test_a_modality_weight_is_a_share_or_a_known_word(weight):
    with pytest.raises(ConfigError, match="modality_weight"):
        read_recipe("synthfashion-smoke").but(model={"modality_weight": weight})
    assert read_recipe("synthfashion-smoke").but(model={"modality_weight": 0.5}).model.modality_weight == 0.5
