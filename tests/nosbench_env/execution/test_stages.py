from hypothesis import given
from strategies import any_programs

from nosbench_env import Program
from nosbench_env.execution.stages import split_into_stages
from nosbench_env.execution.step_code import StepCode, step_codes


def code_of(text: str) -> StepCode:
    return step_codes(Program.parse(text)).steps[-1]


def test_a_program_without_barriers_is_one_loop() -> None:
    code = code_of("r9 = mul(grad, 0.1); r10 = exp(r9); r9 = add(r9, r10)")
    (stage,) = split_into_stages(code)
    assert [code.nodes[index].op for index in stage.fused] == ["mul", "exp", "add"]
    assert stage.stored == stage.barriers == ()


def test_loops_are_split_at_barriers_and_store_their_operands() -> None:
    code = code_of("r9 = mul(grad, 0.1); r10 = exp(r9); r9 = add(r9, r10)")
    first, second = split_into_stages(code, ("exp",))
    assert [code.nodes[index].op for index in first.fused] == ["mul"]
    assert first.stored == first.fused  # for exp, and for the second loop
    assert [code.nodes[index].op for index in first.barriers] == ["exp"]
    assert [code.nodes[index].op for index in second.fused] == ["add"]


def test_scalars_wait_for_their_reductions() -> None:
    code = code_of("r9 = norm(grad); r10 = sqrt(r9); r11 = mul(grad, r10)")
    first, second = split_into_stages(code)
    assert [code.nodes[index].op for index in first.barriers] == ["norm"]
    assert [code.nodes[index].op for index in second.scalars] == ["sqrt"]


@given(any_programs())
def test_every_operation_is_in_one_stage(program: Program) -> None:
    code = step_codes(program).steps[-1]
    computed = [i for stage in split_into_stages(code) for i in (*stage.scalars, *stage.fused, *stage.barriers)]
    assert sorted(computed) == [index for index, node in enumerate(code.nodes) if node.inputs]
