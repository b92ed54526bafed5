"""SequenceLoaders in PyTorch Lightning and Lightning Fabric.

A Trainer takes a SequenceLoader as it is: it calls `set_epoch`, saves and restores its state, and each epoch's hook
runs when the next one begins. Under several processes give the loader `world_size='auto'`, since the Trainer shards
DataLoaders only. `FinishEpochs` adds the hook after the last epoch, and runs it before checkpoints are written.
`LogModel` writes the model's table and page into the run's folder and to its loggers.

    trainer = lightning.Trainer(callbacks=[FinishEpochs(), LogModel()])
    trainer.fit(model, sequence.loader(num_workers=2, world_size="auto"))
"""

from __future__ import annotations

from typing import Any, Unpack

from torchkutils.data.sequence_loader import SequenceLoader
from torchkutils.integrations.look_options import GivenInput
from torchkutils.integrations.model_report import write_report
from torchkutils.integrations.placed_loader import PlacedLoader, finish_epochs_in

try:
    from lightning.pytorch import Callback
except ImportError:
    from pytorch_lightning import Callback


class FinishEpochs(Callback):  # type: ignore[misc]
    """Runs the `on_epoch_end` of Sequences as soon as the Trainer's epoch is over, after the last one too."""

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Finish the loaders of the training."""
        finish_epochs_in(trainer.train_dataloader)

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Finish the loaders of the validation."""
        finish_epochs_in(trainer.val_dataloaders)

    def on_test_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Finish the loaders of the test."""
        finish_epochs_in(trainer.test_dataloaders)

    def on_predict_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Finish the loaders of the prediction."""
        finish_epochs_in(trainer.predict_dataloaders)


class LogModel(Callback):  # type: ignore[misc]
    """Writes the model's table and page into the run's folder when a fit begins, and logs them.

    Args:
        name: Of the files (`model_summary.txt`, `model.html`) and in the loggers.
        **look: Arguments of `summarize` that say what the model is given; without them the module's own
            `example_input_array` is taken, and where there is none, the structure is shown.

    The Trainer's loggers for TensorBoard, W&B and MLflow take the table and the picture; other loggers have the files
    in their folder. What goes wrong is a warning: the training goes on. In a job of several processes the first one
    writes.
    """

    def __init__(self, name: str = "model", **look: Unpack[GivenInput]) -> None:
        super().__init__()
        self._name, self._look = name, look

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Write and log."""
        # Asked on every process, which agree on it.
        folder = trainer.log_dir or trainer.default_root_dir
        if trainer.is_global_zero:
            write_report(pl_module, folder, loggers=trainer.loggers, name=self._name, **self._look)


def setup_dataloader(fabric: Any, loader: SequenceLoader, *, move_to_device: bool = True) -> PlacedLoader:
    """What `fabric.setup_dataloaders` does, for a SequenceLoader: shared by the ranks, batches on the device.

    Args:
        fabric: The Fabric.
        loader: The loader; one that was made without `world_size` is shared among Fabric's ranks.
        move_to_device: Move batches to Fabric's device.
    """
    loader.share(fabric.global_rank, fabric.world_size)
    return PlacedLoader(loader, fabric.to_device if move_to_device else _same)


def _same(batch: Any) -> Any:
    return batch
