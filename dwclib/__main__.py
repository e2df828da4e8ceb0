"""The command line: ``python -m dwclib --help``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dwclib.errors import DwcError

if TYPE_CHECKING:
    from dwclib.training.runs import Run


def main(arguments: list[str] | None = None) -> int:
    """Run one command; bad input is told in one line, with exit status 2."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options) or 0)
    except (DwcError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print(stop, file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m dwclib", description="The DWC book and its data.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    book = _command(commands, "book", _book, "execute the notebooks and build the site")
    book.add_argument("--only", metavar="NN", help="execute only notebooks whose name begins so; no site")
    book.add_argument("--cell-timeout", type=int, default=900, metavar="SECONDS", help="for one cell")
    _add_profile(book, "laptop")

    _command(commands, "pdf", _pdf, "print the built site as one PDF, by this machine's Chromium or Chrome")

    lab = _command(commands, "lab", _lab, "open the notebooks in JupyterLab")
    lab.add_argument("options", nargs=argparse.REMAINDER, help="JupyterLab's own, behind --")

    prepare = _command(commands, "prepare", _prepare, "write notebooks with a profile's parameters in them")
    prepare.add_argument("--out", type=Path, required=True, metavar="DIR")
    _add_profile(prepare, "smoke")

    store = _command(commands, "store-outputs", _store_outputs, "execute and keep the checked cells' outputs")
    store.add_argument("--only", metavar="NN", help="only notebooks whose name begins so")
    store.add_argument("--cell-timeout", type=int, default=900, metavar="SECONDS", help="for one cell")

    experiment = _command(commands, "experiment", _experiment, "compute the rows of a grid that are missing")
    experiment.add_argument("grid", nargs="*", metavar="NAME", help="of data/experiments/; all by default")
    experiment.add_argument(
        "--jobs", type=int, default=-1, help="runs at a time; by default one per core, and on a GPU one"
    )
    experiment.add_argument("--minutes", type=float, default=float("inf"), help="begin no run after these")
    experiment.add_argument(
        "--scheduler", metavar="ADDRESS", help="of a Dask cluster that computes, tcp://HOST:PORT"
    )
    experiment.add_argument(
        "--verify",
        type=int,
        metavar="N",
        help="keep older code's rows if N of them, computed anew, are equal",
    )
    _add_profile(experiment, "laptop")
    _add_device(experiment)

    keep = _command(commands, "results", _results, "keep what the executed notebooks measured and concluded")
    _add_profile(keep, "laptop")

    form = _command(commands, "check-notebooks", _check, "check the notebooks' form")
    form.add_argument("--mend", action="store_true", help="first bring them into the form that git keeps")

    fashion = _command(commands, "synthfashion", _synthfashion, "write SynthFashion as a real dataset")
    fashion.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new folder")
    fashion.add_argument("--layout", default="fashioniq", help="fashioniq (the default), shoes, ... or own")
    fashion.add_argument("--pictures", metavar="FOLDER", help="of fashioniq: images (the default), all_imgs")
    fashion.add_argument("--ending", metavar=".jpg|.png", help="of fashioniq's pictures; .jpg by default")
    fashion.add_argument("--seed", type=int, default=0)
    fashion.add_argument("--train", type=int, default=8_000, metavar="IMAGES")
    fashion.add_argument("--val", type=int, default=2_000, metavar="IMAGES")

    train = _command(commands, "train", _train, "train DWC as a YAML file says, or go on where it stopped")
    train.add_argument(
        "config", type=Path, metavar="YAML", help="keys and defaults are those of dwclib/training/config.py"
    )
    train.add_argument("--out", type=Path, required=True, metavar="DIR", help="the run's folder")
    train.add_argument("--data", dest="root", metavar="DIR", help="where the recipe's real dataset lies")
    _add_missing(train)
    train.add_argument("--encoder", dest="clip", metavar="NAME", help="any open_clip model, not the recipe's")
    train.add_argument(
        "--encoder-weights", dest="clip_weights", metavar="TAG|FILE", help="its weights; or both, as TAG=FILE"
    )
    train.add_argument("--cnn-weights", metavar="FILE", help="of the recipe's timm model, from a file")
    _add_device(train)

    check = _command(commands, "check", _check_data, "count what is there of a real dataset")
    check.add_argument("dataset", metavar="DATASET", help="such as fashioniq")
    check.add_argument("root", type=Path, metavar="PATH", help="the folder in which it lies")

    evaluate = _command(commands, "evaluate", _evaluate, "measure Recall@K of a trained run")
    evaluate.add_argument("run_folder", type=Path, metavar="DIR", help="a folder that 'train' wrote")
    evaluate.add_argument("--data", metavar="DIR", help="where the dataset lies, if no longer where it was")
    _add_missing(evaluate)
    either = evaluate.add_mutually_exclusive_group()  # a recipe's result follows its own protocol
    either.add_argument("--keep-reference", action="store_true", help="leave the reference in the ranking")
    either.add_argument("--publish", metavar="RECIPE", help="keep it as the measured result of this recipe")
    _add_device(evaluate)

    pretrain = _command(commands, "pretrain", _pretrain, "train the book's CLIP or ResNet anew")
    pretrain.add_argument("network", choices=("clip", "cnn"))
    pretrain.add_argument("--folder", type=Path, metavar="DIR", help="data/clip or data/cnn by default")

    doctor = _command(commands, "doctor", _doctor, "examine this machine, the packages and the book's files")
    doctor.add_argument("--json", action="store_true", help="for a machine, with all values")
    _command(
        commands, "empty-cache", _empty_cache, "remove pictures, features and runs that code makes again"
    )
    return parser


def _command(commands, name, run, text) -> argparse.ArgumentParser:  # type: ignore[no-untyped-def]
    parser = commands.add_parser(name, help=text, description=text)
    parser.set_defaults(run=run)
    return parser


def _add_profile(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument("--profile", default=default, help=f"smoke, laptop or gpu; {default} by default")


def _add_missing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--missing", choices=("refuse", "drop"), help="what to do where photos are missing")


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", choices=("cpu", "cuda"), help="a GPU where there is one, by default")


def _book(options: argparse.Namespace) -> None:
    from dwclib.book.execute import Book, execute

    book = Book(options.profile)
    if options.only:
        execute(book, only=options.only, cell_timeout=options.cell_timeout)
    else:
        from dwclib.book.site import build

        build(book, cell_timeout=options.cell_timeout)


def _pdf(_: argparse.Namespace) -> None:
    from dwclib.book.execute import Book
    from dwclib.book.pdf import print_book

    book = Book()
    with book.alone():
        print(print_book(book.build / "html"))


def _lab(options: argparse.Namespace) -> None:
    from dwclib.book.execute import Book
    from dwclib.book.lab import open_lab

    open_lab(Book().root, *(option for option in options.options if option != "--"))


def _prepare(options: argparse.Namespace) -> None:
    from dwclib.book.execute import Book, prepare

    prepare(Book(options.profile), options.out)


def _store_outputs(options: argparse.Namespace) -> None:
    from dwclib.book.execute import Book, store_outputs

    store_outputs(Book("smoke"), only=options.only, cell_timeout=options.cell_timeout)


def _check(options: argparse.Namespace) -> int:
    from dwclib.book.check import mend, problems
    from dwclib.book.execute import Book

    if options.mend:
        mend(Book())
    found = problems(Book())
    print("\n".join(found) or "The notebooks are in form.")
    return bool(found)


def _experiment(options: argparse.Namespace) -> None:
    from dwclib import experiments

    for name in options.grid or experiments.grid_names():
        grid = experiments.read_grid(name, options.profile)
        where = {"jobs": options.jobs, "scheduler": options.scheduler}
        if options.verify is not None:
            found = experiments.verify(grid, sample=options.verify, **where)
            print(f"{name}: {found.checked} rows computed anew and equal, {found.of} rows are fresh by that")
        else:
            missing = experiments.missing(grid)
            experiments.run(grid, minutes=options.minutes, device=options.device, **where)
            print(f"{name}: {len(grid.cells())} rows, {len(missing)} of them computed now")
            if missing and options.profile == "laptop":
                experiments.publish(grid)


def _results(options: argparse.Namespace) -> None:
    from dwclib.book.execute import Book, keep_results

    print(keep_results(Book(options.profile)))


def _synthfashion(options: argparse.Namespace) -> None:
    from dwclib.data import census

    sizes = {"seed": options.seed, "train": options.train, "val": options.val}
    census.write(options.layout, options.out, **sizes, **_given(options, "pictures", "ending"))


def _given(options: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Return those of the options that were given."""
    return {name: value for name in names if (value := getattr(options, name))}


def _train(options: argparse.Namespace) -> None:
    from dwclib.training.config import read_config
    from dwclib.training.runs import Run

    config = read_config(options.config).but(
        data=_given(options, "root", "missing"), model=_given(options, "clip", "clip_weights", "cnn_weights")
    )
    run = Run(config, options.out, device=options.device).train()
    if run.accelerator.is_main_process:
        _print_recall(run, run.recall())


def _evaluate(options: argparse.Namespace) -> None:
    from dwclib.experiments.reproductions import keep
    from dwclib.training.runs import open_run

    asked = {"data": options.data, "missing": options.missing, "device": options.device}
    run = open_run(options.run_folder, **asked)
    if not run.accelerator.is_main_process:
        return
    recall = run.recall(exclude_reference=False if options.keep_reference else None)
    _print_recall(run, recall)
    if options.publish:
        print(keep(options.publish, run, recall))


def _check_data(options: argparse.Namespace) -> int:
    from dwclib.data import census

    lines, good = census.report(options.dataset, options.root)
    print("\n".join(lines))
    return int(not good)


def _print_recall(run: Run, recall: dict[str, dict[int, float]]) -> None:
    print(f"weights of {run.chosen()}")
    for name, recalls in recall.items():
        print(f"{name:5}", "  ".join(f"R@{k} {value:.2f}" for k, value in recalls.items()))
    print(run.standing())


def _pretrain(options: argparse.Namespace) -> None:
    from dwclib.training import pretrain

    run = {"clip": pretrain.pretrain_clip, "cnn": pretrain.pretrain_cnn}[options.network]
    print(run(options.folder) if options.folder else run())


def _doctor(options: argparse.Namespace) -> bool:
    from dwclib.book.doctor import examine, report

    print(report(found := examine(), as_json=options.json))
    return any(one.state == "broken" for one in found)


def _empty_cache(_: argparse.Namespace) -> None:
    from dwclib.book.doctor import empty_cache

    print(empty_cache())


if __name__ == "__main__":
    sys.exit(main())
