"""The result store: results of trainings under string keys, in SQLite or PostgreSQL; nothing is ever overwritten."""

from nosbench_env.store.leases import Leases
from nosbench_env.store.result_store import Record, ResultStore, StoredRun
from nosbench_env.store.schema import StoreError

__all__ = ["Leases", "Record", "ResultStore", "StoreError", "StoredRun"]
