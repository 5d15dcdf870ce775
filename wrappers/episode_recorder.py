"""`EpisodeRecorder`: writes every finished program with its result to a file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, SupportsFloat

import gymnasium
from gymnasium.utils import RecordConstructorArgs


class EpisodeRecorder(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Appends a JSON line to a file for each episode that terminates.

    A line holds the episode's number in this recorder, its reward and length, and the evaluation: program, task,
    epochs, seed, loss, status, curve, key, hit, source, seconds, provenance (see `Evaluation`). An episode ended by an
    invalid action has no evaluation: its line has the program so far, a loss of null and the status "invalid". Each
    line is written at once, so several envs may record to one file.

    **Optimal policy:** kept.

    Args:
        env: The environment.
        path: The file. Missing folders are made; an existing file is appended to.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], path: str | Path) -> None:
        RecordConstructorArgs.__init__(self, path=str(path))
        super().__init__(env)
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.episodes = 0
        self._length, self._reward = 0, 0.0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Resets the env; an unfinished episode is not recorded."""
        self._length, self._reward = 0, 0.0
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Takes a step; the last one of an episode writes its line."""
        result = self.env.step(action)
        _, reward, terminated, _, _ = result
        self._length += 1
        self._reward += float(reward)
        if terminated:
            self.episodes += 1
            self._write()
        return result

    def _write(self) -> None:
        evaluation = self.get_wrapper_attr("last_evaluation")
        if evaluation is None:
            result = {"program": self.get_wrapper_attr("program").to_json(), "loss": None, "status": "invalid"}
        else:
            result = evaluation.to_json()
        line = {"episode": self.episodes, "reward": self._reward, "length": self._length, **result}
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            data = (json.dumps(line) + "\n").encode()
            if os.write(file, data) < len(data):  # one call, so that lines of several writers do not mix
                raise OSError(f"can't write to {self.path}: the disk is full")
        finally:
            os.close(file)
