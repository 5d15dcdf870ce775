import pytest

from nosbench_env.language.status import loss_status


@pytest.mark.parametrize(
    ("loss", "status"),
    [(-0.5, "ok"), (0.0, "ok"), (float("nan"), "nan"), (float("inf"), "inf"), (-float("inf"), "inf")],
)
def test_losses_have_a_status(loss: float, status: str) -> None:
    assert loss_status(loss) == status
