"""NOSBench as a Gymnasium environment: search for neural network optimizers, evaluated through a cached oracle.

Importing this package registers `NOSBench-v0`, `NOSBenchToken-v0` and `NOSBenchEdit-v0`, and imports no torch; the
public names below are loaded at first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from gymnasium import register

if TYPE_CHECKING:
    from nosbench_env.baselines import BASELINES as BASELINES
    from nosbench_env.baselines import Baseline as Baseline
    from nosbench_env.canonical import CanonicalForm as CanonicalForm
    from nosbench_env.canonical import canonical_form as canonical_form
    from nosbench_env.edit_env import NOSBenchEditEnv as NOSBenchEditEnv
    from nosbench_env.env import NOSBenchEnv as NOSBenchEnv
    from nosbench_env.fingerprints import Fingerprint as Fingerprint
    from nosbench_env.fingerprints import fingerprint as fingerprint
    from nosbench_env.functions import FUNCTIONS as FUNCTIONS
    from nosbench_env.grammar import Draft as Draft
    from nosbench_env.known_programs import KNOWN_PROGRAMS as KNOWN_PROGRAMS
    from nosbench_env.notation import pseudocode as pseudocode
    from nosbench_env.optimizer import ProgramOptimizer as ProgramOptimizer
    from nosbench_env.optimizer_config import OptimizerConfig as OptimizerConfig
    from nosbench_env.oracle import Evaluation as Evaluation
    from nosbench_env.oracle import Oracle as Oracle
    from nosbench_env.probes import Probe as Probe
    from nosbench_env.probes import ProbeTensor as ProbeTensor
    from nosbench_env.program import Instruction as Instruction
    from nosbench_env.program import InvalidProgram as InvalidProgram
    from nosbench_env.program import Program as Program
    from nosbench_env.search_space import SearchSpace as SearchSpace
    from nosbench_env.simplification import simplify as simplify
    from nosbench_env.store import ResultStore as ResultStore
    from nosbench_env.store import StoreError as StoreError
    from nosbench_env.tasks import TASKS as TASKS
    from nosbench_env.tasks import make_task as make_task
    from nosbench_env.tasks.task import Curve as Curve
    from nosbench_env.tasks.worker_pool import WorkerError as WorkerError
    from nosbench_env.token_env import NOSBenchTokenEnv as NOSBenchTokenEnv
    from nosbench_env.tuned_program import TunedProgram as TunedProgram

# Public name -> the module that defines it.
_PUBLIC = {
    "FUNCTIONS": "nosbench_env.functions",
    "Instruction": "nosbench_env.program",
    "InvalidProgram": "nosbench_env.program",
    "Program": "nosbench_env.program",
    "KNOWN_PROGRAMS": "nosbench_env.known_programs",
    "SearchSpace": "nosbench_env.search_space",
    "Draft": "nosbench_env.grammar",
    "ProgramOptimizer": "nosbench_env.optimizer",
    "OptimizerConfig": "nosbench_env.optimizer_config",
    "TunedProgram": "nosbench_env.tuned_program",
    "BASELINES": "nosbench_env.baselines",
    "Baseline": "nosbench_env.baselines",
    "simplify": "nosbench_env.simplification",
    "pseudocode": "nosbench_env.notation",
    "CanonicalForm": "nosbench_env.canonical",
    "canonical_form": "nosbench_env.canonical",
    "Fingerprint": "nosbench_env.fingerprints",
    "fingerprint": "nosbench_env.fingerprints",
    "Probe": "nosbench_env.probes",
    "ProbeTensor": "nosbench_env.probes",
    "TASKS": "nosbench_env.tasks",
    "make_task": "nosbench_env.tasks",
    "Curve": "nosbench_env.tasks.task",
    "WorkerError": "nosbench_env.tasks.worker_pool",
    "ResultStore": "nosbench_env.store",
    "StoreError": "nosbench_env.store",
    "Evaluation": "nosbench_env.oracle",
    "Oracle": "nosbench_env.oracle",
    "NOSBenchEnv": "nosbench_env.env",
    "NOSBenchTokenEnv": "nosbench_env.token_env",
    "NOSBenchEditEnv": "nosbench_env.edit_env",
}
__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})


register(
    "NOSBench-v0",
    entry_point="nosbench_env.env:NOSBenchEnv",
    vector_entry_point="nosbench_env.vector_env:NOSBenchVectorEnv",
)
register(
    "NOSBenchToken-v0",
    entry_point="nosbench_env.token_env:NOSBenchTokenEnv",
    vector_entry_point="nosbench_env.vector_env:NOSBenchTokenVectorEnv",
)
register(
    "NOSBenchEdit-v0",
    entry_point="nosbench_env.edit_env:NOSBenchEditEnv",
    vector_entry_point="nosbench_env.vector_env:NOSBenchEditVectorEnv",
)
