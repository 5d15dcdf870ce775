"""Neural optimizer search as Gymnasium environments, with a cached oracle.

Importing this package registers `NOSBench-v0`, `NOSBenchToken-v0` and `NOSBenchEdit-v0`. It imports no torch: the
public names are loaded at first use.
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

_PUBLIC = {
    name: f"nosbench_env.{module}"
    for module, names in {
        "language.functions": "FUNCTIONS",
        "language.program": "Instruction InvalidProgram Program",
        "language.known_programs": "KNOWN_PROGRAMS",
        "language.search_space": "SearchSpace",
        "language.draft": "Draft",
        "execution.optimizer": "ProgramOptimizer",
        "candidates.optimizer_config": "OptimizerConfig",
        "candidates.tuned_program": "TunedProgram",
        "candidates.baselines": "BASELINES Baseline",
        "language.simplify": "simplify",
        "language.pseudocode": "pseudocode",
        "language.canonical": "CanonicalForm canonical_form",
        "identity.fingerprint": "Fingerprint",
        "identity.identify": "fingerprint",
        "identity.probe": "Probe ProbeTensor",
        "tasks": "TASKS make_task",
        "tasks.task": "Curve",
        "tasks.worker_pool": "WorkerError",
        "store": "ResultStore StoreError",
        "evaluation": "Evaluation",
        "oracles.oracle": "Oracle",
        "envs.instruction_env": "NOSBenchEnv",
        "envs.token_env": "NOSBenchTokenEnv",
        "envs.edit_env": "NOSBenchEditEnv",
    }.items()
    for name in names.split()
}
__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})


for _kind, _module in (("", "instruction_env"), ("Token", "token_env"), ("Edit", "edit_env")):
    register(
        f"NOSBench{_kind}-v0",
        entry_point=f"nosbench_env.envs.{_module}:NOSBench{_kind}Env",
        vector_entry_point=f"nosbench_env.envs.vector_env:NOSBench{_kind}VectorEnv",
    )
