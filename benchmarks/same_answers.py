"""Dumps the answers that a refactoring must not change, and compares two dumps.

    python benchmarks/same_answers.py dump before.json
    python benchmarks/same_answers.py dump after.json
    python benchmarks/same_answers.py compare before.json after.json

A dump holds sections of named items: forms of programs, fingerprints, keys and losses of results, trainings, searches,
episodes. All numbers are exact: floats are written in hexadecimal. Stores are new or in memory, so that everything is
trained, and the user's own store is not touched. `--quick` dumps less, in about half a minute of one core instead of
two. Dumps are comparable on one machine, with the same versions of other packages: elsewhere numbers round differently.

The script imports public names alone, so that it also runs where modules have moved. A section that fails is left out,
and the exit code of `dump` is 1; so is that of `compare` if there is a difference.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import astuple, dataclass
from functools import cache, partial
from hashlib import sha256
from importlib.metadata import version
from importlib.util import find_spec
from itertools import combinations
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray

import nosbench_env
from nosbench_env import (
    BASELINES,
    FUNCTIONS,
    KNOWN_PROGRAMS,
    TASKS,
    Curve,
    Evaluation,
    Instruction,
    OptimizerConfig,
    Oracle,
    Probe,
    ProbeTensor,
    Program,
    ProgramOptimizer,
    SearchSpace,
    TunedProgram,
    canonical_form,
    fingerprint,
    make_task,
    pseudocode,
    simplify,
)
from nosbench_env.agents import AGENTS, AgentPolicy, Budget, RandomSearch, RegularizedEvolution, search
from nosbench_env.sb3 import make_sb3_env
from nosbench_env.wrappers import (
    ActionMaskObservation,
    EpisodeRecorder,
    FlatObservation,
    LengthCost,
    LogReward,
    MultiObjectiveReward,
    NoveltyBonus,
    OneHotObservation,
    PotentialShaping,
    QueryBudget,
    RankReward,
    RelativeReward,
    RewardTransform,
    TokenObservation,
)

RECORDED = Path(__file__).parents[1] / "tests" / "data" / "programs.json"
PACKAGE = Path(nosbench_env.__file__).parent
INSTRUCTIONS, TOKENS, EDITS = (f"nosbench_env:NOSBench{kind}-v0" for kind in ("", "Token", "Edit"))
SPACE, WIDE = SearchSpace(), SearchSpace(20, 256)
CONSTRAINTS = ("gradient", "used", "written")
CONSTRAINED = SearchSpace(20, 20, CONSTRAINTS)
IDENTITIES = ("fingerprint", "canonical", "paper")
AT_ONCE = 64  # numbers of an array that are written out; of longer ones a digest is kept
SHOWN = 5  # differences shown of a section
NOTHING = "(nothing)"  # shown for an item that one of the dumps does not have

Items = Iterator[tuple[str, Any]]


@dataclass(frozen=True, slots=True)
class Sizes:
    """The sizes of a dump: numbers of programs, episodes and so on."""

    written: int = 1500
    recorded: int = 311
    drawn: int = 500
    asked: int = 150
    steps_fused: int = 40
    toy_trained: int = 60
    pfn_trained: int = 4
    pfn_plain: bool = True
    small_tasks: bool = True
    queries: int = 120
    learned_queries: int = 48
    learners: bool = True
    episodes: int = 30
    vector_steps: int = 100


FULL = Sizes()
QUICK = Sizes(
    written=300,
    recorded=100,
    drawn=100,
    asked=30,
    steps_fused=5,
    toy_trained=10,
    pfn_trained=0,
    pfn_plain=False,
    small_tasks=False,
    queries=110,
    learned_queries=32,
    learners=False,
    episodes=6,
    vector_steps=30,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    dumping = commands.add_parser("dump", help="writes the answers of the installed package")
    dumping.add_argument("file", type=Path)
    dumping.add_argument("--quick", action="store_true", help="dump less, in about half a minute")
    dumping.add_argument(
        "--only", nargs="+", choices=list(SECTIONS), metavar="SECTION", help="dump these sections alone"
    )
    comparing = commands.add_parser("compare", help="compares two dumps")
    comparing.add_argument("before", type=Path)
    comparing.add_argument("after", type=Path)
    options = parser.parse_args()
    if options.command == "dump":
        sys.exit(dump(options.file, options.quick, options.only or list(SECTIONS)))
    sys.exit(compare(options.before, options.after))


def dump(file: Path, quick: bool, names: Sequence[str]) -> int:
    """Writes the answers of this package to a file; returns the exit code."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", module="gymnasium")
    print(f"nosbench_env in {PACKAGE}")
    sizes = QUICK if quick else FULL
    sections: dict[str, dict[str, Any]] = {}
    failed: list[str] = []
    begun = time.perf_counter()
    for name in names:
        started = time.perf_counter()
        try:
            items = {item: exact(value) for item, value in SECTIONS[name](sizes)}
        except Exception:  # the other sections can be dumped all the same
            traceback.print_exc()
            failed.append(name)
            continue
        sections[name] = items
        print(f"{len(items):6,} items {time.perf_counter() - started:6.1f} s  {name}", flush=True)
    data = {"quick": quick, "made": made(), "sections": sections}
    file.write_text(json.dumps(data, indent=0, allow_nan=False) + "\n")
    print(f"{sum(map(len, sections.values())):6,} items {time.perf_counter() - begun:6.1f} s  in {file}")
    if failed:
        print(f"failed and left out: {', '.join(failed)}")
    return bool(failed)


