"""`search`: the loop of all agents, with budget, folder and resuming."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from itertools import groupby
from pathlib import Path
from typing import Any

from nosbench_env.agents.agent import Agent, check_number_asked
from nosbench_env.agents.budget import SIMULATED_SECONDS_PER_STEP, Budget
from nosbench_env.agents.history import HistoryEntry, RunError, SearchResult
from nosbench_env.agents.run_folder import RunFolder, open_run_folder
from nosbench_env.candidates.candidate import AnyCandidate
from nosbench_env.evaluation import Evaluation
from nosbench_env.execution.settings import check_epochs, check_seed
from nosbench_env.language.program import Program
from nosbench_env.oracles.oracle import Oracle
from nosbench_env.tasks.task import OnStep

OnQuery = Callable[[HistoryEntry[Any], SearchResult[Any]], None]


def search(
    agent: Agent[AnyCandidate],
    oracle: Oracle,
    budget: Budget,
    *,
    epochs: int | None = None,
    training_seed: int = 0,
    folder: Path | str | None = None,
    batch_size: int = 1,
    reference: Program | None = None,
    on_query: OnQuery | None = None,
    on_step: OnStep | None = None,
) -> SearchResult[AnyCandidate]:
    """Searches until the budget is spent.

    A run with a folder can be interrupted at any moment, by Ctrl-C or a kill. The same call resumes it. With the same
    store, the queries and losses are those of an uninterrupted run. (One difference: a query whose training was stored
    before its line was written then counts as a hit.) A greater budget prolongs a finished run.

    The folder holds `config.json`, `history.jsonl` (a line for each query), `best.txt` (the best program so far),
    `agent.json` (the agent's state) and events for TensorBoard: loss, best loss, distinct programs, hits and seconds by
    query, and the agent's metrics.

    Args:
        agent: A new agent; a resumed run restores its state.
        oracle: Evaluates the programs.
        budget: The limits.
        epochs: Length of training; the task's default if None.
        training_seed: Seed of the trainings. The agent has a seed of its own.
        folder: The run folder; None writes no files.
        batch_size: Programs asked for and evaluated together.
        reference: A program to compare with, evaluated before the first query and outside of the budget.
        on_query: Called after each query, and in a resumed run also for each query done before.
        on_step: Called after each training step.

    Returns:
        The totals of the run, queries before an interruption included.

    Raises:
        ValueError: If `epochs`, `training_seed` or `batch_size` is out of range.
        RunError: If the folder belongs to another configuration, is in use by another process, or is damaged.
        StoreError: If the store fails. Finished queries are kept; the same call resumes.
    """
    epochs = check_epochs(epochs) or oracle.task.default_epochs
    check_number_asked(batch_size, "batch_size")
    config = {
        "agent": agent.name,
        "task": oracle.task.name,
        "task_version": oracle.task.version,
        "arithmetic": oracle.task.arithmetic,
        "epochs": epochs,
        "training_seed": check_seed(training_seed),
        "identity": oracle.identity,
        "batch_size": batch_size,
    }
    # The agent's settings stand beside these; one of the same name gets a prefix.
    config |= {f"agent_{name}" if name in config else name: value for name, value in agent.config().items()}
    with open_run_folder(Path(folder), config) if folder is not None else nullcontext() as run:
        result: SearchResult[AnyCandidate] = SearchResult()
        batch = 0

        def count(entries: Sequence[HistoryEntry]) -> None:
            for entry in entries:
                result.add(entry)
                if on_query is not None:
                    on_query(entry, result)
                if run is not None:
                    run.note(entry, result)
            if run is not None:
                run.note_agent(agent, result.queries)

        if run is not None:
            for entries in _catch_up(agent, oracle, run, epochs, training_seed):
                count(entries)
                batch = entries[-1].batch
            if result.best is not None:
                run.save_best(result.best)  # a kill may have come between the query and this
        if reference is not None:
            result.reference = oracle.query(reference, epochs, training_seed, on_step=on_step, last_epoch_only=True)
        while not budget.spent(result.queries, result.distinct, result.simulated_seconds):
            batch += 1
            size = batch_size if budget.queries is None else min(batch_size, budget.queries - result.queries)
            programs = agent.ask(size)
            if len(programs) != size:
                raise ValueError(f"the agent was asked for {size} programs and gave {len(programs)}")
            started = time.perf_counter()
            evaluations = oracle.query_many(programs, epochs, training_seed, on_step=on_step, last_epoch_only=True)
            seconds = (time.perf_counter() - started) / size
            entries = _entries(result, batch, evaluations, seconds, oracle.task.steps_per_epoch)
            if run is not None:
                run.append(entries)
            agent.tell(programs, evaluations)
            best = result.best
            count(entries)
            if run is not None:
                if result.best is not None and result.best is not best:
                    run.save_best(result.best)
                run.save_agent_now_and_then(agent, result.queries)
        if run is not None:
            run.save_agent(agent, result.queries)
        return result


def _entries(
    result: SearchResult[Any], batch: int, evaluations: Sequence[Evaluation[Any]], seconds: float, steps_per_epoch: int
) -> list[HistoryEntry]:
    """Returns the history entries of a batch that follows `result`."""
    entries: list[HistoryEntry] = []
    cost = result.simulated_seconds
    for evaluation in evaluations:
        new = result.is_new(evaluation.key) and all(entry.key != evaluation.key for entry in entries)
        if new and evaluation.source != "probe":
            cost += evaluation.epochs * steps_per_epoch * SIMULATED_SECONDS_PER_STEP
        entries.append(
            HistoryEntry(
                number=result.queries + len(entries) + 1,
                batch=batch,
                asked=len(evaluations),
                program=evaluation.program,
                status=evaluation.status,
                loss=evaluation.loss if evaluation.status == "ok" else None,
                key=evaluation.key,
                hit=evaluation.hit,
                source=evaluation.source,
                seconds=round(seconds, 4),
                new=new,
                simulated_seconds=round(cost, 6),
            )
        )
    return entries


def _catch_up(
    agent: Agent[Any], oracle: Oracle, run: RunFolder, epochs: int, training_seed: int
) -> Iterator[list[HistoryEntry]]:
    """Restores a new agent, and yields the run's history in batches.

    It loads the saved state and replays the queries after it. Each batch is yielded after the agent was told of it.
    """
    history = run.history()
    saved_at = run.load_agent(agent)
    if saved_at > len(history):
        raise RunError(
            f"{run.folder}: the history ends before the agent's saved state; lines were lost from it. "
            "Put them back, or delete agent.json to continue from the end of the history"
        )
    for _, group in groupby(history, key=lambda entry: entry.batch):
        entries = list(group)
        if entries[0].number > saved_at:
            programs = agent.ask(len(entries))
            if programs != [entry.program for entry in entries]:
                raise RunError(
                    f"{run.folder}: query {entries[0].number} of the history is not what the agent proposes there. "
                    "The run was made with another version; choose another folder with --run"
                )
            agent.tell(programs, [_told(entry, oracle, epochs, training_seed) for entry in entries])
        yield entries


def _told(entry: HistoryEntry[Any], oracle: Oracle, epochs: int, training_seed: int) -> Evaluation:
    """Returns the evaluation of an entry, without the curve and the provenance."""
    loss = float(entry.status) if entry.loss is None else entry.loss
    return Evaluation(
        entry.program,
        oracle.task.name,
        epochs,
        training_seed,
        loss,
        entry.status,
        (),
        entry.key,
        entry.hit,
        entry.source,
    )
