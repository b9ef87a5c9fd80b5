"""Where trials run: in this process, in parallel processes of this machine, or on a Ray cluster.

Each backend is a function `(tasks, jobs) -> iterator of outcomes`, in the order in which trials end.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

from paperworks.lab.store import Store
from paperworks.lab.trials import Outcome, Task, execute

Backend: TypeAlias = Callable[[Sequence[Task], int], Iterator[Outcome]]

DIED = "the worker process died (killed, or out of memory)"


def inline(tasks: Sequence[Task], jobs: int) -> Iterator[Outcome]:
    """One after the other, in this process: for debugging and tests."""
    for task in tasks:
        yield execute(task)


def processes(tasks: Sequence[Task], jobs: int) -> Iterator[Outcome]:
    """Parallel processes of this machine (joblib's loky), each with its share of the cores.

    A trial that takes its worker down is tried once more on its own; if it does so again it has failed, and the others
    go on.
    """
    waiting = {task.key: task for task in tasks}
    suspects: set[str] = set()
    while waiting:
        alone = [waiting[key] for key in suspects if key in waiting]
        batch, workers = (alone[:1], 1) if alone else (list(waiting.values()), jobs)
        ended = 0
        for outcome in _pool(batch, workers):
            ended += 1
            del waiting[outcome.key]
            yield outcome
        crashed = [task for task in batch if task.key in waiting and _was_running(task)]
        if not crashed and not ended:
            # Workers die before they take a trial: nothing will change that, so the first one ends the waiting.
            crashed = batch[:1]
            suspects.add(crashed[0].key)
        for task in crashed:
            if task.key in suspects:
                del waiting[task.key]
                yield Outcome(task.key, "failed", DIED)
            suspects.add(task.key)


def _pool(tasks: Sequence[Task], jobs: int) -> Iterator[Outcome]:
    """Outcomes until all are done or a worker dies."""
    from concurrent.futures import as_completed
    from concurrent.futures.process import BrokenProcessPool

    from joblib import cpu_count
    from joblib.externals.loky import ProcessPoolExecutor

    threads = str(max(1, cpu_count() // jobs))
    caps = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), threads)
    executor = ProcessPoolExecutor(max_workers=min(jobs, len(tasks)), env=caps, timeout=60)
    finished = False
    try:
        futures = [executor.submit(execute, task) for task in tasks]
        with contextlib.suppress(BrokenProcessPool):
            for future in as_completed(futures):
                yield future.result()
        finished = True
    finally:
        # On Ctrl-C trials under way are given up; what is finished is on disk.
        executor.shutdown(wait=finished, kill_workers=not finished)


def _was_running(task: Task) -> bool:
    marker = Store(task.folder).path(task.key, ".running")
    running = marker.exists()
    marker.unlink(missing_ok=True)
    return running


def ray(tasks: Sequence[Task], jobs: int) -> Iterator[Outcome]:
    """A Ray cluster: the one that is running (`RAY_ADDRESS`), else a local one. The store must be a shared folder."""
    try:
        import ray as cluster
        from ray.exceptions import WorkerCrashedError
    except ImportError as error:
        raise ValueError("backend 'ray': not installed; pip install 'paperworks[cluster]'") from error

    ours = not cluster.is_initialized()
    if ours:
        cluster.init(num_cpus=None, include_dashboard=False, log_to_driver=False)
    remote = cluster.remote(max_retries=1)(execute)
    try:
        pending = {remote.options(num_cpus=1, num_gpus=task.limits.gpus).remote(task): task for task in tasks}
        while pending:
            ready, _ = cluster.wait(list(pending), num_returns=1)
            task = pending.pop(ready[0])
            try:
                yield cluster.get(ready[0])
            except WorkerCrashedError:
                yield Outcome(task.key, "failed", DIED)
    finally:
        if ours:
            cluster.shutdown()


BACKENDS: dict[str, Backend] = {"processes": processes, "inline": inline, "ray": ray}
