"""Damaged and hostile files of results: one sentence, or what was written; no foreign error, no hang."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from strategies import JSON, places

from dwclib.errors import ConfigError, DwcError, ResultsError
from dwclib.experiments import FOLDER, GRIDS, load, pack, read_grid, unpack
from dwclib.experiments.benchmarks import BENCHMARKS, benchmarks
from dwclib.experiments.claims import CLAIMS, read_claims
from dwclib.experiments.reported import reported as read_reported
from dwclib.experiments.schema import sealed

SOME = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
GRID = read_grid("power", "laptop").only(settings=["default"])


class Kind(NamedTuple):
    """A kind of file: what a good one holds, where it lies, how it is written, and what is done with it."""

    content: Callable[[], Any]
    name: str
    write: Callable[[Any], str]
    use: Callable[[Path], object]


def _rows() -> dict:
    content = json.loads((FOLDER / "power" / "laptop.json").read_text())
    rows = [row for row in content["rows"] if row["setting"] == "default"][:2]
    more = next(row for row in json.loads((FOLDER / "ablations-both" / "laptop.json").read_text())["rows"]
                if "probes" in row)  # fmt: skip
    rows[0] |= {name: {"clip": more[name]["clip"]} for name in ("probes", "gaps")}
    rows[0]["weights"] = {"clip": pack(np.full(4000, 0.5, np.float16))}
    return {"grid": "power", "profile": "laptop", "rows": rows}


def _use_rows(folder: Path) -> object:
    found = load(GRID._replace(seeds=2), folder=folder)
    found.groups = {"all": np.arange(4000)}
    for row in found.runs_of("full"):
        assert len(unpack(row["ranks"]["clip"])) == 4000
        for levels in row.get("probes", {}).values():
            assert all(isinstance(kind[0]["level"], float | int) for kind in levels.values())
    return found.hits("full"), found.best(["full"]), found.stale


def _use_benchmarks(folder: Path) -> object:
    return [
        (entry["device"], what, round(ratio, 2))
        for entries in benchmarks(folder).values()
        for entry in entries.values()
        for what, ratio in entry["ratios"].items()
    ]


def _use_claims(folder: Path) -> object:
    return [part.says for claim in read_claims(folder / "claims.yml").values() for part in claim.parts]


def _seal(content: Any) -> str:
    return json.dumps(sealed(content) if isinstance(content, dict) else content)


def _benchmarks() -> dict:
    found = json.loads((BENCHMARKS / "cpu-2-cores.json").read_text())
    return {name: found[name] for name in ("step", "memory")}


KINDS = {
    "rows": Kind(_rows, "power/laptop.json", _seal, _use_rows),
    "benchmarks": Kind(_benchmarks, "cpu.json", _seal, _use_benchmarks),
    "grid": Kind(
        lambda: yaml.safe_load((GRIDS / "noise.yml").read_text()), "noise.yml", yaml.safe_dump,
        lambda folder: read_grid("noise", "smoke", folder=folder).cells(),
    ),
    "claims": Kind(
        lambda: yaml.safe_load(CLAIMS.read_text()), "claims.yml", yaml.safe_dump, _use_claims
    ),
}  # fmt: skip
CONTENTS = {name: kind.content() for name, kind in KINDS.items()}


PLACES = {name: places(content) for name, content in CONTENTS.items()}


def _used(kind: Kind, folder: Path, text: bytes) -> None:
    """Use a file; an error must be ours: one line."""
    path = folder / kind.name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(text)
    with suppress(DwcError):
        kind.use(folder)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", list(KINDS))
@SOME
@given(data=st.data())
def test_a_file_with_another_value_somewhere_is_told_or_used(name, tmp_path, data):
    content = copy.deepcopy(CONTENTS[name])
    *path, last = data.draw(st.sampled_from(PLACES[name]))
    inner = content
    for key in path:
        inner = inner[key]
    if data.draw(st.booleans()):
        inner[last] = data.draw(JSON | st.integers(-(10**40), 10**40))
    elif isinstance(inner, dict):
        inner[data.draw(st.text(max_size=6))] = inner.pop(last)
    else:
        del inner[last]
    _used(KINDS[name], tmp_path, KINDS[name].write(content).encode("utf-8", "surrogatepass"))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", list(KINDS))
@SOME
@given(data=st.data())
def test_a_file_with_other_bytes_is_told_or_used(name, tmp_path, data):
    text = bytearray(KINDS[name].write(CONTENTS[name]).encode())
    first = data.draw(st.integers(0, len(text)))
    text[first : first + data.draw(st.integers(0, 40))] = data.draw(st.binary(max_size=8))
    _used(KINDS[name], tmp_path, bytes(text))


@pytest.mark.parametrize("name", ["rows", "benchmarks"])
@SOME
@given(data=st.data())
def test_no_number_is_changed_without_a_word(name, tmp_path, data):
    text = KINDS[name].write(CONTENTS[name])
    digits = [place for place, letter in enumerate(text) if letter.isdigit()]
    place = data.draw(st.sampled_from(digits))
    other = data.draw(st.sampled_from([digit for digit in "123456789" if digit != text[place]]))
    changed = text[:place] + other + text[place + 1 :]
    assume(json.loads(changed) != json.loads(text))  # the last of many digits says nothing
    path = tmp_path / KINDS[name].name
    path.parent.mkdir(exist_ok=True)
    path.write_text(changed)
    with pytest.raises(ResultsError):
        KINDS[name].use(tmp_path)


@pytest.mark.parametrize("text", [
    "uint16:", "float64:AAAA", "uint16:!!!!", "uint16", "uint16:eJw=", "uint16:a:b", "object:gASVAAAA",
])  # fmt: skip
def test_packed_numbers_that_are_damaged_are_told(text):
    with pytest.raises(ResultsError, match="packed numbers are damaged"):
        unpack(text)


def test_packed_numbers_do_not_grow_without_bound():
    with pytest.raises(ResultsError, match="packed numbers are damaged"):
        unpack(pack(np.zeros(30_000_000, np.uint16)))


@pytest.mark.parametrize(
    ("text", "told"),
    [("", "cannot be read"), ("a,b\n1,2\n", "cannot be read"), ("method,R@10,protocol,source\n", None),
     ("method,R@10,protocol,source\nDWC,1000,,S1\n", "no reported recall"),
     ("method,R@10,protocol,source\nDWC,many,,S1\n", "cannot be read"),
     ("method,R@10,protocol,source\nDWC,50,,S9\n", "no reported recall"),
     ("method,R@10,protocol,source\nDWC,50,,S1\nDWC,51,,S1\n", "no reported recall")],
)  # fmt: skip
def test_reported_results_that_cannot_be_are_told(tmp_path, monkeypatch, text, told):
    monkeypatch.setattr("dwclib.experiments.reported.REPORTED", tmp_path)
    (tmp_path / "shoes.csv").write_text(text)
    if told is None:
        assert read_reported("shoes").empty
        return
    with pytest.raises(ResultsError, match=told):
        read_reported("shoes")
    with pytest.raises(ConfigError, match="there is no dataset"):
        read_reported("../reported/shoes")
