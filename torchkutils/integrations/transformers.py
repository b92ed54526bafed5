"""SequenceLoaders in the Hugging Face Trainer.

Let `get_train_dataloader` return the loader. Each epoch's hook runs when the next one begins; `FinishEpochs` adds it
after the last one. A Trainer that goes on from a checkpoint skips the batches that it had trained on.

    class Training(Trainer):
        def get_train_dataloader(self):
            return loader

    Training(model, arguments, callbacks=[FinishEpochs()]).train()
"""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback

from torchkutils.integrations.placed_loader import finish_epochs_in


class FinishEpochs(TrainerCallback):  # type: ignore[misc]
    """Runs the `on_epoch_end` of a Sequence as soon as the Trainer's epoch is over, after the last one too."""

    def on_epoch_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Finish the loader of the training."""
        finish_epochs_in(others.get("train_dataloader"))

    def on_evaluate(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Finish the loader of the evaluation."""
        finish_epochs_in(others.get("eval_dataloader"))
