"""SequenceLoaders in the Hugging Face Trainer.

Let `get_train_dataloader` return the loader. Each epoch's hook runs when the next one begins; `FinishEpochs` adds it
after the last one. `LogModel` writes the model's table and page into the output folder. A Trainer that goes on from a
checkpoint skips the batches that it had trained on.

    class Training(Trainer):
        def get_train_dataloader(self):
            return loader

    Training(model, arguments, callbacks=[FinishEpochs(), LogModel()]).train()
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Unpack

from transformers import TrainerCallback

from torchkutils.integrations.look_options import GivenInput
from torchkutils.integrations.model_report import write_report
from torchkutils.integrations.placed_loader import finish_epochs_in


class FinishEpochs(TrainerCallback):  # type: ignore[misc]
    """Runs the `on_epoch_end` of a Sequence as soon as the Trainer's epoch is over, after the last one too."""

    def on_epoch_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Finish the loader of the training."""
        finish_epochs_in(others.get("train_dataloader"))

    def on_evaluate(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Finish the loader of the evaluation."""
        finish_epochs_in(others.get("eval_dataloader"))


class LogModel(TrainerCallback):  # type: ignore[misc]
    """Writes the model's table and page into the output folder when a training begins.

    Args:
        loggers: Where they are logged too: see `torchkutils.integrations.log_summary`.
        name: Of the files (`model_summary.txt`, `model.html`) and in the loggers.
        **look: Arguments of `summarize` that say what the model is given; without them the model's own `dummy_inputs`
            are taken.

    What goes wrong is a warning: the training goes on. In a job of several processes the first one writes.
    """

    def __init__(self, loggers: Iterable[Any] = (), name: str = "model", **look: Unpack[GivenInput]) -> None:
        self._loggers, self._name, self._look = tuple(loggers), name, look

    def on_train_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Write and log."""
        if state.is_world_process_zero:
            write_report(others["model"], args.output_dir, loggers=self._loggers, name=self._name, **self._look)
