import json

import pytest

from nosbench_env import KNOWN_PROGRAMS, InvalidProgram, OptimizerConfig, TunedProgram
from nosbench_env.candidates.candidate import Candidate, candidate_from_json

CANDIDATES = [
    KNOWN_PROGRAMS["AdamW"],
    OptimizerConfig("torch.optim.AdamW", {"betas": (0.9, 0.99)}, "cosine"),
    TunedProgram(KNOWN_PROGRAMS["AdamW"], lr=0.5),
]


@pytest.mark.parametrize("candidate", CANDIDATES, ids=lambda candidate: type(candidate).__name__)
def test_candidates_of_all_kinds_are_read_from_their_json(candidate: Candidate) -> None:
    assert candidate_from_json(json.loads(json.dumps(candidate.to_json()))) == candidate


@pytest.mark.parametrize(
    "data", [None, 3, "SGD", {}, {"constants": []}, {"optimizer": "torch.optim.SGD"}, [["no", [], 9]]]
)
def test_other_data_are_refused(data: object) -> None:
    with pytest.raises((ValueError, InvalidProgram)):
        candidate_from_json(data)