def compare(before: Path, after: Path) -> int:
    """Prints the differences of two dumps; returns the exit code."""
    old, new = (json.loads(file.read_text()) for file in (before, after))
    if old["quick"] != new["quick"]:
        print("one of the dumps is quick, the other is not")
        return 1
    for what in ("machine", "versions"):
        if old["made"][what] != new["made"][what]:
            print(f"the {what} differ, so numbers may: {old['made'][what]}, {new['made'][what]}")
    differing = 0
    for name in {**old["sections"], **new["sections"]}:
        if name not in old["sections"] or name not in new["sections"]:
            print(f"{name}: in one of the dumps alone")
            differing += 1
            continue
        olds, news = old["sections"][name], new["sections"][name]
        everything = {**olds, **news}
        found = [item for item in everything if olds.get(item, NOTHING) != news.get(item, NOTHING)]
        print(f"{name}: {f'{len(found):,} of ' if found else ''}{len(everything):,} items {'differ' * bool(found)}")
        for item in found[:SHOWN]:
            print(f"  {item}: {first_difference(olds.get(item, NOTHING), news.get(item, NOTHING))}")
        differing += bool(found)
    total = sum(map(len, old["sections"].values()))
    print(f"{differing} sections differ" if differing else f"{total:,} items are the same")
    return bool(differing)


def first_difference(old: Any, new: Any, place: str = "") -> str:
    """Returns the first difference of two items, with its place."""
    if isinstance(old, dict) and isinstance(new, dict):
        key = next(key for key in {**old, **new} if old.get(key, NOTHING) != new.get(key, NOTHING))
        return first_difference(old.get(key, NOTHING), new.get(key, NOTHING), f"{place}[{key!r}]")
    if isinstance(old, list) and isinstance(new, list):
        if len(old) != len(new):
            return f"{place} had {len(old)} elements, has {len(new)}"
        index = next(index for index, pair in enumerate(zip(old, new, strict=True)) if pair[0] != pair[1])
        return first_difference(old[index], new[index], f"{place}[{index}]")
    if isinstance(old, str) and isinstance(new, str):
        alike = next((n for n, pair in enumerate(zip(old, new, strict=False)) if pair[0] != pair[1]), 0)
        old, new = old[max(0, alike - 20) :], new[max(0, alike - 20) :]
    return f"{place} was {short(old)}, is {short(new)}".strip()


def short(value: Any) -> str:
    """Returns a value's text, cut after 100 characters."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}..."


def made() -> dict[str, Any]:
    """Returns the machine and the versions of a dump."""
    packages = ("gymnasium", "llvmlite", "numpy", "pfns", "stable-baselines3", "torch")
    return {
        "package": str(PACKAGE),
        "machine": f"{platform.system()} {platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
        "versions": {"python": platform.python_version()} | {name: version(name) for name in packages},
    }


def exact(value: Any) -> Any:
    """Returns a value as exact JSON data, with digests of long arrays."""
    if isinstance(value, torch.Tensor):
        value = value.detach().numpy()
    if isinstance(value, np.ndarray):
        if value.dtype == object or value.size <= AT_ONCE:
            return {"dtype": str(value.dtype), "shape": list(value.shape), "values": [exact(v) for v in value.flat]}
        return digest([value])
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, (float, np.floating)):
        return float(value).hex()
    if isinstance(value, (np.bool_, np.integer)):
        return value.item()
    if isinstance(value, Mapping):
        return {str(key): exact(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [exact(item) for item in value]
    raise TypeError(f"no exact form of {type(value).__name__} is known")


def digest(arrays: Iterable[NDArray[Any]]) -> str:
    """Returns a digest of arrays, in which all NaN are equal."""
    found = sha256()
    count = 0
    for array in arrays:
        if array.dtype.kind == "f":
            array = np.where(np.isnan(array), array.dtype.type(math.nan), array)
        found.update(f"{array.dtype} {array.shape} ".encode() + np.ascontiguousarray(array).tobytes())
        count += 1
    return f"{count} arrays: {found.hexdigest()}"


def attempt(function: Callable[..., Any], *arguments: Any) -> Any:
    """Returns a function's value, or the name of the exception it raises."""
    try:
        return function(*arguments)
    except (ValueError, TypeError) as error:
        return type(error).__name__


def state_of(rng: np.random.Generator) -> str:
    """Returns a digest of a generator's state."""
    return sha256(json.dumps(rng.bit_generator.state).encode()).hexdigest()


# Programs.


@cache
def recorded() -> dict[str, Any]:
    """Returns the tests' data: programs, and the parameters they run on."""
    found: dict[str, Any] = json.loads(RECORDED.read_text())
    return found


@cache
def recorded_programs(count: int) -> dict[str, Program]:
    """Returns the first of the tests' programs."""
    rows = recorded()["rows"][:count]
    return {f"recorded {number}": Program.from_json(row["program"]) for number, row in enumerate(rows)}


@cache
def written_programs(count: int) -> dict[str, Program]:
    """Returns random programs of all functions, some with all slots."""
    rng = np.random.default_rng(20)
    arities = [(name, function.arity) for name, function in FUNCTIONS.items()]
    found = {}
    for number in range(count):
        slots = 256 if number % 4 == 3 else 20
        data: list[list[Any]] = []
        for _ in range(int(rng.integers(0, 21))):
            name, arity = arities[rng.integers(len(arities))]
            data.append([name, rng.integers(slots, size=arity).tolist(), int(rng.integers(9, slots))])
        found[f"written {number}"] = Program.from_json(data)
    return found


