"""Jobs that the processes of a study can import."""

import os
import time
from collections.abc import Callable
from pathlib import Path


def write_number(file: Path, on_tick: Callable[[], None]) -> None:
    """Writes the number of its process."""
    on_tick()
    file.write_text(str(os.getpid()))


def crash_after(file: Path, code: int, on_tick: Callable[[], None]) -> None:
    """Ends its process once the file exists."""
    while not file.exists():
        on_tick()
        time.sleep(0.01)
    os._exit(code)
