import json
from pathlib import Path

import pytest

from nosbench_env import BASELINES, KNOWN_PROGRAMS, OptimizerConfig, Program
from nosbench_env.cli.arguments import named_candidates, read_candidate
from nosbench_env.language.program import InvalidProgram


def test_arguments_may_be_optimizers(tmp_path: Path) -> None:
    config = OptimizerConfig("torch.optim.SGD", {"lr": 0.1})
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "best.txt").write_text(f"# query 3, loss 0.1\n{config}\n")
    (tmp_path / "config.json").write_text(json.dumps(config.to_json()))
    (tmp_path / "bad.json").write_text('{"optimizer": "SGD", "hyperparameters": {}, "schedule": "constant"}')
    (tmp_path / "other").mkdir()
    assert read_candidate("torch.adam") == BASELINES["torch.Adam"].candidate
    assert read_candidate("adamw") == KNOWN_PROGRAMS["AdamW"]
    for argument in (str(config), tmp_path / "run", tmp_path / "run" / "best.txt", tmp_path / "config.json"):
        assert read_candidate(str(argument)) == config
    (tmp_path / "run" / "best.txt").write_text("# query 3, loss 0.1\nr9 = mul(grad, 0.1)\n")
    assert read_candidate(str(tmp_path / "run")) == Program.parse("r9 = mul(grad, 0.1)")
    for argument, words in (
        (tmp_path / "other", "other.*run folder"),
        (tmp_path / "bad.json", r"bad\.json: .*torch\.optim\.AdamW"),
        ("torch.optim.SGD(lr=", r"torch\.optim\.SGD\(lr="),
    ):
        with pytest.raises(ValueError, match=words):
            read_candidate(str(argument))
    with pytest.raises(InvalidProgram):
        read_candidate("Adm\0")


def test_arguments_have_names_to_show_of_which_none_is_lost(tmp_path: Path) -> None:
    for folder, rate in (("a/run", "0.1"), ("b/run", "0.01")):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "best.txt").write_text(f"r9 = mul(grad, {rate})")
    runs = [str(tmp_path / folder / "best.txt") for folder in ("a/run", "b/run")]
    texts = ["r9 = mul(grad,  0.01)\n", "r9 = mul(grad, 0.01)", f"r9 = mul(grad, 0.01){' ' * 9}# {'x' * 99}"]
    named = named_candidates(["torch.adam", *runs, *texts])
    assert list(named) == [
        "torch.Adam",
        "run",
        "run (2)",
        "r9 = mul(grad, 0.01)",
        "r9 = mul(grad, 0.01) (2)",
        f"r9 = mul(grad, 0.01) # {'x' * 16}…",
    ]
    assert named["run"] != named["run (2)"]
