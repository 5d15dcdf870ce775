"""The result store: records under string keys, in SQLite or PostgreSQL."""

from nosbench_env.store.leases import Leases
from nosbench_env.store.record import Record, StoredRecord
from nosbench_env.store.result_store import ResultStore
from nosbench_env.store.schema import StoreError

__all__ = ["Leases", "Record", "ResultStore", "StoreError", "StoredRecord"]
