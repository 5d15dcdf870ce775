import pytest
import torch

from nosbench_env import KNOWN_PROGRAMS, make_task
from nosbench_env.postprocessing.step_time import parameter_shapes, step_times


def test_the_shapes_of_a_tasks_parameters_are_found() -> None:
    assert parameter_shapes(make_task("toy", device="cpu")) == [(16, 4), (16,), (3, 16), (3,)]


def test_steps_are_timed_in_turn() -> None:
    threads = torch.get_num_threads()
    times = step_times(KNOWN_PROGRAMS["Adam"], [(4, 3), ()], rounds=3)
    assert [(time.name, time.fused) for time in times] == [
        (name, fused) for name in ("program", "SGD", "AdamW") for fused in (False, True)
    ]
    assert all(0 < time.low <= time.seconds <= time.high for time in times)
    assert torch.get_num_threads() == threads


def test_more_elements_take_more_time() -> None:
    sizes = (1, 1 << 22)  # a factor of hundreds in time, which no busy machine turns round
    (_, small, *_), (_, large, *_) = (step_times(KNOWN_PROGRAMS["Adam"], [(size,)], rounds=3) for size in sizes)
    assert small.low < large.low


@pytest.mark.parametrize(("shapes", "rounds", "message"), [([], 1, "shapes"), ([(1,)], 0, "rounds .*0")])
def test_nothing_to_time_is_refused(shapes: list[tuple[int, ...]], rounds: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        step_times(KNOWN_PROGRAMS["SGD"], shapes, rounds=rounds)
