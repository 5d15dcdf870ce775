"""Shell completion: what arguments and options of `nosbench` can be, for typer's `autocompletion=`.

Each function takes what has been typed of a word and gives words; typer keeps those that begin so, and where none does
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

_RUNS = "runs/"  # where searches keep their folders unless told otherwise


def programs(incomplete: str) -> list[str]:
    """The known programs, in any case as the commands take them, and the best programs of runs."""
    return _known(KNOWN_PROGRAMS, incomplete) + [f"{run}/best.txt" for run in _runs(incomplete, "best.txt")]


def baselines(incomplete: str) -> list[str]:
    """The baselines and their groups."""
    return _known([*BASELINES, *GROUPS], incomplete)


def candidates(incomplete: str) -> list[str]:
    """What can be trained with: baselines, the known programs among them, and the best programs of runs."""
    return _known(BASELINES, incomplete) + _runs(incomplete, "best.txt")


def start_programs(incomplete: str) -> list[str]:
    """What evolution can start from."""
    return [*programs(incomplete), "random"]


def reference_programs(incomplete: str) -> list[str]:
    """What a comparison can be shown beside."""
    return [*_known(KNOWN_PROGRAMS, incomplete), "none"]


def run_folders(incomplete: str) -> list[str]:
    """The run folders in `runs`, or beside what has been typed."""
    return _runs(incomplete, "history.jsonl")


def tasks() -> list[str]:
    """The tasks by name."""
    return list(TASKS)


def devices() -> list[str]:
    """`auto`, `cpu`, and the GPUs that the system shows; whether torch can use them is seen when the command runs."""
    gpus = sorted(int(node.name[6:]) for node in Path("/dev").glob("nvidia[0-9]*") if node.name[6:].isdigit())
    return ["auto", "cpu", "cuda", *(f"cuda:{number}" for number in gpus)]


def arithmetics() -> list[str]:
    """The precisions of training."""
    return ["float32", "tf32"]


def identities() -> list[str]:
    """The ways to tell which programs share a result."""
    return list(IDENTITIES)


def constraints() -> list[str]:
    """The constraints of a search space."""
    return list(CONSTRAINTS)


def _known(names: Iterable[str], incomplete: str) -> list[str]:
    """Names, going on from what has been typed in any case: `adamW` after `ad`."""
    return [incomplete + name[len(incomplete) :] for name in names if name.lower().startswith(incomplete.lower())]


def _runs(incomplete: str, file: str) -> list[str]:
    """The folders that hold `file`, in `runs` or in the folder that has been typed."""
    typed, slash, _ = incomplete.rpartition("/")
    parent = typed + slash or _RUNS
    try:
        return [f"{parent}{path.parent.name}" for path in sorted(Path(parent).glob(f"*/{file}"))]
    except (OSError, ValueError):  # a folder that can't be read, or no path at all
        return []
