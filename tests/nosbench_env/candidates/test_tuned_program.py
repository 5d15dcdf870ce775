import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import programs

from nosbench_env import KNOWN_PROGRAMS, Oracle, Program, ProgramOptimizer, ResultStore, make_task
from nosbench_env.candidates.candidate import candidate_from_json
from nosbench_env.candidates.tuned_program import ConstantUse, TunedOptimizer, TunedProgram, constant_uses
from nosbench_env.language.program import CONSTANTS
from nosbench_env.results.transfer import export_results, import_results
from nosbench_env.results.verify import verify

ADAMW = KNOWN_PROGRAMS["AdamW"]
# beta1 = 1 - 0.2, beta2 = 1 - 0.05, epsilon = 0.3 * 1e-6, weight decay 0.02, learning rate 0.007
OTHER_ADAMW = TunedProgram(
    ADAMW,
    {
        ConstantUse(2, 2): 0.2,
        ConstantUse(3, 2): 0.05,
        ConstantUse(8, 1): 0.3,
        ConstantUse(12, 2): 0.02,
        ConstantUse(14, 2): 0.007,
    },
)


def updates(make_optimizer, steps: int = 5) -> torch.Tensor:
    """The parameters after each of some steps with gradients of all kinds."""
    generator = torch.Generator().manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((3, 2), (4,))]
    optimizer = make_optimizer(params)
    trajectory = []
    for _ in range(steps):
        for param in params:
            param.grad = torch.randn(param.shape, generator=generator) * 0.1
            param.grad[0] = 0.0
        optimizer.step()
        trajectory.append(torch.cat([param.detach().flatten() for param in params]))
    return torch.stack(trajectory)


def test_other_constants_are_other_hyperparameters() -> None:
    def adamw(params):
        return torch.optim.AdamW(params, lr=0.007, betas=(0.8, 0.95), eps=0.3e-6, weight_decay=0.02)

    torch.testing.assert_close(updates(OTHER_ADAMW.make_optimizer), updates(adamw), rtol=1e-5, atol=1e-7)


def test_lr_multiplies_the_update() -> None:
    def sgd(params):
        return torch.optim.SGD(params, lr=0.01 * 0.25)

    tuned = TunedProgram(Program.parse("r9 = mul(grad, 0.01)"), lr=0.25)
    torch.testing.assert_close(updates(tuned.make_optimizer), updates(sgd), rtol=1e-6, atol=1e-9)


