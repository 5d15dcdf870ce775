import pytest
from hypothesis import given
from strategies import any_programs

from nosbench_env import KNOWN_PROGRAMS, Program, canonical_form
from nosbench_env.export.step import Step, names_in, step_of
from nosbench_env.language.live_code import Kind

FIXED = {"param", "grad", "t"}


def step(text: str) -> Step:
    return step_of(canonical_form(Program.parse(text)))


@given(any_programs())
def test_every_line_reads_known_names_and_has_a_name_of_its_own(program: Program) -> None:
    written = step_of(canonical_form(program))
    known = {*FIXED, *written.memories}
    lines = [*written.schedule, *written.lines]
    for line in lines:
        assert set(names_in(line.term)) <= known
        known.add(line.name)
    names = [line.name for line in lines]
    assert len(set(names)) == len(names)
    assert names.count("param") == 1
    assert {*written.memories} <= set(names)
    assert {*known} == {*written.kinds} - {"w", "g"}


@given(any_programs())
def test_only_the_schedule_is_the_same_for_all_tensors(program: Program) -> None:
    written = step_of(canonical_form(program))
    scheduled = {"t", *(line.name for line in written.schedule)}
    assert all(written.kind(line.term) == Kind.STEP for line in written.schedule)
    assert all(set(names_in(line.term)) <= scheduled for line in written.schedule)
    assert set(written.memories.values()) <= {Kind.TENSOR, Kind.ARRAY}


def test_adamw_is_written_as_torch_does() -> None:
    adamw = step_of(canonical_form(KNOWN_PROGRAMS["AdamW"]))
    assert [line.name for line in adamw.schedule] == ["bias_correction1", "bias_correction2"]
    assert adamw.memories == {"exp_avg": Kind.ARRAY, "exp_avg_sq": Kind.ARRAY}
    assert [line.name for line in adamw.lines] == ["exp_avg", "exp_avg_sq", "denom", "update", "param"]
    assert adamw.counts_steps
    assert not adamw.grows


@pytest.mark.parametrize(
    ("text", "grows"),
    [
        ("r9 = std(r10); r10 = mul(grad, 1.0); r11 = add(r9, grad)", True),
        ("r9 = size(r10); r10 = add(r10, grad); r11 = mul(r10, r9)", True),
        ("r10 = norm(grad); r11 = maximum(r11, r10); r9 = div(grad, r11)", False),
        ("r10 = std(r10); r10 = add(r10, step); r9 = mul(grad, r10)", False),  # is always a number
        ("r9 = interpolate(r9, grad, 0.1)", False),
    ],
)
def test_a_step_grows_if_it_sees_that_a_memory_becomes_an_array(text: str, grows: bool) -> None:
    assert step(text).grows == grows


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("r10 = add(r10, 0.1); r9 = mul(grad, r10)", Kind.TENSOR),  # stored for each tensor, though equal for all
        ("r10 = norm(grad); r11 = maximum(r11, r10); r9 = div(grad, r11)", Kind.TENSOR),
        ("r9 = add(r9, grad)", Kind.ARRAY),
    ],
)
def test_memories_belong_to_a_tensor(text: str, kind: Kind) -> None:
    assert list(step(text).memories.values()) == [kind]


@pytest.mark.parametrize(
    ("text", "added"), [("r9 = sub(0.1, 0.5); r9 = mul(r9, grad)", True), ("r9 = mul(grad, 0.1)", False)]
)
def test_negative_updates_are_added(text: str, added: bool) -> None:
    assert step(text).added == added


def test_a_program_that_never_updates_has_one_line() -> None:
    (line,) = step("").lines
    assert (line.name, line.term.op, line.term.text) == ("param", "number", "0.0")
