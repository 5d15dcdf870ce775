"""NOSBench as a Gymnasium environment: search for neural network optimizers, evaluated through a cached oracle.

Importing this package registers `NOSBench-v0`, `NOSBenchToken-v0` and `NOSBenchEdit-v0`, and imports no torch; the
public names below are loaded at first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from gymnasium import register

if TYPE_CHECKING:
    from nosbench_env.candidates.baselines import BASELINES as BASELINES
    from nosbench_env.candidates.baselines import Baseline as Baseline
    from nosbench_env.candidates.optimizer_config import OptimizerConfig as OptimizerConfig
    from nosbench_env.candidates.tuned_program import TunedProgram as TunedProgram
    from nosbench_env.envs.edit_env import NOSBenchEditEnv as NOSBenchEditEnv
    from nosbench_env.envs.instruction_env import NOSBenchEnv as NOSBenchEnv
    from nosbench_env.envs.token_env import NOSBenchTokenEnv as NOSBenchTokenEnv
    from nosbench_env.evaluation import Evaluation as Evaluation
    from nosbench_env.execution.optimizer import ProgramOptimizer as ProgramOptimizer
    from nosbench_env.identity.fingerprint import Fingerprint as Fingerprint
    from nosbench_env.identity.identify import fingerprint as fingerprint
    from nosbench_env.identity.probe import Probe as Probe
    from nosbench_env.identity.probe import ProbeTensor as ProbeTensor
    from nosbench_env.language.canonical import CanonicalForm as CanonicalForm
    from nosbench_env.language.canonical import canonical_form as canonical_form
    from nosbench_env.language.draft import Draft as Draft
    from nosbench_env.language.functions import FUNCTIONS as FUNCTIONS
    from nosbench_env.language.known_programs import KNOWN_PROGRAMS as KNOWN_PROGRAMS
    from nosbench_env.language.program import Instruction as Instruction
    from nosbench_env.language.program import InvalidProgram as InvalidProgram
    from nosbench_env.language.program import Program as Program
    from nosbench_env.language.pseudocode import pseudocode as pseudocode
    from nosbench_env.language.search_space import SearchSpace as SearchSpace
    from nosbench_env.language.simplify import simplify as simplify
    from nosbench_env.oracles.oracle import Oracle as Oracle
    from nosbench_env.store import ResultStore as ResultStore
    from nosbench_env.store import StoreError as StoreError
    from nosbench_env.tasks import TASKS as TASKS
    from nosbench_env.tasks import make_task as make_task
    from nosbench_env.tasks.task import Curve as Curve
    from nosbench_env.tasks.worker_pool import WorkerError as WorkerError

# Public name -> the module that defines it.
_PUBLIC = {
    "FUNCTIONS": "nosbench_env.language.functions",
    "Instruction": "nosbench_env.language.program",
    "InvalidProgram": "nosbench_env.language.program",
    "Program": "nosbench_env.language.program",
    "KNOWN_PROGRAMS": "nosbench_env.language.known_programs",
    "SearchSpace": "nosbench_env.language.search_space",
    "Draft": "nosbench_env.language.draft",
    "ProgramOptimizer": "nosbench_env.execution.optimizer",
    "OptimizerConfig": "nosbench_env.candidates.optimizer_config",
    "TunedProgram": "nosbench_env.candidates.tuned_program",
    "BASELINES": "nosbench_env.candidates.baselines",
    "Baseline": "nosbench_env.candidates.baselines",
    "simplify": "nosbench_env.language.simplify",
    "pseudocode": "nosbench_env.language.pseudocode",
    "CanonicalForm": "nosbench_env.language.canonical",
    "canonical_form": "nosbench_env.language.canonical",
    "Fingerprint": "nosbench_env.identity.fingerprint",
    "fingerprint": "nosbench_env.identity.identify",
    "Probe": "nosbench_env.identity.probe",
    "ProbeTensor": "nosbench_env.identity.probe",
    "TASKS": "nosbench_env.tasks",
    "make_task": "nosbench_env.tasks",
    "Curve": "nosbench_env.tasks.task",
    "WorkerError": "nosbench_env.tasks.worker_pool",
    "ResultStore": "nosbench_env.store",
    "StoreError": "nosbench_env.store",
    "Evaluation": "nosbench_env.evaluation",
    "Oracle": "nosbench_env.oracles.oracle",
    "NOSBenchEnv": "nosbench_env.envs.instruction_env",
    "NOSBenchTokenEnv": "nosbench_env.envs.token_env",
    "NOSBenchEditEnv": "nosbench_env.envs.edit_env",
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
    entry_point="nosbench_env.envs.instruction_env:NOSBenchEnv",
    vector_entry_point="nosbench_env.envs.vector_env:NOSBenchVectorEnv",
)
register(
    "NOSBenchToken-v0",
    entry_point="nosbench_env.envs.token_env:NOSBenchTokenEnv",
    vector_entry_point="nosbench_env.envs.vector_env:NOSBenchTokenVectorEnv",
)
register(
    "NOSBenchEdit-v0",
    entry_point="nosbench_env.envs.edit_env:NOSBenchEditEnv",
    vector_entry_point="nosbench_env.envs.vector_env:NOSBenchEditVectorEnv",
)