@given(programs(), st.data())
@settings(max_examples=60)
def test_constants_of_the_language_do_what_the_program_with_these_does(program: Program, data: st.DataObject) -> None:
    """Written into the program they are read from the constants' slots, else from slots of their own."""
    values = {use: data.draw(st.sampled_from(list(CONSTANTS.values()))) for use in constant_uses(program)}
    tuned = TunedProgram(program, values)
    written = tuned.as_program()
    assert written is not None
    assert (written == program) == (not tuned.constants)
    plain = updates(lambda params: ProgramOptimizer(params, written))
    torch.testing.assert_close(updates(tuned.make_optimizer), plain, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", ["AdamW", "Adadelta", "Incumbent", "PowerSign"])
def test_compiled_and_plain_steps_agree(name: str) -> None:
    program = KNOWN_PROGRAMS[name]
    tuned = TunedProgram(program, {use: value * 0.9 for use, value in constant_uses(program).items()}, lr=0.5)
    plain = updates(lambda params: TunedOptimizer(params, tuned, fused=False))
    compiled = updates(lambda params: TunedOptimizer(params, tuned, fused=True))
    assert plain.isfinite().all()
    torch.testing.assert_close(compiled, plain, rtol=1e-5, atol=1e-7)


def test_large_models_are_compiled() -> None:
    def optimizer(elements: int, **options) -> TunedOptimizer:
        return OTHER_ADAMW.make_optimizer([torch.nn.Parameter(torch.zeros(elements, **options))])

    assert optimizer(200_000).fused
    assert not optimizer(1_000).fused
    assert not optimizer(200_000, dtype=torch.float64).fused


def test_only_constants_that_reach_the_update_are_uses() -> None:
    program = Program.parse("r9 = add(0.1, 0.5); r9 = mul(grad, 0.01); r10 = interpolate(r9, 1.0, 1e-6)")
    assert constant_uses(program) == {
        ConstantUse(2, 2): 0.01,
        ConstantUse(3, 2): 1.0,
        ConstantUse(3, 3): 1e-6,
    }
    assert constant_uses(Program()) == {}
    assert ConstantUse.parse("12.2") == ConstantUse(12, 2)


def test_what_is_the_programs_own_is_no_change() -> None:
    own = TunedProgram(ADAMW, constant_uses(ADAMW))
    assert own == TunedProgram(ADAMW)
    assert own.as_program() == ADAMW
    assert hash(own) == hash(TunedProgram(ADAMW))
    assert OTHER_ADAMW.as_program() is None
    assert TunedProgram(ADAMW, lr=2).as_program() is None
    turned = TunedProgram(ADAMW, dict(reversed(OTHER_ADAMW.constants.items())))
    assert turned == OTHER_ADAMW
    assert turned.identity_value() == OTHER_ADAMW.identity_value() != own.identity_value()


def test_it_shows_its_numbers() -> None:
    assert str(TunedProgram(Program.parse("r9 = mul(grad, 0.01)"), {ConstantUse(1, 2): 1 / 3}, lr=0.5)) == (
        "r9 = mul(grad, 0.333333)\n# the update is multiplied by 0.5"
    )


def test_it_survives_json_and_pickle() -> None:
    assert TunedProgram.from_json(OTHER_ADAMW.to_json()) == OTHER_ADAMW
    assert candidate_from_json(OTHER_ADAMW.to_json()) == OTHER_ADAMW
    assert pickle.loads(pickle.dumps(OTHER_ADAMW)) == OTHER_ADAMW


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ({ConstantUse(1, 1): 0.2},),
            r"no constant at 1\.1.* 2\.1 \(1\.0\), 2\.2 \(0\.1\)",
        ),
        (({ConstantUse(2, 2): float("nan")},), r"constant at 2\.2 must be a number that float32 can hold, got nan"),
        (({ConstantUse(2, 2): 1e39},), "float32 can hold"),
        (({ConstantUse(2, 2): True},), "got True"),
        (({}, -1.0), "lr must be a finite number >= 0, got -1.0"),
        (({}, float("inf")), "lr must be"),
    ],
)
def test_what_it_can_not_be_is_said(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TunedProgram(ADAMW, *arguments)


def test_a_program_without_free_slots_is_said() -> None:
    text = "; ".join(f"r{slot} = mul(grad, 0.01)" for slot in range(9, 256))
    with pytest.raises(ValueError, match="no room for 1 numbers"):
        TunedProgram(Program.parse(text), {ConstantUse(247, 2): 0.3})


@pytest.mark.parametrize(
    "data",
    [
        [],
        {"program": []},
        {"program": [], "constants": {}, "lr": 1.0},
        {"program": [], "constants": [[1, 2]], "lr": 1.0},
        {"program": [], "constants": [[[], 1, 2.0]], "lr": 1.0},
        {"program": [], "constants": [], "lr": "1"},
        {"program": "x", "constants": [], "lr": 1.0},
    ],
)
def test_malformed_json_is_refused(data: object) -> None:
    with pytest.raises(ValueError):
        TunedProgram.from_json(data)
    for text in ("", "1", "1.", "a.b", "1.2.3", "-1.2", "99999999999999.2"):
        with pytest.raises(ValueError, match=r"LINE\.INPUT"):
            ConstantUse.parse(text)


@pytest.mark.parametrize("fused", [False, True])
def test_a_saved_state_goes_on_to_the_last_bit(fused: bool) -> None:
    def halves(params):
        optimizer = TunedOptimizer(params, OTHER_ADAMW, fused=fused)

        class Restarting:
            steps = 0

            def step(self) -> None:
                nonlocal optimizer
                if self.steps == 2:
                    state = optimizer.state_dict()
                    optimizer = TunedOptimizer(params, OTHER_ADAMW, fused=fused)
                    optimizer.load_state_dict(state)
                self.steps += 1
                optimizer.step()

        return Restarting()

    whole = updates(lambda params: TunedOptimizer(params, OTHER_ADAMW, fused=fused))
    torch.testing.assert_close(updates(halves), whole, rtol=0, atol=0)


def test_a_checkpoint_of_other_constants_is_refused(tmp_path: Path) -> None:
    task, file = make_task("toy", "cpu"), tmp_path / "checkpoint.pt"
    task.train(OTHER_ADAMW.make_optimizer, 1, checkpoint=file)
    longer = task.train(OTHER_ADAMW.make_optimizer, 2, checkpoint=file)
    np.testing.assert_array_equal(longer.epoch_means, task.train(OTHER_ADAMW.make_optimizer, 2).epoch_means)
    with pytest.raises(ValueError, match="belongs to another training"):
        task.train(TunedProgram(ADAMW).make_optimizer, 2, checkpoint=file)


def test_the_oracle_keeps_its_results_under_a_key_of_its_own(oracle: Oracle, tmp_path: Path) -> None:
    first, plain = oracle.query_many([OTHER_ADAMW, ADAMW], 2)
    assert first.source == plain.source == "trained"
    assert first.loss == oracle.task.train(OTHER_ADAMW.make_optimizer, 2).epoch_means[-1]
    assert first.key == f"toy-1/seed=0/float32/{OTHER_ADAMW.identity_value()}"
    again = oracle.query(TunedProgram.from_json(OTHER_ADAMW.to_json()), 1)
    assert (again.hit, again.loss) == (True, first.curve[0])
    assert oracle.query(OTHER_ADAMW, 2, seed=1).source == "trained"
    assert TunedProgram.from_json(first.provenance["program"]) == OTHER_ADAMW
    assert "canonical" not in first.provenance


def test_its_results_can_be_exported_imported_and_verified(oracle: Oracle, tmp_path: Path) -> None:
    evaluation = oracle.query(OTHER_ADAMW, 2)
    export_results(oracle.store, tmp_path / "results.jsonl.gz")
    other = ResultStore(tmp_path / "other.sqlite")
    import_results(tmp_path / "results.jsonl.gz", other)
    verified = []
    verify(list(other.records()), verified.append, device="cpu")
    assert [(one.stored.key, one.within, one.identity) for one in verified] == [(evaluation.key, True, "same")]
