"""Shell completion of the arguments and options of `nosbench`, for typer's `autocompletion=`.

Each function takes the beginning of a word and returns words. Typer keeps those with this beginning; where none has it,
the shell offers files. Nothing here imports torch: a shell waits for the answer at every press of the key.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from nosbench_env.candidates.baselines import BASELINES, GROUPS
from nosbench_env.identity.identify import IDENTITIES
from nosbench_env.language.draft import CONSTRAINTS
from nosbench_env.language.known_programs import KNOWN_PROGRAMS
from nosbench_env.tasks import TASKS

_RUNS = "runs/"  # the default place of run folders


def programs(incomplete: str) -> list[str]:
    """Completes known programs, in any case, and the best programs of runs."""
    return _known(KNOWN_PROGRAMS, incomplete) + [f"{run}/best.txt" for run in _runs(incomplete, "best.txt")]


def baselines(incomplete: str) -> list[str]:
    """Completes baselines and their groups."""
    return _known([*BASELINES, *GROUPS], incomplete)


def candidates(incomplete: str) -> list[str]:
    """Completes baselines, known programs included, and folders with best programs."""
    return _known(BASELINES, incomplete) + _runs(incomplete, "best.txt")


def start_programs(incomplete: str) -> list[str]:
    """Completes the start of evolution."""
    return [*programs(incomplete), "random"]


def reference_programs(incomplete: str) -> list[str]:
    """Completes the reference of a comparison."""
    return [*_known(KNOWN_PROGRAMS, incomplete), "none"]


def run_folders(incomplete: str) -> list[str]:
    """Completes run folders, in `runs` or in the folder typed."""
    return _runs(incomplete, "history.jsonl")


def tasks() -> list[str]:
    """Returns the names of the tasks."""
    return list(TASKS)


def devices() -> list[str]:
    """Returns `auto`, `cpu` and all GPUs, usable by torch or not."""
    gpus = sorted(int(node.name[6:]) for node in Path("/dev").glob("nvidia[0-9]*") if node.name[6:].isdigit())
    return ["auto", "cpu", "cuda", *(f"cuda:{number}" for number in gpus)]


def arithmetics() -> list[str]:
    """Returns the precisions of training."""
    return ["float32", "tf32"]


def identities() -> list[str]:
    """Returns the identities."""
    return list(IDENTITIES)


def constraints() -> list[str]:
    """Returns the constraints of a search space."""
    return list(CONSTRAINTS)


def _known(names: Iterable[str], incomplete: str) -> list[str]:
    """Completes a name, keeping the typed case: `adamW` after `ad`."""
    return [incomplete + name[len(incomplete) :] for name in names if name.lower().startswith(incomplete.lower())]


def _runs(incomplete: str, file: str) -> list[str]:
    """Returns the folders with `file`, in `runs` or the folder typed."""
    typed, slash, _ = incomplete.rpartition("/")
    parent = typed + slash or _RUNS
    try:
        return [f"{parent}{path.parent.name}" for path in sorted(Path(parent).glob(f"*/{file}"))]
    except (OSError, ValueError):  # a folder that can't be read, or no path at all
        return []
