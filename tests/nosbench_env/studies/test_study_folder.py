import json
from pathlib import Path

import pytest
import torch

from nosbench_env.studies.study_folder import StudyError, StudyFolder, finite, made_by


def test_a_folder_serves_one_process_at_a_time(tmp_path: Path) -> None:
    with (
        StudyFolder(tmp_path).opened({}),
        pytest.raises(StudyError, match="in use by another process"),
        StudyFolder(tmp_path).opened({}),
    ):
        pass


def test_a_folder_keeps_its_configuration(tmp_path: Path) -> None:
    for config in ({"epochs": 1}, {"epochs": 1}):
        with StudyFolder(tmp_path / "new").opened(config):
            assert json.loads((tmp_path / "new" / "config.json").read_text()) == config
    with (
        pytest.raises(StudyError, match=r"holds another study: epochs is 1, now 2. .*--output"),
        StudyFolder(tmp_path / "new").opened({"epochs": 2}),
    ):
        pass


@pytest.mark.parametrize("text", ["{", "[]", '"a"'])
def test_a_damaged_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(StudyError, match=r"config\.json"), StudyFolder(tmp_path).opened({}):
        pass


def test_tables_have_the_given_header_or_that_of_the_rows(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path)
    folder.write_csv("a.csv", [{"x": 1, "y": None}])
    folder.write_csv("b.csv", [], ["x"])
    folder.write_csv("c.csv", [])
    assert [(tmp_path / f"{name}.csv").read_text() for name in "abc"] == ["x,y\n1,\n", "x\n", ""]


def test_numbers_that_are_not_finite_are_none_in_json() -> None:
    assert finite({"a": float("nan"), "b": float("-inf"), "c": 1.5, "d": "nan"}) == {
        "a": None,
        "b": None,
        "c": 1.5,
        "d": "nan",
    }


def test_studies_name_their_device_and_versions() -> None:
    made = made_by("cpu")
    assert made["device"].startswith("cpu")
    assert made["torch"] == torch.__version__
