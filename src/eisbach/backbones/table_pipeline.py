"""Pipelines of one network whose path is the table of their scheduler: reading the table, naming, saving."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from eisbach import pretrained
from eisbach.backbones.pipeline_folder import INDEX, copy_parts, options, read_scheduler
from eisbach.backbones.state import adapter_free_state, identity_of
from eisbach.diffusion.discrete_path import DiscretePath, scheduler_target
from eisbach.files import write_json


@dataclass(frozen=True)
class SchedulerTable:
    """What a pipeline's scheduler says about its network.

    Attributes
    ----------
    values : dict
        The scheduler's configuration, as it is written.
    path : DiscretePath
    target : str
        "eps", "x0" or "v", of its `prediction_type`.
    """

    values: dict[str, Any]
    path: DiscretePath
    target: str


def read_table(folder: Path) -> SchedulerTable:
    """The scheduler in a pipeline's folder.

    Raises
    ------
    CheckpointError
        A scheduler that diffusers does not have.
    UserError
        One that is no discrete variance-preserving one, or of another target.
    """
    values = read_scheduler(folder)
    table = pretrained.scheduler(values, folder)
    target = scheduler_target(str(table.config.get("prediction_type", "epsilon")))
    return SchedulerTable(values, DiscretePath.from_scheduler(table), target)


class TablePipeline:
    """`identity` and `save` of a backbone whose `module` is the part `network_part` of a diffusers pipeline.

    Subclasses set what is annotated here; `copied_parts` must lie in the folder, `optional_parts` may.
    """

    name: str
    network_part: str
    copied_parts: tuple[str, ...]
    optional_parts: tuple[str, ...] = ()
    module: nn.Module
    folder: Path
    _files: dict[str, Any]
    _table: SchedulerTable

    def identity(self) -> str:
        """A 16-digit hash of the network's configuration and weights, and of the scheduler's.

        Raises
        ------
        CheckpointError
            The backbone carries an adapter.
        """
        return identity_of(self.name, {**options(self.module), "scheduler": self._table.values}, self.module)

    def save(self, folder: str | Path) -> None:
        """Writes the pipeline as diffusers does; all but the network is copied from where it was loaded.

        Raises
        ------
        CheckpointError
            The backbone carries an adapter, or a part to copy is no longer there.
        """
        adapter_free_state(self.module)  # refuses a network that carries an adapter
        network: Any = self.module  # diffusers' own class
        folder = Path(folder)
        copy_parts(self.folder, folder, self.copied_parts, self.optional_parts)
        network.save_pretrained(str(folder / self.network_part), safe_serialization=True)
        write_json(folder / INDEX, self._files)  # last: a folder with it is whole
