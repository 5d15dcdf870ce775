import gzip
import hashlib
import json
import math
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import scipy.sparse
import sklearn.datasets
import torch

from nosbench_env import KNOWN_PROGRAMS, make_task
from nosbench_env.tasks.mlp_data import load_data_set


@pytest.fixture(autouse=True)
def _no_network_and_nothing_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def refuse(*_: Any, **__: Any) -> None:
        raise URLError("no network in tests")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setattr(sklearn.datasets._openml, "urlopen", refuse)
    monkeypatch.setattr("time.sleep", lambda _: None)
    monkeypatch.setenv("SCIKIT_LEARN_DATA", str(tmp_path / "kept"))
    load_data_set.cache_clear()
    yield
    load_data_set.cache_clear()


@pytest.mark.parametrize(
    ("name", "rows", "features", "classes"),
    [("digits", 1797, 64, 10), ("breast-cancer", 569, 30, 2), ("iris", 150, 4, 3), ("wine", 178, 13, 3)],
)
def test_installed_data_are_standardised_tables(name: str, rows: int, features: int, classes: int) -> None:
    table, labels = load_data_set(name)
    assert (table.shape, table.dtype) == ((rows, features), torch.float32)
    assert (labels.shape, labels.dtype, labels.unique().tolist()) == ((rows,), torch.int64, list(range(classes)))
    varying = table[:, table.std(dim=0) > 0]  # some pixels of the digits never change
    assert varying.mean(dim=0).abs().max() < 1e-5
    assert (varying.std(dim=0, correction=0) - 1).abs().max() < 1e-5


def keep(folder: Path, number: int, arff: str, columns: list[tuple[str, str]], target: str) -> None:
    """Puts a data set where scikit-learn keeps what it has downloaded, so that it is read as if it had been."""
    features = [
        {
            "index": str(index),
            "name": name,
            "data_type": kind,
            "is_target": str(name == target).lower(),
            "is_ignore": "false",
            "is_row_identifier": "false",
            "number_of_missing_values": "0",
        }
        for index, (name, kind) in enumerate(columns)
    ]
    rows = arff.lower().partition("@data\n")[2].strip().count("\n") + 1
    described = {
        "id": str(number),
        "file_id": str(number),
        "name": "made-up",
        "version": "1",
        "status": "active",
        "format": "ARFF",
        "url": f"https://www.openml.org/data/v1/download/{number}",
        "md5_checksum": hashlib.md5(arff.encode()).hexdigest(),
        "default_target_attribute": target,
        "description": "",
    }
    files = {
        f"api/v1/json/data/{number}": json.dumps({"data_set_description": described}),
        f"api/v1/json/data/features/{number}": json.dumps({"data_features": {"feature": features}}),
        f"api/v1/json/data/qualities/{number}": json.dumps(
            {"data_qualities": {"quality": [{"name": "NumberOfInstances", "value": str(rows)}]}}
        ),
        f"data/v1/download/{number}": arff,
    }
    for path, text in files.items():
        file = folder / "openml" / "openml.org" / f"{path}.gz"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(gzip.compress(text.encode()))


CREDIT = (
    """@RELATION credit
@ATTRIBUTE housing {own, rent, free}
@ATTRIBUTE amount NUMERIC
@ATTRIBUTE class {good, bad}
@DATA
rent,1,bad
own,?,good
?,3,bad
free,5,good
"""
    + "own,3,bad\n" * 36
)
CREDIT_COLUMNS = [("housing", "nominal"), ("amount", "numeric"), ("class", "nominal")]


def test_a_kept_data_set_of_openml_is_read_without_a_network(tmp_path: Path) -> None:
    keep(tmp_path / "kept", 31, CREDIT, CREDIT_COLUMNS, "class")
    table, classes = load_data_set("openml-31")
    assert classes.tolist() == [0, 1, 0, 1] + [0] * 36  # numbered as they occur
    housing = np.array([1.0, 0.0, math.nan, 2.0] + [0.0] * 36)  # numbered as the data set lists them
    amount = np.array([1.0, math.nan, 3.0, 5.0] + [3.0] * 36)
    for column, values in enumerate((housing, amount)):
        expected = np.nan_to_num((values - np.nanmean(values)) / np.nanstd(values))
        np.testing.assert_allclose(table[:, column].numpy(), expected, rtol=1e-5, atol=1e-7)


