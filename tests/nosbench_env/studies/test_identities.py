from pathlib import Path
from typing import Any

import pytest

from nosbench_env import Program
from nosbench_env.agents import RandomSearch
from nosbench_env.language.search_space import SearchSpace
from nosbench_env.studies.identities import IDENTITIES, Key, key_of, keys_of
from nosbench_env.tasks import make_task


def test_keys_are_kept_and_renewed_for_other_programs_and_versions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = RandomSearch(SearchSpace(8), 0).ask(40)
    file = tmp_path / "keys.json"
    task = make_task("toy", "cpu")
    keys = keys_of(programs, "paper", task, file)
    assert keys == [key_of(program, "paper", task) for program in programs]
    asked: list[object] = []

    def other_version(program: object, *_: Any) -> Key:
        asked.append(program)
        return Key("another version", False)

    def same_version(program: Any, *_: Any) -> Key:
        asked.append(program)
        return key_of(program, "paper", task)

    monkeypatch.setattr("nosbench_env.studies.identities.key_of", same_version)
    assert keys_of(programs, "paper", task, file) == keys
    assert len(asked) < len(programs)
    assert keys_of(programs[::-1], "paper", task, file) == keys[::-1]
    monkeypatch.setattr("nosbench_env.studies.identities.key_of", other_version)
    assert set(keys_of(programs[::-1], "paper", task, file)) == {Key("another version", False)}


def test_equal_canonical_forms_have_one_key() -> None:
    task = make_task("toy", "cpu")
    a, b = Program.parse("r9 = mul(grad, 0.1)"), Program.parse("r11 = exp(step); r10 = mul(0.1, grad)")
    dead, other = Program.parse("r9 = div(0.1, r10)"), Program.parse("r9 = mul(grad, 0.01)")
    for name in IDENTITIES:
        assert key_of(a, name, task) == key_of(b, name, task) != key_of(other, name, task)
    assert [key_of(dead, name, task).diverged for name in IDENTITIES] == [True, True, True]
