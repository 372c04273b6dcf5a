"""A process beside that of the stages, which folds the parts of a table (stages/tables/folding.py).

At a hundred parts a second folding takes a third of a core, which the process that hands out
batches cannot spare. Ray starts the other one on the same node, so that it is gone for certain when
it is lost. It takes no core, since all may be taken by workers, and is started when there is
something to fold: most runs of one machine never do.
"""

from types import TracebackType
from typing import Any, Self

import ray
from ray.exceptions import RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from handloom.errors import RunError, first_line
from handloom.listings import forget_listings
from handloom.pipeline.losses import DEATHS, is_loss
from handloom.stages.tables.folding import end_killed_round, fold_parts, has_work, rewriting
from handloom.stages.tables.parts import Table


class Folder:
    """The process: an actor."""

    def fold(self, table: Table) -> int:
        """Do one round; returns the files folded."""
        return fold_parts(table)


class FoldElsewhere:
    """Folds in that process, and starts another where it is lost; a context, at whose end it ends.

    A killed round loses nothing: it is completed or undone before the next one begins.
    """

    def __init__(self) -> None:
        self.folder: Any = None
        self.deaths = 0  # in a row

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    def __call__(self, table: Table) -> int:
        """Do one round; returns the files folded.

        Raises:
            RunError: the process died some times in a row.
        """
        if self.folder is None and not has_work(table):
            return 0
        with rewriting(table):
            while (folded := self._try(table)) is None:
                end_killed_round(table)
            forget_listings(table.folder)
        return folded

    def _try(self, table: Table) -> int | None:
        """Do one round; None where the process is lost."""
        self.folder = self.folder or _start()
        try:
            folded: int = ray.get(self.folder.fold.remote(table))
        except Exception as error:
            self._lost(table, error)
            return None
        self.deaths = 0
        return folded

    def _lost(self, table: Table, error: Exception) -> None:
        """End the process; raises what was no loss, and the last of several losses."""
        self._end()
        if not is_loss(error):
            raise (error.cause if isinstance(error, RayTaskError) else error) from None
        self.deaths += 1
        if self.deaths >= DEATHS:
            raise RunError(
                f"the process that folds the parts of {table.folder} died {DEATHS} times in a row "
                f"({first_line(error)}); run the same command again, it goes on from there."
            ) from None

    def _end(self) -> None:
        if self.folder is not None:
            ray.kill(self.folder)
        self.folder = None


def _start() -> Any:
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options = {"num_cpus": 0, "max_restarts": 0, "scheduling_strategy": here}
    return ray.remote(**options)(Folder).remote()
