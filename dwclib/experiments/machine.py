"""What a measured number must not be without: the machine, the versions, the memory it took."""

from __future__ import annotations

import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "timm", "open_clip_torch", "numpy")


def stamp(device: str | None = None) -> dict[str, Any]:
    """Return the device, the versions of Python and of what computes, and the time.

    Parameters
    ----------
    device : "cpu" or "cuda"; a GPU where there is one, by default.
    """
    return {
        "device": device_name(device),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def device_name(device: str | None = None) -> str:
    """Name the GPU, or the number of cores that this process may use."""
    import torch
    from joblib import cpu_count

    if device != "cpu" and torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"CPU, {cpu_count()} cores"


def peak_memory() -> dict[str, float]:
    """Return the most memory that this process has used, in GB: "cpu", and "gpu" where there is one."""
    import torch

    found = {"cpu": _peak_resident() / 1e9}
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.max_memory_allocated() / 1e9
    return {name: round(value, 3) for name, value in found.items()}


def _peak_resident() -> float:
    """Return the most bytes that this process held; on Linux rusage would begin at its parent's."""
    if sys.platform == "win32":
        import psutil

        return float(psutil.Process().memory_info().peak_wset)
    import resource

    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return 1024.0 * int(line.split()[1])
    unit = 1 if sys.platform == "darwin" else 1024
    return float(unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
