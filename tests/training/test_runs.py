"""Runs: stopped by whatever stops a program, they go on as if nothing had happened."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from filelock import FileLock

from dwclib.__main__ import main
from dwclib.data import census
from dwclib.errors import CheckpointError, ConfigError, DwcError, TrainingError
from dwclib.training.checkpoints import checkpoints, load_checkpoint, name_of, save_checkpoint
from dwclib.training.config import Config, parse_config
from dwclib.training.runs import Run, open_run, shared_run
from dwclib.training.splits import hold_out

SMALL = {
    "data": {"train_images": 200, "train_queries": 240, "val_images": 80, "val_queries": 60},
    "model": {"dim": 16, "word_dim": 8},
    "training": {"epochs": 2, "batch": 32, "learning_rate": 1e-3, "checkpoint_every": 3, "log_every": 2,
                 "validation_share": 0.1},
}  # fmt: skip


def _config(**training) -> Config:
    return parse_config({**SMALL, "training": {**SMALL["training"], **training}}, "test")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Run:
    """Train a run that nothing interrupts."""
    return Run(_config(), tmp_path_factory.mktemp("runs") / "whole", device="cpu").train(progress=False)


def _losses(folder: Path) -> pd.DataFrame:
    log = pd.read_csv(folder / "log.csv", float_precision="round_trip")
    return log[["step", "loss_clip", "loss_cnn"]]


def _start(tmp_path: Path, folder: Path, config: Config) -> subprocess.Popen:
    (tmp_path / "run.yml").write_text(yaml.safe_dump(config.model_dump()))
    command = [sys.executable, "-m", "dwclib", "train", str(tmp_path / "run.yml"), "--out", str(folder)]
    return subprocess.Popen(
        [*command, "--device", "cpu"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def _wait_for_a_checkpoint(process: subprocess.Popen, folder: Path) -> None:
    deadline = time.time() + 300
    while not checkpoints(folder):
        assert process.poll() is None, process.communicate()
        assert time.time() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("stop_after", [1, 3, 7, 8, 11])
def test_a_run_stopped_at_any_step_and_resumed_has_the_same_losses(
    whole: Run, tmp_path, stop_after: int
) -> None:
    folder = tmp_path / "run"
    stopped = Run(_config(), folder, device="cpu").train(stop_after=stop_after, progress=False)
    assert not stopped.is_finished
    assert list(stopped.log["step"]) == list(range(1, stop_after + 1))
    resumed = Run(_config(), folder, device="cpu").train(progress=False)
    assert resumed.is_finished
    pd.testing.assert_frame_equal(_losses(folder), _losses(whole.folder), check_exact=True)
    pd.testing.assert_frame_equal(resumed.recalls, whole.recalls, check_exact=True)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name


def test_a_killed_run_goes_on_from_its_last_checkpoint(tmp_path) -> None:
    config = _config(epochs=4, flip=True)
    process = _start(tmp_path, tmp_path / "killed", config)
    _wait_for_a_checkpoint(process, tmp_path / "killed")
    process.kill()
    process.communicate()
    assert not (tmp_path / "killed" / "step-00000028").exists()
    again = _start(tmp_path, tmp_path / "killed", config)
    assert again.wait() == 0, again.communicate()
    assert "both  R@1" in again.communicate()[0]
    uninterrupted = _start(tmp_path, tmp_path / "calm", config)
    assert uninterrupted.wait() == 0
    pd.testing.assert_frame_equal(_losses(tmp_path / "killed"), _losses(tmp_path / "calm"), check_exact=True)


def test_ctrl_c_finishes_the_step_and_saves(tmp_path) -> None:
    folder = tmp_path / "run"
    process = _start(tmp_path, folder, _config(epochs=200))
    _wait_for_a_checkpoint(process, folder)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    step = int(checkpoints(folder)[-1].name.removeprefix("step-"))
    assert f"saved after step {step}" in errors
    assert list(_losses(folder)["step"]) == list(range(1, step + 1))


def test_the_run_leaves_what_a_reader_expects(whole: Run) -> None:
    names = {path.name for path in whole.folder.iterdir()}
    assert {"config.json", "vocabulary.json", "log.csv", "recall.csv", "tensorboard"} <= names
    assert any("tfevents" in path.name for path in (whole.folder / "tensorboard").rglob("*"))
    assert list(whole.recalls["stream"]) == ["clip", "cnn", "both"] * 2
    assert list(whole.recalls["epoch"]) == [1] * 3 + [2] * 3
    assert whole.log["loss_cnn"].iloc[-1] < whole.log["loss_cnn"].iloc[0]


def test_a_finished_run_is_opened_with_its_best_weights(whole: Run) -> None:
    opened = open_run(whole.folder, device="cpu")
    state = load_checkpoint(checkpoints(whole.folder)[-1])
    best = load_checkpoint(whole.folder / name_of(state["position"]["best"]))["model"]
    assert all(torch.equal(opened.model.state_dict()[name], value) for name, value in best.items())
    assert opened.recall() == whole.recall()
    both = whole.recalls[whole.recalls["stream"] == "both"]
    assert state["position"]["score"] == pytest.approx(both["R@10"].max())  # 39 images: no R@50


def test_training_a_finished_run_changes_nothing(whole: Run) -> None:
    before = _losses(whole.folder)
    whole.train(progress=False)
    pd.testing.assert_frame_equal(before, _losses(whole.folder))


def test_scores_add_up(whole: Run) -> None:
    found = whole.recall(ks=(10,))
    assert set(found) == {"clip", "cnn", "both"}
    parts = whole.embedded()
    scores = sum(part.queries @ part.gallery.T for part in parts.values())
    dataset = whole.evaluation.dataset
    scores[torch.arange(len(scores)), torch.from_numpy(dataset.gallery_position(dataset.references))] = -9
    places = torch.from_numpy(dataset.gallery_position(dataset.targets))
    ranks = (scores > scores.gather(1, places[:, None])).sum(1)
    assert found["both"][10] == pytest.approx(100 * float((ranks < 10).double().mean()))


def test_each_image_is_encoded_once_for_an_evaluation(whole: Run) -> None:
    seen = []
    hook = whole.model["cnn"].cnn.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    whole.recall()
    hook.remove()
    dataset = whole.evaluation.dataset
    assert sum(seen) == len(np.union1d(dataset.references, dataset.gallery))


def test_validation_is_held_out_and_shares_no_target(whole: Run) -> None:
    fitted, held_out = whole.training.dataset, whole.validation.dataset
    assert len(fitted) + len(held_out) == SMALL["data"]["train_queries"]
    assert 0 < len(held_out) < 60
    targets = [set(part.identities[part.targets]) for part in (fitted, held_out)]
    assert not targets[0] & targets[1]
    assert set(held_out.gallery) == set(held_out.references) | set(held_out.targets)
    again = hold_out(whole.evaluation.dataset, 0.1, seed=0), hold_out(whole.evaluation.dataset, 0.1, seed=0)
    assert all(np.array_equal(a, b) for a, b in zip(*again, strict=True))


def test_the_checkpoint_can_be_chosen_on_the_evaluation_split_as_released(tmp_path) -> None:
    run = Run(_config(select_on="evaluation", epochs=1), tmp_path / "run", device="cpu").train(progress=False)
    final = run.recalls[run.recalls["stream"] == "both"].iloc[-1]
    assert run.recall()["both"] == {k: final[f"R@{k}"] for k in (1, 10, 50)}


def test_one_stream_trains_alone_and_starts_from_the_same_weights(tmp_path) -> None:
    values = {**SMALL, "model": {**SMALL["model"], "streams": ["cnn"]}}
    alone = Run(parse_config(values, "test"), tmp_path / "cnn", device="cpu")
    both = Run(_config(), tmp_path / "both", device="cpu")
    for name, value in alone.model["cnn"].state_dict().items():
        assert torch.equal(both.model["cnn"].state_dict()[name], value)
    assert list(alone.train(stop_after=2, progress=False).recall()) == ["cnn"]


def test_marked_captions_reach_both_encoders(tmp_path) -> None:
    values = {**SMALL, "data": {**SMALL["data"], "captions": "marked"}}
    run = Run(parse_config(values, "test"), tmp_path / "marked", device="cpu")
    plain = Run(_config(), tmp_path / "plain", device="cpu")
    assert {"<bos>", "<and>", "<eos>"} <= set(run.vocabulary.words)
    assert not {"<bos>", "<and>", "<eos>"} & set(plain.vocabulary.words)
    assert not torch.equal(run.training.inputs["clip"].texts, plain.training.inputs["clip"].texts)


def test_a_loss_that_is_not_finite_stops_early_and_names_step_and_stream(tmp_path) -> None:
    run = Run(_config(), tmp_path / "run", device="cpu").train(stop_after=3, progress=False)
    state = checkpoints(run.folder)[-1]
    diverging = Run(_config(), tmp_path / "run", device="cpu")
    features = diverging.training.inputs["clip"]
    diverging.training = diverging.training._replace(
        inputs={**diverging.training.inputs, "clip": features._replace(images=features.images * float("nan"))}
    )
    with pytest.raises(TrainingError, match="clip stream is nan at step 4"):
        diverging.train(progress=False)
    assert checkpoints(run.folder)[-1] == state
    assert Run(_config(), tmp_path / "run", device="cpu").train(progress=False).is_finished


def test_two_runs_cannot_share_a_folder(tmp_path) -> None:
    folder = tmp_path / "run"
    process = _start(tmp_path, folder, _config(epochs=200))
    _wait_for_a_checkpoint(process, folder)
    try:
        with pytest.raises(TrainingError, match="another process"):
            Run(_config(epochs=200), folder, device="cpu").train(progress=False)
        with pytest.raises(ConfigError, match=r"training\.alpha is 0\.5 and was 0\.2"):
            Run(_config(alpha=0.5), folder, device="cpu")
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def clip_only(tmp_path_factory) -> Run:
    """Train the quick stream alone; its epochs have 6 steps."""
    return Run(_alone(), tmp_path_factory.mktemp("runs") / "clip", device="cpu").train(progress=False)


@pytest.fixture
def copy(clip_only: Run, tmp_path) -> Path:
    """Return a copy of its folder that a test may change."""
    return shutil.copytree(clip_only.folder, tmp_path / "copy")


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def shared_cache(cache: Path, monkeypatch) -> None:
    monkeypatch.setenv("DWC_CACHE", str(cache))


def _alone(**training) -> Config:
    return _config(**training).but(model={"streams": ["clip"]})


def _again(folder: Path, **training) -> Run:
    return Run(_alone(**training), folder, device="cpu")


def _change(checkpoint: Path, **parts) -> None:
    """Write a checkpoint anew, in good order, with other parts."""
    save_checkpoint(checkpoint, {**load_checkpoint(checkpoint), **parts})


@pytest.mark.parametrize("key", ["workers", "log_every", "checkpoint_every"])
def test_what_changes_no_number_may_change(copy: Path, key: str) -> None:
    assert _again(copy, **{key: 1}).train(progress=False).is_finished
    assert json.loads((copy / "config.json").read_text())["training"][key] == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training": {"alpha": 0.5}}, r"training\.alpha is 0\.5 and was 0\.2"),
        ({"data": {"seed": 4}}, r"data\.seed is 4 and was 0"),
        ({"model": {"editors": "none"}}, r"model\.editors is 'none' and was 'both'"),
        ({"training": {"decay": "cosine"}}, r"training\.decay is 'cosine' and was 'constant'"),
    ],
)
def test_what_changes_numbers_is_refused_by_key_and_both_values(copy: Path, changes, message) -> None:
    with pytest.raises(ConfigError, match=message):
        Run(_alone().but(**changes), copy, device="cpu")


def test_more_epochs_continue(copy: Path, tmp_path) -> None:
    longer = _again(copy, epochs=3).train(progress=False)
    at_once = _again(tmp_path / "at once", epochs=3).train(progress=False)
    pd.testing.assert_frame_equal(longer.log.iloc[:, :2], at_once.log.iloc[:, :2], check_exact=True)
    pd.testing.assert_frame_equal(longer.recalls, at_once.recalls, check_exact=True)
    with pytest.raises(ConfigError, match=r"training\.epochs is 2, and more are trained"):
        _again(copy).train(progress=False)


def test_a_decay_over_all_epochs_refuses_another_number_of_them(tmp_path) -> None:
    _again(tmp_path / "run", decay="cosine").train(stop_after=1, progress=False)
    with pytest.raises(ConfigError, match=r"training\.epochs, over which .* decays, is 3 and was 2"):
        _again(tmp_path / "run", decay="cosine", epochs=3)


def test_a_run_killed_before_its_first_checkpoint_begins_again_and_again(tmp_path) -> None:
    run = Run(_alone(epochs=1), tmp_path / "run", device="cpu")
    (run.folder / "log.csv").write_text("step,loss_clip,pictures_per_second\n")
    assert run.chosen() == "untrained"
    assert list(run.train(progress=False).log["step"]) == list(range(1, 7))


def test_a_failed_first_attempt_leaves_nothing_that_refuses_the_next(tmp_path) -> None:
    with pytest.raises(ConfigError, match="a batch of 500"):
        _again(tmp_path / "run", batch=500)
    assert not (tmp_path / "run" / "config.json").exists()
    assert _again(tmp_path / "run").train(stop_after=1, progress=False).log["step"].max() == 1
    (tmp_path / "other").mkdir()
    _again(tmp_path / "other", alpha=0.5)  # opened, and not trained
    _again(tmp_path / "other")


def test_a_run_goes_on_and_is_evaluated_wherever_its_data_is(tmp_path, monkeypatch) -> None:
    """The folder is named relatively, absolutely, and moved."""
    monkeypatch.setenv("DWC_CACHE", str(tmp_path / "cache"))
    census.write("own", tmp_path / "own", seed=0, train=60, val=40)
    monkeypatch.chdir(tmp_path)

    def config(root: str) -> Config:
        data = {"dataset": "own", "root": root, "size": 64}
        return parse_config({**_alone(batch=8, epochs=1).model_dump(), "data": data}, "test")

    trained = Run(config("own"), tmp_path / "run", device="cpu").train(stop_after=2, progress=False)
    assert trained.config.data.root == str(tmp_path / "own")
    for root in ("./own", str(tmp_path / "own"), "other/../own"):
        Run(config(root), tmp_path / "run", device="cpu").train(stop_after=2, progress=False)
    before = trained.recall()
    (tmp_path / "own").rename(tmp_path / "moved")
    with pytest.raises(ConfigError, match="no such folder"):
        open_run(tmp_path / "run", device="cpu")
    assert open_run(tmp_path / "run", data="moved", device="cpu").recall() == before
    assert main(["evaluate", "run", "--data", "moved", "--missing", "drop", "--device", "cpu"]) == 0
    captions = next((tmp_path / "moved").rglob("*train*.*s*"))
    captions.write_text(captions.read_text(encoding="utf-8").replace("sleeve", "collar"), encoding="utf-8")
    for open_again in (
        lambda: Run(config("moved"), tmp_path / "run", device="cpu").train(progress=False),
        lambda: open_run(tmp_path / "run", data="moved", device="cpu"),
    ):
        with pytest.raises(ConfigError, match="fingerprint of the"):
            open_again()


@pytest.mark.parametrize("name", ["log.csv", "recall.csv"])
@pytest.mark.parametrize("content", ["", 'step,epoch\n"', "what\n1\n", "step,epoch\none,two\n"])
def test_a_damaged_table_is_told_and_can_be_removed(copy: Path, name: str, content: str) -> None:
    (copy / name).write_text(content)
    run = _again(copy, epochs=3)
    for use in (lambda: run.train(progress=False), lambda: run.log if name == "log.csv" else run.recalls):
        with pytest.raises(CheckpointError, match=rf"{name}: the table cannot be read .* remove it"):
            use()
    (copy / name).unlink()
    assert run.train(progress=False).is_finished


def test_a_row_cut_short_is_forgotten(copy: Path) -> None:
    before = _losses_of_one(copy)
    with (copy / "log.csv").open("a") as file:
        file.write("1")  # of 13
    _again(copy, epochs=3).train(stop_after=14, progress=False)
    found = _losses_of_one(copy)
    assert list(found["step"]) == list(range(1, 15))
    pd.testing.assert_frame_equal(found.iloc[:12], before, check_exact=True)


def _losses_of_one(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "log.csv", float_precision="round_trip")[["step", "loss_clip"]]


def test_damaged_descriptions_are_told_or_mended_and_copies_of_checkpoints_passed_over(copy: Path) -> None:
    last = checkpoints(copy)[-1]
    shutil.copytree(last, copy / f"{last.name}.bak")
    (copy / "step-00000099").touch()
    for name in ("config.json", "vocabulary.json"):
        (copy / name).write_text("")
    with pytest.raises(ConfigError, match=r"config\.json: it cannot be read"):
        open_run(copy, device="cpu")
    assert _again(copy).train(progress=False).is_finished
    assert open_run(copy, device="cpu").vocabulary.words == tuple(
        json.loads((copy / "vocabulary.json").read_text())
    )


def test_a_checkpoint_under_another_step_is_refused(copy: Path) -> None:
    last = checkpoints(copy)[-1]
    last.rename(copy / "step-00000099")
    with pytest.raises(CheckpointError, match=f"it was written as {last.name}"):
        _again(copy, epochs=30)


@pytest.mark.parametrize("device", ["cuda", "gpu"])
def test_a_device_that_is_not_there_is_told(tmp_path, device: str) -> None:
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ConfigError, match=r"device: .* Use (cpu|one of cpu)"):
        Run(_alone(), tmp_path / "run", device=device)


def test_what_the_machine_cannot_do_is_told_before_anything_is_loaded(tmp_path) -> None:
    with pytest.raises(ConfigError, match="fp16 needs a GPU"):
        _again(tmp_path / "run", precision="fp16")
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ConfigError, match="cannot be written"):
            _again(folder)
    assert not (tmp_path / "run").exists()


def test_a_second_program_waits_for_a_shared_run(shared_cache: None, capsys) -> None:
    config = _alone(epochs=1)
    first = shared_run(config, device="cpu", progress=False)
    told, holds = [], threading.Event()

    def hold_until_told() -> None:
        with FileLock(first.folder / ".lock"):
            holds.set()
            for _ in range(1200):
                told.append(capsys.readouterr().err)
                if "waiting" in told[-1]:
                    return
                time.sleep(0.05)

    threading.Thread(target=hold_until_told).start()
    holds.wait()
    second = shared_run(config, device="cpu", progress=False)
    assert second.recall() == first.recall()
    assert "another process trains this run; waiting for it" in "".join(told)


def test_a_shared_run_shows_a_bar_without_widgets(shared_cache: None, capsys) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        shared_run(_alone(epochs=1, alpha=0.3), device="cpu", progress=True)
    assert re.search(r"train: 100%.* 6/6 .*R@10=", capsys.readouterr().err)


def test_the_model_says_which_epoch_it_is_of(copy: Path, capsys) -> None:
    best = load_checkpoint(checkpoints(copy)[-1])["position"]["best"] // 6
    assert main(["evaluate", str(copy), "--device", "cpu"]) == 0
    assert capsys.readouterr().out.startswith(f"weights of epoch {best} of 2, chosen on validation queries\n")
    assert _again(copy).restore("last").chosen() == "epoch 2 of 2, the last"


def test_the_shell_tells_a_full_disk_in_one_line(copy: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(
        "dwclib.training.runs.open_run", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space left"))
    )
    assert main(["evaluate", str(copy)]) == 2
    assert capsys.readouterr().err == "error: [Errno 28] No space left\n"


def test_a_checkpoint_cut_short_is_named_and_the_one_before_still_loads(tmp_path) -> None:
    run = Run(_config(), tmp_path / "run", device="cpu").train(stop_after=5, progress=False)
    before, last = checkpoints(run.folder)
    tensors = last / "tensors.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=last.name):
        Run(_config(), tmp_path / "run", device="cpu").train(progress=False)
    for path in last.iterdir():
        path.unlink()
    last.rmdir()
    assert Run(_config(), tmp_path / "run", device="cpu").restore("last").log["step"].max() >= 3
    assert before.exists()


def test_too_large_a_batch_and_no_run_are_told(tmp_path) -> None:
    with pytest.raises(ConfigError, match="a batch of 500"):
        Run(_config(batch=500), tmp_path / "run", device="cpu")
    with pytest.raises(ConfigError, match="there is no run"):
        open_run(tmp_path / "nowhere")


def test_the_shell_evaluates_and_refuses_in_one_line(whole: Run, tmp_path) -> None:
    command = [sys.executable, "-m", "dwclib"]
    found = subprocess.run(
        [*command, "evaluate", str(whole.folder), "--device", "cpu"],
        capture_output=True, text=True, check=True, env=os.environ,
    )  # fmt: skip
    recalls, standing = found.stdout.splitlines()[-2:]
    assert recalls.startswith(f"both  R@1 {whole.recall()['both'][1]:.2f}")
    assert standing == whole.standing()
    (tmp_path / "run.yml").write_text("training: {epoch: 3}")
    refused = subprocess.run(
        [*command, "train", str(tmp_path / "run.yml"), "--out", str(tmp_path / "x")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert refused.returncode == 2
    assert len(refused.stderr.strip().splitlines()) == 1
    assert "training.epoch" in refused.stderr


def test_errors_are_one_family() -> None:
    assert issubclass(TrainingError, DwcError)
    assert issubclass(CheckpointError, DwcError)


def test_a_shared_run_is_trained_once(shared_cache: None) -> None:
    config = _config(epochs=1).but(model={"streams": ["clip"]})
    first = shared_run(config, device="cpu", progress=False)
    written = (first.folder / "log.csv").stat().st_mtime_ns
    second = shared_run(config, device="cpu", progress=False)
    assert (second.folder, second.is_finished) == (first.folder, True)
    assert (second.folder / "log.csv").stat().st_mtime_ns == written
    assert second.recall() == first.recall()
    other = shared_run(config.but(training={"alpha": 0.5}), device="cpu", progress=False)
    assert other.folder != first.folder
