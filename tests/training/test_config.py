"""One YAML file: what it says is used, and what cannot be used is named."""

from __future__ import annotations

import json

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import JSON, places

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
        ("training: {seed: 4294967296}", "training.seed"),
        ("training: {learning_rate: .inf}", "training.learning_rate"),
        ("training: {workers: 100000}", "training.workers"),
        ("model: {dim: 8000000000}", "model.dim"),
        ("data: {dials: {noise: [1, 2]}}", "data.dials"),
        ("data: {dials: {noise: much}}", "data.dials"),
        ("1: 2", "1"),
    ],
)
def test_unknown_and_ill_typed_keys_are_refused_by_name(tmp_path, text: str, key: str) -> None:
    (tmp_path / "run.yml").write_text(text)
    with pytest.raises(ConfigError) as error:
        read_config(tmp_path / "run.yml")
    assert key in error.value.problem
    assert error.value.where.endswith("run.yml")


@pytest.mark.parametrize(
    "text", [b"a: [", b"training: {epochs: 3, epochs: 4}", "# Kleidergr\u00f6\u00dfe".encode("latin-1"), None]
)
def test_no_yaml_and_no_file_are_told(tmp_path, text: bytes | None) -> None:
    if text:
        (tmp_path / "run.yml").write_bytes(text)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_config(tmp_path / "run.yml")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_recipe_is_read_as_editors_write_it(tmp_path, encoding: str) -> None:
    text = "# Kleidergr\u00f6\u00dfe\r\ntraining: {learning_rate: 1e-3, seed: 4294967295}\r\n"
    (tmp_path / "run.yml").write_bytes(text.encode(encoding))
    training = read_config(tmp_path / "run.yml").training
    assert (training.learning_rate, training.seed) == (1e-3, 2**32 - 1)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_recipe_is_read_or_refused_in_one_line(tmp_path, data) -> None:
    """One value of a good recipe is replaced, or one stretch of its text."""
    values = read_recipe("synthfashion-smoke").model_dump()
    *way, last = data.draw(st.sampled_from(places(values)))
    inner = values
    for key in way:
        inner = inner[key]
    inner[last] = data.draw(JSON)
    text = yaml.safe_dump(values).encode()
    if data.draw(st.booleans()):
        start = data.draw(st.integers(0, len(text)))
        text = text[:start] + data.draw(st.binary(max_size=6)) + text[start + data.draw(st.integers(0, 6)) :]
    (tmp_path / "run.yml").write_bytes(text)
    try:
        config = read_config(tmp_path / "run.yml")
    except ConfigError as error:
        told = str(error)
        assert (len(told.splitlines()), len(told) < 800) == (1, True)
    else:
        assert parse_config(json.loads(json.dumps(config.model_dump())), "again") == config
        assert config.resolved().choices() == config.resolved().resolved().choices()


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


def test_paths_are_resolved_and_words_are_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("book", "RN50", "openai", "resnet50"):  # no folders of weights, though so named
        (tmp_path / name).mkdir()
    (tmp_path / "cnn.safetensors").touch()
    model = {"clip": "RN50", "clip_weights": "openai", "cnn": "resnet50", "cnn_weights": "cnn.safetensors"}
    config = parse_config({"model": model, "data": {"dataset": "own", "root": "~/own"}}, "test")
    found = config.resolved()
    assert found.data.root == str(tmp_path / "home" / "own")
    assert found.model.cnn_weights == str(tmp_path / "cnn.safetensors")
    assert (found.model.clip, found.model.clip_weights, found.model.cnn) == ("RN50", "openai", "resnet50")
    assert Config().resolved() == Config()
    (tmp_path / "RN50" / "open_clip_config.json").touch()
    (tmp_path / "resnet50" / "config.json").touch()
    (tmp_path / "a=b").touch()
    named = found.but(model={"clip_weights": f"{tmp_path}/a=b"}).resolved().model
    assert (named.clip, named.cnn) == (str(tmp_path / "RN50"), str(tmp_path / "resnet50"))
    assert named.clip_weights == str(tmp_path / "a=b")
    moved = found.but(model={"cnn_weights": "/elsewhere/cnn.safetensors"}, data={"root": "/elsewhere"})
    assert moved.choices() == found.choices()


@pytest.mark.parametrize("name", ["clip", "cnn"])
@pytest.mark.parametrize("streams", [["clip"], ["cnn"], ["clip", "cnn"]])
@pytest.mark.parametrize("named", ["book", "other"])
def test_weights_that_no_stream_reads_are_refused(name: str, streams: list[str], named: str) -> None:
    model = {"streams": streams, name: named, f"{name}_weights": "file"}
    if name in streams and named == "other":
        assert Config().but(model=model)
    else:
        with pytest.raises(ConfigError, match=rf"model\.{name}_weights = 'file' .* Weights need the {name}"):
            Config().but(model=model)
