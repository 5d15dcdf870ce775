from dataclasses import dataclass

import pytest

from nosbench_env.studies.settings import Resources, StudySettings, check_some


@dataclass(frozen=True)
class OwnSettings(StudySettings):
    steps: int = 5
    names: tuple[str, ...] = ()


@pytest.mark.parametrize("value", [0, -1, True, 1.5, "3"])
@pytest.mark.parametrize("name", ["seeds", "steps"])
def test_every_integer_must_be_positive(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"{name} must be an integer >= 1, got {value!r}"):
        OwnSettings(**{name: value})


def test_changes_that_are_none_change_nothing() -> None:
    assert OwnSettings().changed(seeds=None, steps=7, task="toy") == OwnSettings("toy", steps=7)
    with pytest.raises(ValueError, match="unknown task"):
        OwnSettings().changed(task="mnist")


def test_names_are_some_of_the_known_ones_each_once() -> None:
    check_some("names", ("b", "a"), ("a", "b", "c"))
    for wrong in ((), ("d",), ("a", "a")):
        with pytest.raises(ValueError, match="names must be some of a, b, c"):
            check_some("names", wrong, ("a", "b", "c"))


def test_resources_are_checked() -> None:
    for wrong in ({"device": "tpu"}, {"workers": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Resources(**wrong)
