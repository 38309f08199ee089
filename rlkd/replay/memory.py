"""How much memory there is, and a refusal before more than that is asked for."""

from pathlib import Path

import torch

from rlkd.errors import MemoryBudgetError

CPU = torch.device("cpu")
BUDGET_SHARE = 0.8  # of the memory that is free now; the rest is for networks, emulators and minibatches


def check_memory(needed: int, *, recipe_key: str, device: torch.device = CPU) -> None:
    """Raise MemoryBudgetError where `needed` bytes do not fit into the memory that is free now.

    Args:
        needed: bytes.
        recipe_key: what the message asks to lower.
        device: whose memory.
    """
    available = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_memory()
    if available is not None and needed > BUDGET_SHARE * available:
        raise MemoryBudgetError(
            f"the replay needs {needed / 1e9:.1f} GB, {available / 1e9:.1f} GB are free and {BUDGET_SHARE:.0%} of that "
            f"may be taken; lower {recipe_key}"
        )


def available_memory() -> int | None:
    """Bytes free for this process, also under a container's limit; None where the system does not say."""
    found = []
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        found += [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    except OSError:
        return None
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = (group / "memory.max").read_text().strip(), (group / "memory.current").read_text()
        if limit != "max":
            pairs = (line.split() for line in (group / "memory.stat").read_text().splitlines())
            cached = sum(int(value) for name, value in pairs if name in ("active_file", "inactive_file"))
            found.append(int(limit) - int(used) + cached)  # the page cache gives way
    except (OSError, ValueError):
        pass  # no control group of version 2: the machine's own figure stands
    return min(found) if found else None
