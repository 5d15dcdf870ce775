"""The checks of `nosbench doctor`: complete installation, right results."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from nosbench_env.execution.optimizer import ProgramOptimizer
from nosbench_env.identity.identify import fingerprint
from nosbench_env.language.known_programs import KNOWN_PROGRAMS
from nosbench_env.oracles.oracle import Oracle
from nosbench_env.store import ResultStore, StoreError
from nosbench_env.tasks import make_task
from nosbench_env.versions import UNKNOWN, installed_version

_PACKAGES = ("nosbench_env", "torch", "gymnasium", "numpy", "stable-baselines3", "pfns", "sqlalchemy", "llvmlite")
_PAPER_PROXY_ADAMW = 0.3858461759  # the proxy value of AdamW in the paper's code


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check."""

    check: str
    ok: bool
    result: str


def examine(store: str | None = None) -> list[Finding]:
    """Checks versions, devices, the store and small trainings, in a few seconds.

    Args:
        store: Location of the store, as for `ResultStore`. A missing store is created.
    """
    findings = [Finding("python", True, platform.python_version())]
    findings += [_version(package) for package in _PACKAGES]
    findings.append(Finding("cpu", True, f"{platform.machine()}, {os.cpu_count()} cores"))
    findings += [
        Finding(f"cuda:{index}", True, torch.cuda.get_device_name(index)) for index in range(torch.cuda.device_count())
    ] or [Finding("gpu", True, "none that torch can use; trainings run on the CPU")]
    findings.append(_check("store", partial(_store, store)))
    findings.append(_check("optimizer", _optimizer))
    findings.append(_check("fused", _fused))
    findings.append(_check("fingerprint", _fingerprint))
    findings.append(_check("training", _training))
    return findings


def _version(package: str) -> Finding:
    version = installed_version(package)
    return Finding(package, version != UNKNOWN, "not installed" if version == UNKNOWN else version)


def _check(name: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(name, True, check())
    except (ValueError, RuntimeError, StoreError) as error:
        return Finding(name, False, str(error))


def _store(location: str | None) -> str:
    store = ResultStore(location)
    return f"{store.location}, {len(store)} results"


def _optimizer() -> str:
    """Compares the AdamW program with torch's AdamW on the toy task."""
    task = make_task("toy", "cpu")
    ours = task.train(partial(ProgramOptimizer, program=KNOWN_PROGRAMS["AdamW"]), epochs=2)
    torchs = task.train(partial(torch.optim.AdamW, lr=1e-3, weight_decay=1e-2), epochs=2)
    difference = float(abs(ours.step_losses - torchs.step_losses).max())
    if not difference < 1e-5:
        raise ValueError(f"the AdamW program differs from torch.optim.AdamW by {difference:.1e} in loss")
    return f"the AdamW program follows torch.optim.AdamW (losses differ by at most {difference:.0e})"


def _fused() -> str:
    """Compares fused AdamW with plain AdamW, on the training device."""
    task = make_task("toy", "auto")
    curves = [
        task.train(partial(ProgramOptimizer, program=KNOWN_PROGRAMS["AdamW"], fused=fused), epochs=2)
        for fused in (False, True)
    ]
    difference = float(abs(curves[0].step_losses - curves[1].step_losses).max())
    if not difference < 1e-5:
        raise ValueError(f"the fused AdamW program gives losses that differ from the plain one's by {difference:.1e}")
    return f"fused programs work on {task.device} (losses differ by at most {difference:.0e})"


def _fingerprint() -> str:
    value = fingerprint(KNOWN_PROGRAMS["AdamW"], "paper").value
    if not isinstance(value, float) or not abs(value - _PAPER_PROXY_ADAMW) < 1e-6:
        raise ValueError(f"the proxy value of AdamW is {value}, in the paper's code {_PAPER_PROXY_ADAMW}")
    return "the proxy value of AdamW is that of the paper's code"


def _training() -> str:
    oracle = Oracle("toy", ResultStore("sqlite://"))
    trained = oracle.query(KNOWN_PROGRAMS["AdamW"], epochs=1)
    again = oracle.query(KNOWN_PROGRAMS["AdamW"], epochs=1)
    if trained.hit or not again.hit or trained.loss != again.loss:
        raise ValueError(f"two queries of one program gave {trained.loss} and {again.loss}")
    return f"the toy task trains on {oracle.task.device}, and the second query is a hit"
