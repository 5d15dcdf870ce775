"""Outcomes of a training: finite, NaN or infinite."""

from __future__ import annotations

import math
from typing import Literal

Status = Literal["ok", "nan", "inf"]


def loss_status(loss: float) -> Status:
    """Names a loss: "ok" if finite, else "nan" or "inf"."""
    if math.isfinite(loss):
        return "ok"
    return "nan" if math.isnan(loss) else "inf"