def test_a_task_of_openml_trains_like_any_other(tmp_path: Path) -> None:
    keep(tmp_path / "kept", 31, CREDIT, CREDIT_COLUMNS, "class")
    task = make_task("mlp-openml-31", "cpu")
    # 36 rows to train on: less than a batch of the paper's code
    assert (task.name, task.batch_size, task.steps_per_epoch, task.default_epochs) == ("mlp-openml-31", 36, 1, 60)
    assert np.isfinite(task.train_programs([KNOWN_PROGRAMS["Adam"]], epochs=2)[0].epoch_means).all()


def table_of(data: Any, target: Any) -> SimpleNamespace:
    return SimpleNamespace(data=data, target=target)


ROWS = np.arange(40.0).reshape(20, 2)
LETTERS = np.array(["a", "b"] * 10, dtype=object)


def test_other_forms_of_tables_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def loaded(table: SimpleNamespace) -> tuple[torch.Tensor, torch.Tensor]:
        load_data_set.cache_clear()
        monkeypatch.setattr("sklearn.datasets.fetch_openml", lambda **_: table)
        return load_data_set("openml-7")

    expected, classes = loaded(table_of(ROWS, LETTERS))
    assert classes.tolist() == [0, 1] * 10
    assert torch.equal(loaded(table_of(scipy.sparse.csr_array(ROWS), LETTERS))[0], expected)
    missing = np.column_stack([ROWS, np.full(20, math.nan)])
    assert torch.equal(loaded(table_of(missing, LETTERS))[0], expected)  # a feature that nobody knows is none
    assert loaded(table_of(ROWS, np.array([7.0, 3.0] * 10)))[1].tolist() == [0, 1] * 10


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (table_of(ROWS[:19], LETTERS[:19]), "20 rows.* got 19 and 2"),
        (table_of(ROWS[:, :0], LETTERS), "feature, got 20 and 0"),
        (
            table_of(scipy.sparse.csr_array((10**6, 10**4)), LETTERS),
            "100,000,000 values, got 1,000,000 rows of 10,000 features",
        ),
        (table_of(ROWS * math.nan, LETTERS), "values are missing"),
        (table_of(np.where(ROWS == 3, math.inf, ROWS), LETTERS), "infinity"),
        (table_of(ROWS, None), "one column"),
        (table_of(ROWS, np.column_stack([LETTERS, LETTERS])), "one column"),
        (table_of(ROWS, np.array(["a"] * 20, dtype=object)), "two classes, got 1"),
        (table_of(ROWS, np.array([None, "a"] * 10, dtype=object)), "classes of some rows are missing"),
        (table_of(ROWS, np.array([math.nan, 1.0] * 10)), "classes of some rows are missing"),
        (table_of(ROWS, np.array([0.5, 1.0] * 10)), "2 different numbers: a regression"),
        (table_of(np.zeros((200, 1)), np.arange(200.0)), "200 different numbers: a regression"),
    ],
)
def test_what_is_no_classification_is_refused(
    table: SimpleNamespace, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sklearn.datasets.fetch_openml", lambda **_: table)
    with pytest.raises(ValueError, match=f"data set 'openml-7' can't be a task: .*{message}"):
        load_data_set("openml-7")


def test_columns_of_text_are_refused(tmp_path: Path) -> None:
    arff = CREDIT.replace("{own, rent, free}", "STRING")
    keep(tmp_path / "kept", 5, arff, [("housing", "string"), *CREDIT_COLUMNS[1:]], "class")
    with pytest.raises(ValueError, match=r"data set 5 of OpenML can't be a task: STRING .* array representation\. See"):
        load_data_set("openml-5")


def test_without_a_network_the_command_says_what_to_do(tmp_path: Path, nosbench: Any) -> None:
    code, _, printed = nosbench("evaluate", "SGD", "--task", "mlp-openml-31")
    assert code == 2
    message = " ".join(printed.split())
    assert "data set 31 of OpenML" in message
    assert "<urlopen error no network in tests>" in message
    assert "needs a network connection" in message
    assert str(tmp_path / "kept") in message


def test_an_unknown_number_is_told_as_openml_tells_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(**_: Any) -> None:
        raise sklearn.datasets._openml.OpenMLError("Dataset with data_id 999999999 not found.")

    monkeypatch.setattr("sklearn.datasets.fetch_openml", fetch)
    with pytest.raises(ValueError, match=r"999999999 of OpenML can't be a task: Dataset with data_id 999999999 not "):
        make_task("mlp-openml-999999999", "cpu")


def test_unknown_data_sets_are_refused() -> None:
    with pytest.raises(ValueError, match=r"data set 'cifar'.*digits, breast-cancer, iris, wine.*openml-31"):
        load_data_set("cifar")
