"""Exact search in blocks finds what a full sort finds, in memory that does not grow with the gallery."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dwclib.errors import FeatureError
from dwclib.retrieval import exact_search


def _whole_numbers(rows: int, dim: int, seed: int, *, most: int = 3) -> np.ndarray:
    """Make features whose products are exact in float32, with many ties."""
    return np.random.default_rng(seed).integers(-most, most, (rows, dim), endpoint=True).astype(np.float16)


@given(
    rows=st.integers(1, 60),
    queries=st.integers(0, 4),
    block=st.integers(1, 70),
    share=st.floats(0, 1),
    seed=st.integers(0, 1000),
)
def test_any_block_gives_the_full_stable_sort(rows, queries, block, share, seed):
    gallery = _whole_numbers(rows, 3, seed)
    asked = torch.from_numpy(_whole_numbers(queries, 3, seed + 1)).float()
    k = 1 + int(share * (rows - 1))
    positions, scores = exact_search(asked, gallery, k=k, block=block)
    expected = (asked @ torch.from_numpy(gallery).float().T).sort(dim=1, descending=True, stable=True)
    assert torch.equal(positions, expected.indices[:, :k])
    assert torch.equal(scores, expected.values[:, :k])


def test_a_gallery_mapped_from_disk_is_searched_as_one_in_memory(tmp_path):
    gallery = np.random.default_rng(0).standard_normal((500, 16)).astype(np.float16)
    np.save(tmp_path / "gallery.npy", gallery)
    mapped = np.load(tmp_path / "gallery.npy", mmap_mode="r")
    queries = torch.randn(5, 16, generator=torch.Generator().manual_seed(0))
    from_disk, in_memory = (exact_search(queries, rows, k=7, block=64) for rows in (mapped, gallery))
    assert all(map(torch.equal, from_disk, in_memory))


def test_float32_galleries_are_searched_too():
    gallery = _whole_numbers(50, 4, 0)
    queries = torch.eye(4)
    half, single = (exact_search(queries, gallery.astype(kind), k=5) for kind in (np.float16, np.float32))
    assert all(map(torch.equal, half, single))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_is_named(value):
    gallery = _whole_numbers(40, 4, 0)
    gallery[23, 2] = value
    with pytest.raises(FeatureError, match="gallery, row 23: a feature is NaN or infinite"):
        exact_search(torch.ones(3, 4), gallery, k=5, block=10)


def test_queries_that_do_not_fit_are_told():
    gallery = _whole_numbers(10, 4, 0)
    with pytest.raises(FeatureError, match="queries have 3 features and gallery images 4"):
        exact_search(torch.ones(2, 3), gallery, k=5)
    with pytest.raises(FeatureError, match="queries, row 1"):
        exact_search(torch.tensor([[1.0] * 4, [torch.nan] * 4]), gallery, k=5)
    for k in (0, 11):
        with pytest.raises(FeatureError, match=f"{k} images are asked for and 10 can be ranked"):
            exact_search(torch.ones(2, 4), gallery, k=k)


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")
def test_memory_does_not_grow_with_the_gallery(tmp_path):
    path = tmp_path / "gallery.npy"
    rows = np.lib.format.open_memmap(path, "w+", np.float16, (400_000, 128))  # 200 MB as float32
    rows[:] = _whole_numbers(1_000, 128, 0).repeat(400, axis=0)
    program = f"""
import numpy as np, resource, torch
from pathlib import Path
from dwclib.retrieval import exact_search

gallery, queries = np.load({str(path)!r}, mmap_mode="r"), torch.ones(10, 128)
exact_search(queries, gallery[:4096], k=5, block=4096)
line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmData"))
limit = 1024 * int(line.split()[1]) + 20_000_000
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
try:
    torch.ones(400_000, 128)
except RuntimeError:
    print("the whole gallery does not fit")
print(exact_search(queries, gallery, k=5, block=4096)[0].shape)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["the whole gallery does not fit", "torch.Size([10, 5])"]