@cache
def spaces_to_draw_from() -> dict[str, SearchSpace]:
    """Returns search spaces of all constraints and of other sizes."""
    subsets = [subset for size in range(4) for subset in combinations(CONSTRAINTS, size)]
    found = {f"constraints {'+'.join(subset) or 'none'}": SearchSpace(20, 20, subset) for subset in subsets}
    return found | {"small": SearchSpace(4, 12, ("used", "gradient")), "wide": WIDE}


@cache
def drawn_programs(count: int) -> dict[str, Program]:
    """Returns samples of the search spaces."""
    spaces = spaces_to_draw_from()
    found = {}
    for name, space in spaces.items():
        rng = np.random.default_rng(21)
        found |= {f"drawn from {name} {number}": space.sample(rng) for number in range(count // len(spaces))}
    return found


@cache
def known_tuned() -> dict[str, TunedProgram]:
    """Returns tuned programs."""
    numbers = {"SGD": [[4, 2, 0.03]], "AdamW": [[2, 2, 0.05], [12, 2, 0.02], [14, 2, 0.0007]], "Incumbent": []}
    return {
        f"{name}, lr {lr}": TunedProgram.from_json(
            {"program": KNOWN_PROGRAMS[name].to_json(), "constants": constants, "lr": lr}
        )
        for name, constants in numbers.items()
        for lr in (1.0, 0.3)
    }


def useful_programs(count: int, seed: int) -> dict[str, Program]:
    """Returns random programs that obey all constraints."""
    rng = np.random.default_rng(seed)
    return {f"useful {number}": CONSTRAINED.sample(rng) for number in range(count)}


def programs_of_oracles(sizes: Sizes) -> dict[str, Program]:
    """Returns the programs that are asked about."""
    written = [program for program in written_programs(sizes.asked).values() if len(program)]
    rest = sizes.asked - sizes.asked // 3
    return (
        dict(KNOWN_PROGRAMS)
        | {f"written {number}": program for number, program in enumerate(written[:rest])}
        | useful_programs(sizes.asked // 3, 22)
    )


def programs(sizes: Sizes) -> Items:
    """Yields the forms of programs."""
    groups = (
        KNOWN_PROGRAMS,
        recorded_programs(sizes.recorded),
        written_programs(sizes.written),
        drawn_programs(sizes.drawn),
    )
    for group in groups:
        for name, program in group.items():
            yield name, forms(program)


def forms(program: Program) -> dict[str, Any]:
    """Returns all that is computed from a program's text alone."""
    form, shorter = canonical_form(program), program.simplified()
    space = SPACE if program in SPACE else WIDE
    tokens = attempt(space.tokens, program)
    from_tokens = attempt(space.from_tokens, tokens)
    actions = [space.encode(instruction).tolist() for instruction in program]
    return {
        "text": str(program),
        "json": program.to_json(),
        "length": len(program),
        "canonical": form.text,
        "digest": form.digest,
        "identity": str(form),
        "behaviour": form.behaviour,
        "simplified": str(shorter),
        "pseudocode": pseudocode(program),
        "tokens": tokens,
        "actions": actions,
        "in the space": [program in SPACE, program in WIDE, program in CONSTRAINED],
        "same again": [
            Program.parse(str(program)) == program,
            Program.from_json(program.to_json()) == program,
            Program(tuple(space.decode(action) for action in actions)) == program,
            from_tokens if isinstance(from_tokens, str) else from_tokens == program,
            simplify(program) == shorter,
            canonical_form(shorter) == form,
            program[: len(program) // 2] == program,
        ],
    }


def draws(sizes: Sizes) -> Items:
    """Yields samples and mutations, with the state of the generator after each."""
    spaces = spaces_to_draw_from()
    for name, space in spaces.items():
        rng = np.random.default_rng(23)
        yield f"{name}: space", {"json": space.to_json(), "sizes": space.action_sizes, "tokens": space.token_count}
        for number in range(sizes.drawn // len(spaces)):
            program = space.sample(rng)
            sampled = state_of(rng)
            mutant = space.mutate(program, rng)
            yield (
                f"{name} {number}",
                {
                    "sample": program.to_json(),
                    "mutant": mutant.to_json(),
                    "canonical": str(canonical_form(mutant)),
                    "tokens": space.tokens(mutant),
                    "mask": space.action_masks(len(program) % 3),
                    "states": [sampled, state_of(rng)],
                },
            )
        for known, program in KNOWN_PROGRAMS.items():
            admitted = attempt(space.admit, program)
            yield f"{name}: {known}", admitted if isinstance(admitted, str) else str(admitted)
    rng = np.random.default_rng(24)
    yield "instructions", [str(SPACE.sample_instruction(rng)) for _ in range(50)]
    yield "stop", SPACE.stop_action


PYTHON_STEPS = {
    "momentum": """
def step(w, grad, t, m):
    m = 0.9 * m + grad
    return 0.01 * m
""",
    "Adam": """
def step(w, grad, t):
    beta1 = 0.9
    beta2 = 1 - 0.001
    m = beta1 * m + (1 - beta1) * grad
    v = beta2 * v + (1 - beta2) * grad * grad
    w = w - 0.001 * ((m / (1 - beta1 ** t)) / ((v / (1 - beta2 ** t)) ** 0.5 + 1e-8))
""",
    "Adagrad": """
def step(w, grad):
    total += grad.square()
    return 0.01 * (grad / (total.sqrt() + 1e-8))
""",
    "Lion": """
def step(w, grad):
    update = torch.sign(0.9 * m + 0.1 * grad)
    m = 0.99 * m + 0.01 * grad
    w = w - 0.001 * (update + 0.01 * w)
""",
    "norms": """
def step(w, grad, t):
    scale = torch.maximum(torch.norm(w), grad.std())
    return 0.1 * scale * grad.mean() * torch.exp(t)
""",
    "refused": """
def step(w, grad):
    return grad @ w
""",
}


def python_steps(_: Sizes) -> Items:
    """Yields the programs that Python functions become."""
    for name, source in PYTHON_STEPS.items():
        found = attempt(Program.from_python, source)
        yield name, found if isinstance(found, str) else found.to_json()


def steps(sizes: Sizes) -> Items:
    """Yields parameters after steps of programs, plain and compiled."""
    found = dict(KNOWN_PROGRAMS) | recorded_programs(sizes.recorded) | useful_programs(sizes.steps_fused, 25)
    for name, program in found.items():
        yield f"plain, {name}", trajectory(partial(ProgramOptimizer, program=program))
    for name, program in (dict(KNOWN_PROGRAMS) | useful_programs(sizes.steps_fused, 25)).items():
        yield f"fused, {name}", trajectory(partial(ProgramOptimizer, program=program, fused=True))
    for name, tuned in known_tuned().items():
        yield f"tuned, {name}", trajectory(tuned.make_optimizer)
    yield "half the rate", trajectory(partial(ProgramOptimizer, program=KNOWN_PROGRAMS["Adam"], lr=0.5))
    yield "double precision", trajectory(partial(ProgramOptimizer, program=KNOWN_PROGRAMS["Adam"]), torch.float64)


def trajectory(make_optimizer: Callable[..., torch.optim.Optimizer], dtype: torch.dtype = torch.float32) -> list[str]:
    """Returns digests of the parameters after each of five steps."""
    data = recorded()
    pairs = zip(data["initial"], data["shapes"], strict=True)
    params = [torch.nn.Parameter(torch.tensor(values, dtype=dtype).reshape(shape)) for values, shape in pairs]
    optimizer = make_optimizer(params)
    found = []
    for number in range(5):
        for place, param in enumerate(params, start=1):
            wave = torch.cos(torch.arange(param.numel(), dtype=dtype) + number).reshape(param.shape)
            param.grad = 0.5 * param.detach() + 0.1 * place * wave
        optimizer.step()
        found.append(digest(param.detach().numpy() for param in params))
    return found


def fingerprints(sizes: Sizes) -> Items:
    """Yields fingerprints of programs on several probes."""
    groups = (
        KNOWN_PROGRAMS,
        recorded_programs(sizes.recorded),
        written_programs(sizes.written),
        drawn_programs(sizes.drawn),
    )
    tensors = (
        ProbeTensor(1, (-1.0, 1.0), 0.25),
        ProbeTensor(300, (0.0, 0.0), 0.125, (1, 3), True),
        ProbeTensor(4096, (-2.0, 2.0), 0.5),
    )
    probes = {name: getattr(make_task(name, "cpu"), "probe") for name in ("toy", "mlp")}  # noqa: B009  # no protocol's
    probes |= {"own": Probe("own-1", tensors, 4, 2)}
    yield "probes", {name: astuple(probe) for name, probe in probes.items()}
    for group in groups:
        for name, program in group.items():
            found = {"default": fingerprint(program), "paper": fingerprint(program, "paper")}
            found |= {probe: fingerprint(program, "fingerprint", probes[probe]) for probe in probes}
            yield name, {kind: [str(each), each.status] for kind, each in found.items()}


# Results.


@contextmanager
def fresh_oracle(task: str = "toy", identity: Any = "fingerprint", *, on_disk: bool = False) -> Iterator[Oracle]:
    """Makes an oracle with a new store, which trains in this process."""
    with tempfile.TemporaryDirectory() as folder:
        store = str(Path(folder) / "results.sqlite") if on_disk else "sqlite://"
        oracle = Oracle(task, store, "cpu", identity, 1)
        yield oracle
        oracle.close()


def answer(evaluation: Evaluation[Any] | None) -> dict[str, Any] | None:
    """Returns an evaluation without dates, times and versions."""
    if evaluation is None:
        return None
    provenance = evaluation.provenance
    return {
        "key": evaluation.key,
        "task": evaluation.task,
        "epochs": evaluation.epochs,
        "seed": evaluation.seed,
        "loss": evaluation.loss,
        "status": evaluation.status,
        "curve": evaluation.curve,
        "first epoch": evaluation.first_epoch,
        "hit": evaluation.hit,
        "source": evaluation.source,
        "program": json.dumps(evaluation.program.to_json()),
        "trained": {name: provenance[name] for name in ("program", "canonical") if name in provenance},
        "fields": sorted(evaluation.to_json()),
        "provenance": sorted(provenance),
    }


def counts(oracle: Oracle) -> dict[str, Any]:
    """Returns the statistics of an oracle."""
    found = oracle.statistics
    return {
        "queries": found.queries,
        "trained": found.trained,
        "stored": found.stored,
        "diverged": found.diverged,
        "hit rate": found.hit_rate,
        "excluding diverged": found.hit_rate_excluding_diverged,
    }


def keys(sizes: Sizes) -> Items:
    """Yields evaluations of programs on the toy task, by identity."""
    asked = programs_of_oracles(sizes)
    for identity in IDENTITIES:
        with fresh_oracle("toy", identity, on_disk=True) as oracle:
            for name, program in asked.items():
                yield f"{identity}, {name}", answer(oracle.query(program, epochs=1))
            yield f"{identity}, statistics", counts(oracle)
            again = oracle.query_many(list(asked.values()), epochs=1)
            yield f"{identity}, again", [[each.key, each.loss, each.source] for each in again]
            yield f"{identity}, more epochs", answer(oracle.look_up(KNOWN_PROGRAMS["Adam"], epochs=2))
            many = oracle.query_many(list(asked.values())[:20], 2, 3, last_epoch_only=True)
            yield f"{identity}, another seed", [answer(each) for each in many]
            yield f"{identity}, statistics at the end", counts(oracle)


def candidates(_: Sizes) -> Items:
    """Yields evaluations of baselines and tuned programs on the toy task."""
    found: dict[str, Any] = {
        f"{baseline.group}, {name}": baseline.candidate
        for name, baseline in BASELINES.items()
        if baseline.group != "recent" or find_spec("pytorch_optimizer") is not None
    }
    yield "baselines", {name: [each.group, each.paper_loss, str(each.candidate)] for name, each in BASELINES.items()}
    found |= {f"tuned, {name}": tuned for name, tuned in known_tuned().items()}
    nesterov = OptimizerConfig("torch.optim.SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True}, "cosine-to-zero")
    found["nesterov"] = nesterov
    yield "read", str(OptimizerConfig.parse(str(nesterov))) == str(nesterov)
    with fresh_oracle() as oracle:
        for name, candidate in found.items():
            texts = [str(candidate), json.dumps(candidate.to_json())]
            asked = {f"{epochs} epochs": answer(oracle.query(candidate, epochs, 1)) for epochs in (1, 4)}
            yield name, {"texts": texts, **asked}
        yield "statistics", counts(oracle)


def shipped(_: Sizes) -> Items:
    """Yields the results that come with the package."""
    for file in sorted(PACKAGE.rglob("*.jsonl.gz")):
        yield f"file {file.name}", sha256(gzip.decompress(file.read_bytes())).hexdigest()
    found: dict[str, Any] = {name: baseline.candidate for name, baseline in BASELINES.items()} | dict(KNOWN_PROGRAMS)
    found |= useful_programs(3, 26)
    with fresh_oracle("pfn") as oracle:
        for name, candidate in found.items():
            for epochs in (1, 20):
                for seed in range(3):
                    known = oracle.look_up(candidate, epochs, seed)
                    yield (
                        f"{name}, {epochs} epochs, seed {seed}",
                        answer(known)
                        and {
                            **(answer(known) or {}),
                            "provenance": dict(known.provenance if known else {}),
                        },
                    )
        yield "statistics", counts(oracle)


# Trainings.


def curve_of(curve: Curve) -> dict[str, Any]:
    """Returns a learning curve without the time it took."""
    validation = curve.validation_losses
    return {
        "losses": curve.step_losses.tolist(),
        "means": curve.epoch_means.tolist(),
        "stopped": curve.stopped_at,
        "first epoch": curve.first_epoch,
        "validation": None if validation is None else validation.tolist(),
    }


def torch_adamw(params: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """Makes PyTorch's AdamW."""
    return torch.optim.AdamW(params, lr=0.001)


def toy(sizes: Sizes) -> Items:
    """Yields trainings on the toy task."""
    task = make_task("toy", "cpu")
    yield "task", [task.name, task.version, task.arithmetic, task.device, task.default_epochs, task.steps_per_epoch]
    found = dict(KNOWN_PROGRAMS) | useful_programs(sizes.toy_trained // 2, 27)
    found |= {name: program for name, program in written_programs(sizes.toy_trained).items() if len(found) < 100}
    for seed in (0, 1):
        curves = task.train_programs(list(found.values()), 3, seed)
        for name, curve in zip(found, curves, strict=True):
            yield f"{name}, seed {seed}", curve_of(curve)
    for kind, make_optimizer in ways(KNOWN_PROGRAMS["AdamW"]).items():
        yield kind, curve_of(task.train(make_optimizer, 3, 0))
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = Path(folder) / "checkpoint.pt"
            parts = [task.train(make_optimizer, epochs, 2, checkpoint=checkpoint) for epochs in (1, 3)]
            yield f"{kind}, resumed", [curve_of(part) for part in parts]


def ways(program: Program) -> dict[str, Callable[..., torch.optim.Optimizer]]:
    """Returns the optimizers of one program, and PyTorch's AdamW."""
    return {
        "plain": partial(ProgramOptimizer, program=program),
        "fused": partial(ProgramOptimizer, program=program, fused=True),
        "torch": torch_adamw,
    }


def pfn(sizes: Sizes) -> Items:
    """Yields trainings on the PFN task."""
    task = make_task("pfn", "cpu")
    yield "task", [task.name, task.version, task.arithmetic, task.device, task.default_epochs, task.steps_per_epoch]
    names = ("AdamW", "Incumbent", "SGD", "Adadelta") if sizes.pfn_trained else ("AdamW",)
    found = {name: KNOWN_PROGRAMS[name] for name in names} | useful_programs(sizes.pfn_trained, 28)
    found["without gradient"] = Program.parse("r9 = mul(param, 0.001); r10 = sin(step); r11 = mul(r9, r10)")
    curves = task.train_programs(list(found.values()), 1, 0)
    for name, curve in zip(found, curves, strict=True):
        yield name, curve_of(curve)
    if sizes.pfn_plain:
        for kind, make_optimizer in ways(KNOWN_PROGRAMS["AdamW"]).items():
            yield kind, curve_of(task.train(make_optimizer, 1, 1))
        last = task.train_programs([found["without gradient"]], 2, 0, last_epoch_only=True)
        yield "last epoch alone", [curve_of(curve) for curve in last]


def mlp(sizes: Sizes) -> Items:
    """Yields trainings on the MLP tasks."""
    yield "tasks", list(TASKS)
    names = [name for name in TASKS if name.startswith("mlp")] if sizes.small_tasks else ["mlp-iris"]
    asked = ("AdamW", "SGD")
    for task_name in names:
        task = make_task(task_name, "cpu")
        yield f"{task_name}, task", [task.name, task.version, task.default_epochs, task.steps_per_epoch]
        curves = task.train_programs([KNOWN_PROGRAMS[name] for name in asked], 1, 0)
        for name, curve in zip(asked, curves, strict=True):
            yield f"{task_name}, {name}", curve_of(curve)
    iris = make_task("mlp-iris", "cpu")
    for kind, make_optimizer in ways(KNOWN_PROGRAMS["AdamW"]).items():
        yield f"mlp-iris, {kind}", curve_of(iris.train(make_optimizer, 3, 1))


# Searches.


@dataclass(frozen=True, slots=True)
class Search:
    """A search: its agent, its queries, and how many are asked together."""

    make_agent: Callable[[], Any]
    queries: int
    batch_size: int = 1


def searches(sizes: Sizes) -> dict[str, Search]:
    """Returns the searches of a dump."""
    start, some = KNOWN_PROGRAMS["AdamW"], sizes.learned_queries
    found = {
        "rs": Search(lambda: RandomSearch(None, 1), sizes.queries),
        "rs constrained": Search(lambda: RandomSearch(CONSTRAINED, 1), sizes.queries // 2, 7),
        "re from AdamW": Search(lambda: RegularizedEvolution(None, 1, start), sizes.queries),
        "re from random": Search(lambda: RegularizedEvolution(None, 1), sizes.queries),
        "re, small": Search(lambda: RegularizedEvolution(None, 1, start, 20, 5), sizes.queries, 4),
        "reinforce": Search(lambda: AGENTS["reinforce"](CONSTRAINED, 1), some, 8),
        "risk-seeking": Search(lambda: AGENTS["risk-seeking"](CONSTRAINED, 1), some, 8),
    }
    if not sizes.learners:
        return found
    found["risk-seeking that breeds"] = Search(lambda: AGENTS["risk-seeking"](CONSTRAINED, 1, evolution=0.4), some, 8)
    for name in ("ppo", "maskable-ppo"):
        if name == "ppo" or find_spec("sb3_contrib") is not None:
            found[name] = Search(lambda name=name: AGENTS[name](None, 1, n_steps=64, minibatch_size=32), some, 8)
    return found


def agents(sizes: Sizes) -> Items:
    """Yields searches on the toy task."""
    for name, each in searches(sizes).items():
        yield from searched(name, each)


def smac(sizes: Sizes) -> Items:
    """Yields searches of SMAC, in a process with fixed hashes.

    SMAC goes through sets of configurations, in an order that depends on the hashes of strings.
    """
    if not sizes.learners or find_spec("smac") is None or find_spec("ConfigSpace") is None:
        return
    if os.environ.get("PYTHONHASHSEED") == "0":
        yield from searched("smac-nos", Search(lambda: AGENTS["smac-nos"](None, 1), sizes.learned_queries, 4))
        yield from searched("smac-hpo", Search(lambda: AGENTS["smac-hpo"](1, 10), sizes.learned_queries, 4))
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "smac.json"
        command = [sys.executable, __file__, "dump", str(file), "--only", "smac"]
        subprocess.run(command, env=os.environ | {"PYTHONHASHSEED": "0"}, stdout=subprocess.DEVNULL, check=True)
        yield from json.loads(file.read_text())["sections"]["smac"].items()


def searched(name: str, each: Search) -> Items:
    """Yields the queries of a search, its result and its run folder."""
    with fresh_oracle(on_disk=True) as oracle, tempfile.TemporaryDirectory() as parent:
        folder, agent = Path(parent) / "run", each.make_agent()
        budget = Budget(queries=each.queries)
        result = search(agent, oracle, budget, epochs=2, folder=folder, batch_size=each.batch_size)
        for number, line in enumerate((folder / "history.jsonl").read_text().splitlines(), start=1):
            entry = json.loads(line)
            del entry["seconds"]
            yield f"{name}, query {number}", entry
        best = result.best
        found = {
            "spent": [result.queries, result.distinct, result.trained, result.simulated_seconds],
            "best": None if best is None else [best.number, best.loss, best.key, str(best.program)],
            "statistics": counts(oracle),
        }
        yield f"{name}, result", found
        yield f"{name}, best.txt", (folder / "best.txt").read_text()
        yield f"{name}, config.json", json.loads((folder / "config.json").read_text())
        yield f"{name}, state", sha256(json.dumps(agent.state_dict(), sort_keys=True).encode()).hexdigest()


# Environments.


@dataclass(frozen=True, slots=True)
class Play:
    """An environment to play: its id and its own arguments."""

    env_id: str
    arguments: Mapping[str, Any]


PLAYS = {
    "instructions": Play(INSTRUCTIONS, {}),
    "instructions, constrained": Play(INSTRUCTIONS, {"constraints": ["used", "gradient"], "max_instructions": 8}),
    "instructions, paper": Play(INSTRUCTIONS, {"identity": "paper", "training_seed": 2, "memory_size": 12}),
    "tokens": Play(TOKENS, {}),
    "tokens, constrained": Play(TOKENS, {"constraints": list(CONSTRAINTS), "max_instructions": 8}),
    "edits": Play(EDITS, {"max_edits": 10}),
    "edits, paid at the end": Play(EDITS, {"evaluate": "end", "start": "Adam", "constraints": ["used"]}),
}


def allowed(masks: NDArray[np.bool_], space: gymnasium.Space[Any], rng: np.random.Generator) -> Any:
    """Returns a random action that masks allow."""
    if isinstance(space, gymnasium.spaces.Discrete):
        return rng.choice(np.flatnonzero(masks))
    assert isinstance(space, gymnasium.spaces.MultiDiscrete)
    factors = np.split(masks, np.cumsum(space.nvec)[:-1])
    return np.array([rng.choice(np.flatnonzero(factor)) for factor in factors])


def episode(env: gymnasium.Env[Any, Any], rng: np.random.Generator, seed: int | None = None) -> dict[str, Any]:
    """Plays an episode of random allowed actions."""
    observation, info = env.reset(seed=seed)
    observations, masks, actions, rewards, infos = [observation], [], [], [], [info]
    state = env.get_wrapper_attr("get_state")()
    terminated = truncated = False
    while not (terminated or truncated):
        masks.append(env.get_wrapper_attr("action_masks")())
        actions.append(allowed(masks[-1], env.action_space, rng))
        observation, reward, terminated, truncated, info = env.step(actions[-1])
        observations.append(observation)
        rewards.append(reward)
        infos.append(info)
        if len(actions) == 3:
            state = env.get_wrapper_attr("get_state")()
    last = env.get_wrapper_attr("last_evaluation")
    return {
        "actions": [np.asarray(action).tolist() for action in actions],
        "observations": seen(observations),
        "masks": digest(masks),
        "rewards": rewards,
        "ended": [terminated, truncated],
        "infos": [info for info in infos if info],
        "state": state,
        "program": str(env.get_wrapper_attr("program")),
        "evaluation": None if last is None else [last.key, last.loss, last.hit, last.source, last.first_epoch],
    }


def seen(observations: Sequence[Any]) -> Any:
    """Returns a digest of observations, which may be dictionaries."""
    if isinstance(observations[0], Mapping):
        return {name: digest(each[name] for each in observations) for name in observations[0]}
    return digest(observations)


def envs(sizes: Sizes) -> Items:
    """Yields spaces and episodes of the single environments."""
    for name, play in PLAYS.items():
        with tempfile.TemporaryDirectory() as folder:
            store = str(Path(folder) / "results.sqlite")
            env = gymnasium.make(play.env_id, task="toy", epochs=1, device="cpu", store=store, **play.arguments)
            yield f"{name}, spaces", [repr(env.action_space), repr(env.observation_space)]
            rng = np.random.default_rng(29)
            for number in range(sizes.episodes):
                yield f"{name}, episode {number}", episode(env, rng, 7 if number == 0 else None)
            env.close()


def policies(_: Sizes) -> Items:
    """Yields episodes in which a search method writes the programs."""
    for env_id in (INSTRUCTIONS, TOKENS):
        with fresh_oracle() as oracle:
            policy = AgentPolicy(RegularizedEvolution(None, 3, KNOWN_PROGRAMS["SGD"], 4, 2))
            env = policy.wrap(gymnasium.make(env_id, task="toy", epochs=1, oracle=oracle))
            for number in range(8):
                observation, _ = env.reset()
                terminated, rewards = False, []
                while not terminated:
                    action, _ = policy.predict(observation)
                    observation, reward, terminated, _, info = env.step(action)
                    rewards.append(reward)
                yield f"{env_id}, episode {number}", {"rewards": rewards, "info": info}


def vector_envs(sizes: Sizes) -> Items:
    """Yields steps of the vector environments, in two autoreset modes."""
    for name, play in PLAYS.items():
        for mode in ("NextStep", "SameStep"):
            with fresh_oracle() as oracle, ExitStack() as stack:
                made_with = {"task": "toy", "epochs": 1, "oracle": oracle, "autoreset_mode": mode, **play.arguments}
                vector = gymnasium.make_vec(
                    play.env_id, num_envs=8, vectorization_mode="vector_entry_point", **made_with
                )
                stack.callback(vector.close)
                yield f"{name}, {mode}, spaces", [repr(vector.action_space), repr(vector.observation_space)]
                rng = np.random.default_rng(30)
                yield f"{name}, {mode}, reset", list(vector.reset(seed=3))
                for number in range(sizes.vector_steps):
                    masks = vector.unwrapped.action_masks()
                    actions = np.array([allowed(row, vector.single_action_space, rng) for row in masks])
                    yield f"{name}, {mode}, step {number}", [actions, masks, *vector.step(actions)]
                last = vector.unwrapped.last_evaluations
                yield f"{name}, {mode}, last", [None if each is None else [each.key, each.loss] for each in last]
                yield f"{name}, {mode}, statistics", counts(oracle)


def sb3_envs(sizes: Sizes) -> Items:
    """Yields steps of the environments for stable-baselines3."""
    for name, play in PLAYS.items():
        with fresh_oracle() as oracle:
            vector = make_sb3_env(play.env_id, 4, 1, task="toy", epochs=1, oracle=oracle, **play.arguments)
            yield f"{name}, spaces", [repr(vector.action_space), repr(vector.observation_space)]
            rng = np.random.default_rng(31)
            yield f"{name}, reset", vector.reset()
            for number in range(sizes.vector_steps // 2):
                masks = vector.action_masks()
                actions = np.array([allowed(row, vector.action_space, rng) for row in masks])
                observations, rewards, dones, infos = vector.step(actions)
                for info in infos:
                    info.get("episode", {}).pop("t", None)  # the time
                yield f"{name}, step {number}", [actions, masks, observations, rewards, dones, infos]
            vector.close()


def wrappers(sizes: Sizes) -> Items:
    """Yields episodes in wrapped environments, and the costs of programs."""
    with tempfile.TemporaryDirectory() as folder:
        lines = Path(folder) / "episodes.jsonl"
        wraps: dict[str, Callable[[gymnasium.Env[Any, Any]], gymnasium.Env[Any, Any]]] = {
            "ActionMaskObservation": ActionMaskObservation,
            "EpisodeRecorder": lambda env: EpisodeRecorder(env, lines),
            "FlatObservation": FlatObservation,
            "LengthCost": lambda env: LengthCost(env, 0.01),
            "LogReward": LogReward,
            "NoveltyBonus": lambda env: NoveltyBonus(env, 0.2),
            "OneHotObservation": OneHotObservation,
            "PotentialShaping, usable": lambda env: PotentialShaping(env, 0.99, "usable", 2.0),
            "PotentialShaping, gradient": lambda env: PotentialShaping(env, 1.0, "gradient"),
            "QueryBudget": lambda env: QueryBudget(env, 1000, 1000),
            "RankReward": lambda env: RankReward(env, 3),
            "RelativeReward": lambda env: RelativeReward(env, "Adam"),
            "RewardTransform": lambda env: RewardTransform(env, 0.5, -1.0, 2.0),
            "TokenObservation": TokenObservation,
            "MultiObjectiveReward": MultiObjectiveReward,
            "MultiObjectiveReward, chebyshev": lambda env: MultiObjectiveReward(
                env, ("memory", "instructions"), (1.0, 0.1, 0.2), "chebyshev", 1.0
            ),
            "MultiObjectiveReward, vector": lambda env: MultiObjectiveReward(env, COSTS, None, "none"),
        }
        for play_name in ("instructions", "tokens, constrained", "edits, paid at the end"):
            play = PLAYS[play_name]
            for name, wrap in wraps.items():
                if play.env_id == EDITS and name == "RelativeReward":
                    continue  # it refuses rewards that are relative already
                with fresh_oracle() as oracle:
                    env = wrap(gymnasium.make(play.env_id, task="toy", epochs=1, oracle=oracle, **play.arguments))
                    rng = np.random.default_rng(32)
                    yield f"{play_name}, {name}, spaces", [repr(env.action_space), repr(env.observation_space)]
                    for number in range(max(2, sizes.episodes // 6)):
                        yield f"{play_name}, {name}, episode {number}", episode(env, rng, number or None)
        for number, line in enumerate(lines.read_text().splitlines()):
            data = json.loads(line)
            yield f"recorded episode {number}", {name: data[name] for name in data.keys() - {"provenance", "seconds"}}
    yield from costs(sizes)


COSTS = ("memory", "operations", "instructions")


def costs(sizes: Sizes) -> Items:
    """Yields the costs of programs."""
    found = {name: SPACE.admit(program) for name, program in KNOWN_PROGRAMS.items()}
    found |= useful_programs(sizes.asked // 3, 33) | drawn_programs(sizes.drawn)
    with fresh_oracle() as oracle:
        env = MultiObjectiveReward(gymnasium.make(INSTRUCTIONS, task="toy", epochs=1, oracle=oracle), COSTS)
        for name, program in found.items():
            if program not in SPACE:
                continue
            env.reset()
            actions = [SPACE.encode(instruction) for instruction in program]
            for action in actions if len(actions) == SPACE.max_instructions else [*actions, SPACE.stop_action]:
                _, reward, _, _, info = env.step(action)
            yield f"costs, {name}", [reward, info["objectives"]]


def exports(_: Sizes) -> Items:
    """Yields the JSON forms of all that has one."""
    for name, baseline in BASELINES.items():
        yield name, baseline.candidate.to_json()
    for name, tuned in known_tuned().items():
        yield f"tuned, {name}", [tuned.to_json(), str(tuned), as_program(tuned)]
    for name, space in spaces_to_draw_from().items():
        yield f"space, {name}", space.to_json()
    yield "instruction", str(Instruction("mul", (1, 6), 9))
    yield "functions", {name: [function.name, function.arity] for name, function in FUNCTIONS.items()}


def as_program(tuned: TunedProgram) -> str | None:
    """Returns a tuned program as text, if the language has its numbers."""
    found = tuned.as_program()
    return None if found is None else str(found)


SECTIONS: Mapping[str, Callable[[Sizes], Items]] = {
    "programs": programs,
    "draws": draws,
    "python steps": python_steps,
    "steps": steps,
    "fingerprints": fingerprints,
    "keys": keys,
    "candidates": candidates,
    "shipped": shipped,
    "toy": toy,
    "pfn": pfn,
    "mlp": mlp,
    "agents": agents,
    "smac": smac,
    "policies": policies,
    "envs": envs,
    "vector envs": vector_envs,
    "sb3 envs": sb3_envs,
    "wrappers": wrappers,
    "exports": exports,
}

if __name__ == "__main__":
    main()
