"""SequenceLoaders in PyTorch Ignite: `trainer.run(loader, max_epochs=3)` takes one as it is.

finish_epochs(trainer)
"""

from __future__ import annotations

from typing import Any

from ignite.engine import Events

from torchkutils.integrations.placed_loader import finish_epochs_in


def finish_epochs(engine: Any) -> None:
    """Let an Engine run the `on_epoch_end` of its loader's Sequence as soon as an epoch is over, the last one too."""
    engine.add_event_handler(Events.EPOCH_COMPLETED, _finish)


def _finish(engine: Any) -> None:
    finish_epochs_in(engine.state.dataloader)
