import json
from pathlib import Path

import gymnasium
import numpy as np
from oracles import random_loss
from play import instant_env, write

from nosbench_env import KNOWN_PROGRAMS, Program, SearchSpace
from nosbench_env.wrappers import (
    EpisodeRecorder,
    RewardTransform,
)

SPACE = SearchSpace()
FAILS = Program.parse("r9 = log(r9); r9 = mul(r9, r10)")
SGD = KNOWN_PROGRAMS["SGD"]


def test_recorder_writes_a_line_for_each_finished_program(env: gymnasium.Env, tmp_path: Path) -> None:
    path = tmp_path / "folder" / "episodes.jsonl"
    wrapped = EpisodeRecorder(env, path)
    rewards = [write(wrapped, program) for program in (SGD, FAILS, SGD)]
    wrapped.reset()
    wrapped.step(SPACE.encode(SGD[0]))
    wrapped.reset()  # the unfinished one is not recorded
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["episode"] for line in lines] == [1, 2, 3]
    assert [line["reward"] for line in lines] == rewards
    assert [line["length"] for line in lines] == [5, 3, 5]
    assert [Program.from_json(line["program"]) for line in lines] == [SGD, FAILS, SGD]
    assert [line["status"] for line in lines] == ["ok", "nan", "ok"]
    assert [line["hit"] for line in lines] == [False, True, True]
    assert lines[0]["loss"] == -rewards[0]


def test_recorder_writes_a_line_for_an_invalid_end(tmp_path: Path) -> None:
    path = tmp_path / "episodes.jsonl"
    env = EpisodeRecorder(instant_env("NOSBenchToken-v0", random_loss), path)
    env.reset()
    for token in (0, 28, 36, 40):  # r9 = square(grad), and a slot where a function should be
        env.step(token)
    expected = {"episode": 1, "reward": -20.0, "length": 4, "program": [["square", [1], 9]]}
    assert json.loads(path.read_text()) == expected | {"loss": None, "status": "invalid"}


def test_recorder_appends_to_an_existing_file(env: gymnasium.Env, tmp_path: Path) -> None:
    for _ in range(2):
        write(EpisodeRecorder(env, tmp_path / "episodes.jsonl"), SGD)
    assert len((tmp_path / "episodes.jsonl").read_text().splitlines()) == 2


def test_recorder_sees_the_transformed_reward_only_outside_of_the_transform(env: gymnasium.Env, tmp_path: Path) -> None:
    inside = RewardTransform(EpisodeRecorder(env, tmp_path / "inside.jsonl"), scale=2.0)
    outside = EpisodeRecorder(RewardTransform(env, scale=2.0), tmp_path / "outside.jsonl")
    reward = write(inside, SGD)
    assert write(outside, SGD) == reward
    recorded = [json.loads((tmp_path / name).read_text())["reward"] for name in ("inside.jsonl", "outside.jsonl")]
    assert np.allclose(recorded, [reward / 2, reward])
