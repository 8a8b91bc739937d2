"""How much memory training took at most: of the accelerator, or of the process where there is none.

On an accelerator it is what torch had allocated on this process's device (not what its cache held). On the CPU it is
the process's resident set, libraries and data included.
"""

import resource
import sys
from pathlib import Path

import torch

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_PEAK = "5"


def _status(line: str) -> int | None:
    """A line of what Linux says of this process, in bytes."""
    if STATUS.is_file():
        for found in STATUS.read_text().splitlines():
            if found.startswith(f"{line}:"):
                return int(found.split()[1]) * 1024
    return None


def reset_peak(device: torch.device) -> None:
    """Peaks are taken from now on.

    Where the system cannot do that for a process (other than Linux, or forbidden) its peak is that of its whole life:
    it never falls, and a later stage or run in the same process shows at least what an earlier one took.
    """
    if device.type != "cpu":
        torch.accelerator.reset_peak_memory_stats(device)
        return
    try:
        RESET.write_text(RESET_PEAK)
    except OSError:
        return


def peak_bytes(device: torch.device) -> int:
    """The most memory taken since ``reset_peak``."""
    if device.type != "cpu":
        return torch.accelerator.max_memory_allocated(device)
    if (found := _status("VmHWM")) is not None:  # getrusage would hand down the peak of the process that started this
        return found
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def bytes_now(device: torch.device) -> int:
    """The memory that is taken now; where the system does not say so of a process, the most that it ever took."""
    if device.type != "cpu":
        return torch.accelerator.memory_allocated(device)
    return _status("VmRSS") or peak_bytes(device)
