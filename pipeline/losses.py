"""Lost workers and tasks: what the cluster took away, told from what ended itself.

Spark tells executors that "exited by the application" from those that their node took along and
counts only the first; Dask counts every lost worker against its tasks, four of them. Here a node's
loss counts for nothing, and a process that ended on a living node four times, for a clip that it
had to itself.
"""

import ray
from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    LocalRayletDiedError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayTaskError,
    WorkerCrashedError,
)

DEATHS = 4  # processes that one piece of work may end by itself, before it is given up

CLUSTER = (ActorUnavailableError, LocalRayletDiedError, NodeDiedError, ObjectLostError)
PROCESS = (RayActorError, OutOfMemoryError, WorkerCrashedError)


def is_loss(error: BaseException) -> bool:
    """True if a process or node was lost, so that the work can be done again."""
    return isinstance(_cause(error), (*CLUSTER, *PROCESS))


def is_of_cluster(error: BaseException, node_id: str = "") -> bool:
    """True if a node or its connection was lost: nothing that the work itself could have done.

    Args:
        error: as `ray.get` raised it.
        node_id: node of the lost worker, where it is known: a worker may be missed before its node.
    """
    cause = _cause(error)
    if isinstance(cause, ActorDiedError):
        # Ray keeps the context of a death in C++; its sentence is all that Python is given.
        if cause.preempted or "its node has died" in str(cause) or "owner has died" in str(cause):
            return True
        return bool(node_id) and not _is_alive(node_id)
    return isinstance(cause, CLUSTER)


def _cause(error: BaseException) -> BaseException:
    """What was raised inside a task, or the error itself."""
    return error.cause if isinstance(error, RayTaskError) and error.cause else error


def _is_alive(node_id: str) -> bool:
    return any(node["NodeID"] == node_id and node["Alive"] for node in ray.nodes())
