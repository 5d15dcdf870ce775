"""The command `nosbench evaluate`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer
from tqdm.auto import tqdm

from nosbench_env.cli.arguments import read_candidate
from nosbench_env.cli.options import (
    ArithmeticOption,
    DeviceOption,
    EpochsOption,
    IdentityOption,
    JsonOption,
    ProgramArgument,
    QuietOption,
    ShippedOption,
    StoreOption,
    TaskOption,
    counted_epochs,
    interruptible,
    make_oracle,
    on_terminal,
)
from nosbench_env.language.program import Program

if TYPE_CHECKING:
    from nosbench_env.evaluation import Evaluation
    from nosbench_env.oracles.oracle import Oracle
    from nosbench_env.tasks.task import Progress


def evaluate(
    program: ProgramArgument,
    task: TaskOption = "pfn",
    epochs: EpochsOption = None,
    seed: Annotated[int, typer.Option(help="Seed of the training; 0 is the paper's.")] = 0,
    device: DeviceOption = "auto",
    arithmetic: ArithmeticOption = "float32",
    identity: IdentityOption = "fingerprint",
    store: StoreOption = None,
    shipped: ShippedOption = True,
    explain: Annotated[
        bool, typer.Option("--explain", help="Also show the instructions that make no difference, and the reasons.")
    ] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Evaluates a program and prints its learning curve and final loss.

    A known result is looked up; an unknown program is trained. On the pfn task 20 epochs take a minute or two on a CPU.

    For example:

    * `nosbench evaluate AdamW`
    * `nosbench evaluate 'r9 = mul(grad, 0.01)' --task toy --epochs 5`
    * `nosbench evaluate 'torch.optim.SGD(lr=0.1, momentum=0.9)' --task toy`
    * `nosbench evaluate runs/my-run/best.txt --seed 1 --json`
    * `nosbench evaluate runs/my-run/best.txt --explain`
    """
    with interruptible(lambda: "Interrupted. This training is lost; finished ones are kept."):
        candidate = read_candidate(program)
        oracle = make_oracle(task, store, device, arithmetic, identity, shipped)
        explained = candidate if explain and isinstance(candidate, Program) else None
        if explain and explained is None:
            raise ValueError(f"--explain is for programs, got the optimizer {candidate}")
        if explained is not None and not as_json:
            print(f"{_explanation_text(explained)}\n", flush=True)
        total = (epochs or oracle.task.default_epochs) * oracle.task.steps_per_epoch
        with tqdm(total=total, unit="step", leave=False, disable=quiet or as_json or not on_terminal()) as bar:

            def on_step(progress: Progress) -> None:
                bar.update(progress.step - bar.n)
                bar.set_postfix_str(f"loss {progress.loss:.4f}", refresh=False)

            evaluation = oracle.query(candidate, epochs, seed, on_step=on_step)
    if as_json:
        print(json.dumps(evaluation.to_json() | ({} if explained is None else _explanation_json(explained))))
    else:
        print(_evaluation_text(evaluation, oracle))


def _evaluation_text(evaluation: Evaluation[Any], oracle: Oracle) -> str:
    lines = [str(evaluation.program) or "# the empty program", ""]
    lines += [
        f"epoch {epoch:>3}  loss {mean:.4f}" for epoch, mean in enumerate(evaluation.curve, evaluation.first_epoch + 1)
    ]
    origin = evaluation.provenance
    source = {
        "trained": f"trained in {evaluation.seconds:.1f} s on {oracle.task.device}",
        "store": f"a hit: trained on {origin.get('date')} in {evaluation.seconds:.1f} s on {origin.get('device')}",
        "shipped": f"a hit: shipped with nosbench_env, trained on {origin.get('date')} on {origin.get('device')}",
        "probe": "a hit: it diverges on the probe, so it is not trained",
    }[evaluation.source]
    lines += [
        f"{evaluation.task} task, {counted_epochs(evaluation.epochs)}, seed {evaluation.seed}: "
        f"final loss {evaluation.loss:.4f} ({evaluation.status})",
        source,
        f"store: {oracle.store.location}",
    ]
    return "\n".join(lines)


def _explanation_text(program: Program) -> str:
    """Explains a program: its live instructions, its simplified and its canonical form."""
    from nosbench_env.language.canonical import canonical_form
    from nosbench_env.language.simplify import explain

    explanations, form, simple = explain(program), canonical_form(program), program.simplified()
    width = max((len(str(line.instruction)) for line in explanations), default=0)
    lines = [f"{sum(line.live for line in explanations)} of {len(program)} instructions reach the update"]
    for number, explained in enumerate(explanations, start=1):
        line = f"{number:>4} {' ' if explained.live else '-'} {explained.instruction!s:<{width}}"
        lines.append(f"{line}  # {explained.remark}" if explained.remark else line.rstrip())
    lines += ["", f"Simplified, a {form.behaviour} program of {len(simple)} instruction{'s' * (len(simple) != 1)}:"]
    lines += [f"       {instruction}" for instruction in simple] or ["       # none: nothing is ever updated"]
    lines += ["", f"Canonical form {form}:"]
    return "\n".join([*lines, *(f"       {line}" for line in form.text.splitlines())])


def _explanation_json(program: Program) -> dict[str, Any]:
    from nosbench_env.language.canonical import canonical_form
    from nosbench_env.language.simplify import explain

    form = canonical_form(program)
    return {
        "explanation": {
            "instructions": [
                {"instruction": str(line.instruction), "live": line.live, "remark": line.remark}
                for line in explain(program)
            ],
            "simplified": program.simplified().to_json(),
            "behaviour": form.behaviour,
            "canonical": form.text,
            "canonical_digest": form.digest,
        }
    }
