"""What W&B has for certain, by run."""

import time

from dsdctl.store.store import Store

JOURNAL = "tracking/wandb.json"
"""What W&B has: the levels of each run, and a checksum of each comparison."""

OFFLINE_JOURNAL = "tracking/wandb-offline.json"
"""The same of its files on this machine, which may never be uploaded."""


Journal = dict[str, set[int]]
"""What was mirrored by run: levels, or checksums of comparisons."""


def read_journal(store: Store, name: str) -> Journal:
    """A journal of a store; empty where it is none."""
    runs = store.read_json(name) or {}
    return {
        run_id: {item for item in items if isinstance(item, int)}
        for run_id, items in runs.items()
        if isinstance(items, list)
    }


def add_to_journal(store: Store, name: str, new: Journal) -> None:
    """Add to a journal, which mirrors of several runs may share."""
    for _ in range(100):
        with store.lock("tracking") as locked:
            if locked:
                journal = read_journal(store, name)
                _merge(journal, new)
                store.write_json(name, {k: sorted(v) for k, v in journal.items()})
                return
        time.sleep(0.1)


def _merge(journal: Journal, new: Journal) -> None:
    for run_id, items in new.items():
        journal.setdefault(run_id, set()).update(items)
