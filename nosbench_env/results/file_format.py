"""The file format of exported results: JSON lines.

Equal results have equal files. A file is validated as untrusted data when read.

The first line of a file is a header, an object with these fields:

* `format`: "nosbench-results".
* `version`: 1, the version of this format.
* `records`: the number of lines that follow. It may be missing; a file with another number of lines is rejected.
* `made_by`: the program that wrote the file.
* `fields`: a description of the lines' fields for readers; see `FIELDS`.

Each further line is an object, the result of one training, with exactly the fields of `FIELDS`. Numbers are exact:
floats are written in the shortest form that parses to the same float, and those that are not finite as the strings
"nan", "inf" and "-inf". The order of lines under one key matters: the first that holds an epoch answers for it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from nosbench_env.candidates.candidate import candidate_from_json
from nosbench_env.execution.settings import MAX_EPOCHS
from nosbench_env.language.program import InvalidProgram
from nosbench_env.results.key import ResultKey
from nosbench_env.store import Record
from nosbench_env.versions import installed_version

FORMAT, FORMAT_VERSION = "nosbench-results", 1
MAX_LINE = 4 << 20  # bytes; enough for 100,000 epochs and a program of 1,024 instructions

FIELDS: Mapping[str, str] = {
    "task": "name of the task",
    "task_version": "version of the task; results of different versions differ",
    "seed": "seed of the training's data and initial weights; 0 is the paper's",
    "arithmetic": "precision of the training, such as float32",
    "identity": "the identity with its version, a colon, and the value that equivalent programs share",
    "first_epoch": "the epoch of the first mean, counted from 0; not 0 if only the last epochs are known",
    "stopped_at": "the number of updates until a parameter was not finite (all later epochs are NaN), or null",
    "epoch_means": "loss of each epoch, in the task's unit (nats): the mean training loss, each step's taken before "
    "its update; for tasks that validate (mlp) the loss on held-out data after the epoch; 'nan', 'inf' or '-inf' if "
    "not finite",
    "provenance": "program: the trained program, as [function, inputs, output] for each instruction; or an optimizer "
    "of a library, as optimizer, hyperparameters, schedule; or a tuned program, as program, constants ([line, input, "
    "number] each), lr; canonical: digest of the program's canonical form; library: version of the optimizer's "
    "library; device; nosbench_env, torch, python: versions; seconds: duration of the training; date: end of the "
    "training, ISO 8601; rekeyed_from: first key of the result",
}

_MAX_INTEGER = 2**31 - 1  # of an integer column in every database
_MAX_DEPTH, _MAX_NAME, _MAX_TEXT = 8, 64, 1 << 18  # of a provenance
_MAX_SHORT_TEXT = 200
_NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


class InvalidResults(ValueError):
    """A malformed file of results.

    The message names the place, the value found and the expected one.
    """


def header(records: int) -> str:
    """Returns the first line of a file."""
    data = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "records": records,
        "made_by": f"nosbench_env {installed_version('nosbench_env')}",
        "fields": dict(FIELDS),
    }
    return json.dumps(data)


def parse_header(text: str) -> int | None:
    """Parses a header; returns the number of records, if given.

    Raises:
        InvalidResults: If the text is not a header or has an unknown version.
    """
    try:
        data = _loads(text)
    except InvalidResults:
        data = None
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise InvalidResults(
            f"expected the header of a file of results, with the format {FORMAT!r}, got {_shown(text)}"
        )
    version = data.get("version")
    if type(version) is not int or version != FORMAT_VERSION:
        raise InvalidResults(
            f"the file has version {_shown(version)} of the format, but this nosbench_env reads version "
            f"{FORMAT_VERSION}; another version of nosbench_env may read it"
        )
    if unknown := set(data) - {"format", "version", "records", "made_by", "fields"}:
        raise InvalidResults(f"unknown field {_shown(min(unknown))} in the header")
    return None if data.get("records") is None else _integer("records", data["records"], 0)


def format_line(key: ResultKey, record: Record) -> str:
    """Returns a result as one line, equal for equal results."""
    start = json.dumps(
        {
            "task": key.task,
            "task_version": key.task_version,
            "seed": key.seed,
            "arithmetic": key.arithmetic,
            "identity": key.identity_value,
            "first_epoch": record.first_epoch,
            "stopped_at": record.stopped_at,
            "epoch_means": [mean if math.isfinite(mean) else repr(mean) for mean in record.epoch_means],
        },
        allow_nan=False,
    )
    provenance = json.dumps(dict(record.provenance), sort_keys=True, allow_nan=False)
    return f'{start[:-1]}, "provenance": {provenance}}}'


def parse_line(text: str) -> tuple[ResultKey, Record]:
    """Parses and validates a line of results.

    Raises:
        InvalidResults: If a field is wrong. The message names the field, the value found and the expected one.
    """
    data = _loads(text)
    if not isinstance(data, dict):
        raise InvalidResults(f"expected an object, got {_shown(data)}")
    if missing := [name for name in FIELDS if name not in data]:
        raise InvalidResults(f"the field {missing[0]!r} is missing")
    if unknown := data.keys() - FIELDS.keys():
        raise InvalidResults(f"unknown field {_shown(min(unknown))}; known are {', '.join(FIELDS)}")
    first_epoch = _integer("first_epoch", data["first_epoch"], 0, MAX_EPOCHS - 1)
    stopped_at = None if data["stopped_at"] is None else _integer("stopped_at", data["stopped_at"], 1)
    means = _means(data["epoch_means"], MAX_EPOCHS - first_epoch)
    return _key(data), Record(means, stopped_at, _provenance(data["provenance"]), first_epoch)


def _key(data: Mapping[str, Any]) -> ResultKey:
    for name in ("task", "arithmetic", "identity"):
        if not isinstance(data[name], str):
            raise InvalidResults(f"{name}: expected a text, got {_shown(data[name])}")
    for name in ("task_version", "seed"):
        _integer(name, data[name], 0)
    key = ResultKey(data["task"], data["task_version"], data["seed"], data["arithmetic"], data["identity"])
    try:
        parsed = ResultKey.parse(str(key))
    except ValueError as error:
        raise InvalidResults(f"task to identity: {error}") from None
    if parsed != key:  # the parts join to another key, as for a task named "toy-1/seed=0"
        raise InvalidResults(f"task to identity: expected the parts of a key, got {_shown(str(key))}")
    return key


def _means(data: Any, limit: int) -> tuple[float, ...]:
    if not isinstance(data, list) or not 1 <= len(data) <= limit:
        raise InvalidResults(f"epoch_means: expected a list of 1 to {limit:,} numbers, got {_shown(data)}")
    means = []
    for mean in data:
        if type(mean) is str and mean in _NOT_FINITE:
            means.append(_NOT_FINITE[mean])
        elif type(mean) in (float, int):
            means.append(float(mean))
        else:
            raise InvalidResults(f"epoch_means: expected a number, 'nan', 'inf' or '-inf', got {_shown(mean)}")
    return tuple(means)


def _provenance(data: Any) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise InvalidResults(f"provenance: expected an object, got {_shown(data)}")
    for name, value in data.items():
        _check_text(name, _MAX_NAME)
        if (check := _KNOWN_PROVENANCE.get(name)) is None:
            _check_plain(value, _MAX_DEPTH)
        else:
            try:
                check(value)
            except (ValueError, OverflowError) as error:
                raise InvalidResults(f"provenance, {name}: {error}") from None
    return data


def _check_plain(value: Any, depth: int) -> None:
    """Rejects great depth, long texts and unpaired surrogates."""
    if depth == 0:
        raise InvalidResults(f"provenance: lists and objects may be nested {_MAX_DEPTH} deep, not deeper")
    if isinstance(value, str):
        _check_text(value, _MAX_TEXT)
    elif isinstance(value, list):
        for item in value:
            _check_plain(item, depth - 1)
    elif isinstance(value, dict):
        for name, item in value.items():
            _check_text(name, _MAX_NAME)
            _check_plain(item, depth - 1)


def _check_text(text: str, limit: int) -> None:
    if len(text) > limit:
        raise InvalidResults(f"provenance: a text has at most {limit:,} characters here, got {_shown(text)}")
    if not text.isprintable() and not text.replace("\n", "").replace("\t", "").isprintable():
        raise InvalidResults(f"provenance: expected a text without control characters, got {_shown(text)}")


def _short_text(value: Any) -> None:
    if not isinstance(value, str) or len(value) > _MAX_SHORT_TEXT or not value.isprintable():
        raise ValueError(f"expected a text of one line, of at most {_MAX_SHORT_TEXT} characters, got {_shown(value)}")


def _seconds(value: Any) -> None:
    if type(value) not in (int, float) or not value >= 0:
        raise ValueError(f"expected a number of seconds, got {_shown(value)}")


def _date(value: Any) -> None:
    _short_text(value)
    try:
        datetime.fromisoformat(value)
    except ValueError:
        raise ValueError(f"expected a date such as '2026-01-31T12:00:00+00:00', got {_shown(value)}") from None


def _program(value: Any) -> None:
    if not isinstance(value, (dict, list)):
        raise InvalidProgram(f"a program is a list of [function, inputs, output], got {_shown(value)}")
    candidate_from_json(value)


def _former_key(value: Any) -> None:
    if not isinstance(value, str):
        raise ValueError(f"expected a key, got {_shown(value)}")
    ResultKey.parse(value)


_KNOWN_PROVENANCE: Mapping[str, Callable[[Any], None]] = {
    "program": _program,
    "canonical": _short_text,
    "library": _short_text,
    "device": _short_text,
    "nosbench_env": _short_text,
    "torch": _short_text,
    "python": _short_text,
    "seconds": _seconds,
    "date": _date,
    "rekeyed_from": _former_key,
}


def _integer(name: str, value: Any, low: int, high: int = _MAX_INTEGER) -> int:
    if type(value) is not int or not low <= value <= high:
        raise InvalidResults(f"{name}: expected an integer from {low} to {high:,}, got {_shown(value)}")
    return value


def _loads(text: str) -> Any:
    """Parses JSON without NaN, duplicate fields and huge numbers."""
    try:
        return json.loads(text, object_pairs_hook=_object, parse_constant=_constant, parse_float=_float, parse_int=_int)
    except InvalidResults:
        raise
    except RecursionError:
        raise InvalidResults("lists or objects are nested too deep") from None
    except ValueError as error:
        raise InvalidResults(f"not JSON ({error})") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for name, value in pairs:
        if name in data:
            raise InvalidResults(f"duplicate field {_shown(name)}")
        data[name] = value
    return data


def _constant(name: str) -> None:
    raise InvalidResults(f"{name} is not JSON; write numbers that are not finite as 'nan', 'inf' and '-inf'")


def _float(text: str) -> float:
    value = float(text) if len(text) <= 64 else math.inf
    if not math.isfinite(value):
        raise InvalidResults(f"expected a number of at most 64 characters that a float can hold, got {_shown(text)}")
    return value


def _int(text: str) -> int:
    if len(text) > 19:
        raise InvalidResults(f"expected an integer of at most 19 digits, got {_shown(text)}")
    return int(text)


def _shown(value: object) -> str:
    """Returns a value's short text, quickly even if huge."""
    if isinstance(value, str):
        return repr(value) if len(value) <= 80 else repr(value[:77]) + "..."
    if isinstance(value, (list, dict)) and len(value) > 20:
        return f"a {'list' if isinstance(value, list) else 'object'} of {len(value):,}"
    try:
        text = repr(value)
    except RecursionError:
        return f"a very deep {type(value).__name__}"
    return text if len(text) <= 80 else text[:77] + "..."
