"""What a benchmark ran on, for its records."""

import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


def machine(libraries: Sequence[str]) -> dict[str, Any]:
    """Say what was measured on: the processor and what of it matters for int8, and the libraries' versions."""
    cpu = Path("/proc/cpuinfo")
    lines = dict(line.split(":", 1) for line in cpu.read_text().splitlines() if ":" in line) if cpu.exists() else {}
    facts = {name.strip(): value.strip() for name, value in lines.items()}
    flags = set(facts.get("flags", "").split())
    return {
        "processor": facts.get("model name", platform.processor()),
        "cores": int(facts.get("processor", "0")) + 1,
        "instructions": sorted(flags & {"avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8"}),
        "python": platform.python_version(),
        "versions": {name: found for name in libraries if (found := _version(name))},
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def title(facts: dict[str, Any]) -> str:
    """Return the machine in one line."""
    return f"{facts['processor']}, {facts['cores']} cores, {', '.join(facts['instructions'])}"
