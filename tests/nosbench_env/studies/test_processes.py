import os
from functools import partial
from pathlib import Path

import jobs
import pytest

from nosbench_env.studies import processes
from nosbench_env.studies.processes import JobError, Reporter, do_jobs


def nothing(text: str) -> None:
    pass


def test_one_job_at_a_time_is_done_in_this_process(tmp_path: Path) -> None:
    do_jobs([partial(jobs.write_number, tmp_path / name) for name in "ab"], 1, nothing, str)
    assert [int((tmp_path / name).read_text()) for name in "ab"] == [os.getpid()] * 2


def test_several_at_a_time_have_their_own_processes_and_a_crash_is_named(tmp_path: Path) -> None:
    file = tmp_path / "number"
    with pytest.raises(JobError, match="exit code 7; run the same command again"):
        do_jobs([partial(jobs.crash_after, file, 7), partial(jobs.write_number, file)], 2, nothing, str)
    assert int(file.read_text()) != os.getpid()


def test_progress_is_reported_at_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    now, told = [0.0], []
    monkeypatch.setattr(processes.time, "monotonic", lambda: now[0])
    reporter = Reporter(told.append, lambda: f"at {now[0]:g}")
    for now[0] in range(1, 26):
        reporter.tell()
    assert told == ["at 11", "at 22"]
