import pytest
from results import key

from nosbench_env.results.key import ResultKey, Selection

KEY = ResultKey.parse(key())


@pytest.mark.parametrize(
    "text",
    [
        "pfn-1/seed=0/float32/paper-1:0x1.8p-2",
        "pfn-1/seed=1000000/tf32/probe-pfn-3:9f86d081",
        "my-own.task-12/seed=7/float32/canonical-1:add(g,w);x/y",
    ],
)
def test_a_key_comes_apart_and_together_again(text: str) -> None:
    assert str(ResultKey.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "pfn-1/seed=0/float32/paper-1",
        "pfn-1/seed=00/float32/paper-1:0",
        "pfn-1/seed=1000001/float32/paper-1:0",
        "pfn-01/seed=0/float32/paper-1:0",
        "pfn/seed=0/float32/paper-1:0",
        "pfn-1/seed=0/float32/paper-1:0 ",
        "pfn-1/seed=0/float32/paper-1:\n",
        'pfn-1/seed=0/float32/paper-1:"',
        "pfn-1/seed=\u0663/float32/paper-1:0",
        "pfn-1/seed=0/float32/paper-1:" + "0" * 501,
    ],
)
def test_what_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected a key|seed must be"):
        ResultKey.parse(text)


def test_the_identity_is_the_identity_value_without_the_value() -> None:
    parsed = ResultKey.parse("pfn-1/seed=0/float32/paper-1:0x1.8p-2")
    assert (parsed.identity, parsed.identity_value) == ("paper-1", "paper-1:0x1.8p-2")


def test_a_long_text_is_cut_in_the_message() -> None:
    with pytest.raises(ValueError, match="expected a key such as") as raised:
        ResultKey.parse("x" * 100_000)
    assert len(str(raised.value)) < 200


def test_a_selection_chooses_by_all_its_fields() -> None:
    made_by = {"nosbench_env": "0.1.0"}
    assert Selection().matches(KEY, {})
    assert Selection("toy", 1, "paper-1", "0.1.0").matches(KEY, made_by)
    assert not Selection("toy", 2).matches(KEY, made_by)
    assert not Selection("pfn").matches(KEY, made_by)
    assert Selection(identity="paper").matches(KEY, made_by)
    assert not Selection(identity="paper-2").matches(KEY, made_by)
    assert not Selection(identity="pap").matches(KEY, made_by)
    assert not Selection(nosbench_version="0.2.0").matches(KEY, made_by)
