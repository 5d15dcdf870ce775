import pytest

from nosbench_env import KNOWN_PROGRAMS, Program, canonical_form
from nosbench_env.export.names import memory_name, plural, value_name
from nosbench_env.language.pseudocode import Term, assignments, is_memory

X, T = Term("name", text="x"), Term("name", text="t")
ONE = Term("number", text="1.0")


def memory_names(program: Program) -> dict[str, str]:
    """Returns the names of a program's memories."""
    terms = {line.name: line.term for line in assignments(canonical_form(program))}
    terms["w"] = terms["w"].inputs[1]
    return {name: memory_name(name, terms) for name in terms if is_memory(name)}


@pytest.mark.parametrize(
    ("name", "memories"),
    [
        ("SGD", {"momentum_buffer"}),
        ("AdamW", {"exp_avg", "exp_avg_sq"}),
        ("RMSprop", {"square_avg"}),
        ("Adagrad", {"sum_sq"}),
        ("Adadelta", {"square_avg", "acc_delta"}),
    ],
)
def test_memories_of_known_optimizers_have_torchs_names(name: str, memories: set[str]) -> None:
    assert set(memory_names(KNOWN_PROGRAMS[name]).values()) == memories


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("r10 = mul(r9, 0.1); r9 = mul(grad, 1.0); r11 = mul(r10, 1.0)", "prev_grad"),
        ("r10 = mul(r9, grad); r9 = mul(param, 1.0); r11 = mul(r10, 1.0)", "prev_param"),
        ("r10 = sin(r10); r10 = add(r10, grad)", "memory"),
    ],
)
def test_other_memories_are_named_after_their_value(text: str, name: str) -> None:
    assert list(memory_names(Program.parse(text)).values()) == [name]


@pytest.mark.parametrize(
    ("term", "schedule", "name"),
    [
        (Term("sub", (ONE, Term("pow", (Term("number", text="0.9"), T)))), True, "bias_correction"),
        (T, True, "steps"),
        (Term("exp", (T,)), True, "schedule"),
        (Term("add", (Term("sqrt", (X,)), ONE)), False, "denom"),
        (Term("pow", (X, Term("number", text="2.0"))), False, "squared_x"),
        (Term("norm", (X,)), False, "x_norm"),
        (Term("tan", (X,)), False, "tangent"),
        (Term("unknown", (X,)), False, "value"),
    ],
)
def test_values_are_named_after_their_operation(term: Term, schedule: bool, name: str) -> None:
    assert value_name(term, schedule=schedule) == name


@pytest.mark.parametrize(
    ("name", "names"), [("param", "params"), ("memory", "memories"), ("memory2", "memories2"), ("gates", "gateses")]
)
def test_lists_have_plurals(name: str, names: str) -> None:
    assert plural(name) == names
