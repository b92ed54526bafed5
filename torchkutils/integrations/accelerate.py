"""SequenceLoaders in Hugging Face Accelerate.

loader, model, optimizer = prepare(accelerator, sequence.loader(num_workers=2), model, optimizer)
accelerator.register_for_checkpointing(loader)
for epoch in range(epochs):
    for batch in loader: ...
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any, TypeVar

from accelerate.data_loader import DataLoaderStateMixin
from accelerate.state import GradientState
from accelerate.utils import send_to_device

from torchkutils.data.sequence_loader import SequenceLoader
from torchkutils.integrations.placed_loader import PlacedLoader

LoaderT = TypeVar("LoaderT", SequenceLoader, PlacedLoader)


class PreparedLoader(PlacedLoader, DataLoaderStateMixin):  # type: ignore[misc]
    """A SequenceLoader that tells Accelerate which batch is the epoch's last, for gradient accumulation.

    Args:
        accelerator: The Accelerator.
        loader: The loader; one that was made without `world_size` is shared among the Accelerator's processes.
    """

    def __init__(self, accelerator: Any, loader: SequenceLoader) -> None:
        loader.share(accelerator.process_index, accelerator.num_processes)
        device = accelerator.device if accelerator.device_placement else None
        super().__init__(loader, lambda batch: batch if device is None else send_to_device(batch, device))
        self.gradient_state: Any = GradientState()

    def __iter__(self) -> Iterator[Any]:
        self.reset()
        self.gradient_state._add_dataloader(self)
        try:
            batches = iter(self.loader)
            for batch in batches:
                self.end_of_dataloader: bool = operator.length_hint(batches) == 0
                yield self._move(batch)
        finally:
            self.gradient_state._remove_dataloader(self)


def prepare(accelerator: Any, *objects: Any) -> Any:
    """What `accelerator.prepare` does, for SequenceLoaders too.

    Returns:
        The prepared objects in their order; alone where there is one.
    """
    others = [one for one in objects if not isinstance(one, SequenceLoader)]
    prepared = iter(_as_tuple(accelerator.prepare(*others)) if others else ())
    result = tuple(
        PreparedLoader(accelerator, one) if isinstance(one, SequenceLoader) else next(prepared) for one in objects
    )
    return result if len(result) != 1 else result[0]


def skip_first_batches(loader: LoaderT, num_batches: int = 0) -> LoaderT:
    """Let a loader's next epoch, and only that, begin after its first batches; nothing is made and thrown away.

    Accelerate's own function works too: it makes a DataLoader for the rest of the epoch, without the loader's workers.
    """
    loader.skip(num_batches)
    return loader


def _as_tuple(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)
