"""Real trainers take a SequenceLoader: every epoch whole, its hook once, shared by ranks, resumed in the middle."""

from __future__ import annotations

import itertools
import logging
import pathlib
import re
import subprocess
import sys
import warnings

import pytest
import torch

from torchkutils import Sequence

PLAIN = {
    "accelerator": "cpu",
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


class Counted(Sequence):
    """Batch i is the row [i + 10 × the hooks so far]; its state resumes the count."""

    def __init__(self, length=4):
        self.length, self.hooks, self.begun = length, 0, 0

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return torch.tensor([[float(index + 10 * self.hooks)]])

    def on_epoch_begin(self):
        self.begun += 1

    def on_epoch_end(self):
        self.hooks += 1

    def state_dict(self):
        return {"hooks": self.hooks}

    def load_state_dict(self, state):
        self.hooks = state["hooks"]


class Named(Counted):
    """The same as a dict, as the Hugging Face Trainer wants it."""

    def __getitem__(self, index):
        return {"x": super().__getitem__(index)}


EPOCHS = [0, 1, 2, 3, 10, 11, 12, 13, 20, 21, 22, 23]


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("how", ["exactly len", "one past", "zip with range", "islice"])
def test_the_hook_runs_once_an_epoch_however_the_loop_ends(how, num_workers):
    sequence = Counted()
    loader = sequence.loader(num_workers=num_workers)
    seen = []
    for epoch in range(3):
        batches = iter(loader)
        assert (sequence.hooks, sequence.begun) == (epoch, epoch)
        if how == "exactly len":
            seen += [int(next(batches)) for _ in range(len(loader))]
        elif how == "one past":
            seen += [int(batch) for batch in batches]
        elif how == "zip with range":
            seen += [int(batch) for _, batch in zip(range(len(loader)), batches, strict=False)]
        else:
            seen += [int(batch) for batch in itertools.islice(batches, len(loader))]
        assert sequence.hooks == epoch + (how == "one past")
    assert seen == EPOCHS
    del batches
    loader.close()
    assert sequence.hooks == 2 + (how == "one past")
    for _ in range(2):
        loader.finish_epoch()
        assert sequence.hooks == 3
    assert loader.epoch == 3


def test_finishing_does_nothing_where_no_epoch_is_finished():
    sequence = Counted()
    loader = sequence.loader()
    loader.finish_epoch()
    batches = iter(loader)
    next(batches)
    loader.finish_epoch()
    assert (sequence.hooks, loader.epoch, len(list(batches))) == (0, 0, 3)
    assert sequence.hooks == 1


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_state_after_the_last_batch_goes_on_with_the_next_epoch_hook_first(num_workers):
    loader = Counted().loader(num_workers=num_workers, shuffle=True)
    batches = iter(loader)
    [next(batches) for _ in range(4)]
    state = loader.state_dict()
    again = Counted()
    resumed = again.loader(num_workers=num_workers, shuffle=True)
    resumed.load_state_dict(state)
    assert again.hooks == 0
    follows = [int(batch) for batch in resumed]
    assert (again.hooks, resumed.epoch) == (2, 2)
    assert follows == [int(batch) for batch in loader]
    assert sorted(follows) == [10, 11, 12, 13]


# -- Lightning ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def lightning():
    found = pytest.importorskip("lightning")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield found


def module_of(lightning):
    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(1, 1)
            self.seen, self.validated = [], []

        def training_step(self, batch, index):
            self.seen.append(int(batch))
            return self.layer(batch).sum() * 0

        def validation_step(self, batch, index):
            self.validated.append(int(batch))

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    return Module()


def trained(lightning, module, folder, loaders, callbacks=(), checkpoint=None, **options):
    options = {"enable_checkpointing": False, "max_epochs": 3, **options}
    trainer = lightning.Trainer(**PLAIN, default_root_dir=folder, callbacks=list(callbacks), **options)
    trainer.fit(module, *loaders, ckpt_path=checkpoint, weights_only=False if checkpoint else None)
    return trainer


@pytest.mark.parametrize("num_workers", [0, 1])
def test_lightning_gives_every_epoch_its_hook(lightning, num_workers, tmp_path):
    from torchkutils.integrations.lightning import FinishEpochs

    for callbacks, hooks in (([], 2), ([FinishEpochs()], 3)):
        sequence, valid, module = Counted(), Counted(3), module_of(lightning)
        loader = sequence.loader(num_workers=num_workers)
        trained(lightning, module, tmp_path, (loader, valid.loader()), callbacks)
        assert module.seen == EPOCHS
        assert sequence.hooks == hooks
        # Two batches of a sanity check come first: an epoch that is left early.
        assert module.validated == [0, 1, 0, 1, 2, 10, 11, 12, 20, 21, 22]
        assert valid.hooks == hooks
        loader.close()


def test_an_epoch_that_lightning_cuts_short_has_no_hook_and_its_own_order(lightning, tmp_path):
    sequence, module = Counted(8), module_of(lightning)
    trained(lightning, module, tmp_path, (sequence.loader(shuffle=True),), limit_train_batches=3)
    orders = [module.seen[start : start + 3] for start in (0, 3, 6)]
    assert sequence.hooks == 0
    wanted = []
    for epoch in range(3):
        loader = Counted(8).loader(shuffle=True)
        loader.set_epoch(epoch)
        wanted.append([int(batch) for batch in itertools.islice(loader, 3)])
    assert orders == wanted


@pytest.mark.parametrize("stop_after", [6, 8, 10])
def test_lightning_resumes_in_the_middle_and_at_the_end_of_an_epoch(lightning, stop_after, tmp_path):
    from torchkutils.integrations.lightning import FinishEpochs

    whole, module = Counted(), module_of(lightning)
    trained(lightning, module, tmp_path, (whole.loader(shuffle=True),), [FinishEpochs()])
    keeping = lightning.pytorch.callbacks.ModelCheckpoint(
        tmp_path, "{step}", every_n_train_steps=stop_after, save_top_k=-1, save_on_train_epoch_end=False
    )
    first = module_of(lightning)
    loaders = (Counted().loader(shuffle=True),)
    trained(lightning, first, tmp_path, loaders, [FinishEpochs(), keeping], enable_checkpointing=True)
    assert first.seen == module.seen
    sequence, second = Counted(), module_of(lightning)
    checkpoint = tmp_path / f"step={stop_after}.ckpt"
    trained(lightning, second, tmp_path, (sequence.loader(shuffle=True),), [FinishEpochs()], checkpoint)
    assert second.seen == module.seen[stop_after:]
    assert sequence.hooks == 3


def test_a_loader_made_anew_for_each_epoch_has_a_new_order_each_time(lightning, tmp_path):
    class Reloading(type(module_of(lightning))):
        def train_dataloader(self):
            return Counted(12).loader(shuffle=True, seed=None)

    module = Reloading()
    trained(lightning, module, tmp_path, (), reload_dataloaders_every_n_epochs=1)
    orders = [tuple(module.seen[start : start + 12]) for start in (0, 12, 24)]
    assert len(set(orders)) == 3
    assert all(sorted(order) == list(range(12)) for order in orders)


ON_RANKS = """
import sys, warnings
sys.path.insert(0, {root!r})
import lightning
from tests.data.test_training_loops import PLAIN, Counted, module_of

if __name__ == "__main__":
    loader = Counted(6).loader(**{arguments})
    module = module_of(lightning)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer = lightning.Trainer(
            devices=2, strategy="ddp", max_epochs=2, enable_checkpointing=False, default_root_dir={folder!r}, **PLAIN
        )
        trainer.fit(module, loader)
    said = sum("ranks reads all batches" in str(warning.message) for warning in caught)
    sys.stdout.write(f"SEEN {{trainer.global_rank}} {{said}} {{module.seen}}\\n")
    sys.stdout.flush()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "said", "parts"),
    [
        ({}, 1, [[0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5]]),
        ({"world_size": "auto"}, 0, [[0, 2, 4], [1, 3, 5]]),
        ({"world_size": 1, "rank": 0}, 0, [[0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5]]),
    ],
)
def test_two_ranks_of_lightning_share_what_was_made_before_them(arguments, said, parts, lightning, tmp_path):
    script = tmp_path / "program.py"
    root = str(pathlib.Path(__file__).parents[2])
    script.write_text(ON_RANKS.format(root=root, arguments=arguments, folder=str(tmp_path)))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=110, check=False)
    found = sorted(re.findall(r"SEEN (\d) (\d) \[(.*?)\]", done.stdout))
    assert done.returncode == 0, done.stderr
    assert [int(warned) for _, warned, _ in found] == [said, said]
    assert [[int(batch) for batch in seen.split(", ")] for _, _, seen in found] == [
        [*part, *(batch + 10 for batch in part)] for part in parts
    ]


def test_fabric_places_and_shares_a_loader(lightning):
    from torchkutils.integrations.lightning import setup_dataloader

    fabric = lightning.Fabric(accelerator="cpu", devices=1)
    sequence = Counted()
    loader = setup_dataloader(fabric, sequence.loader())
    assert [int(batch) for _ in range(3) for batch in loader] == EPOCHS
    assert (len(loader), loader.epoch, loader.dataset) == (4, 3, sequence)


# -- Hugging Face ------------------------------------------------------------------------------------------------------


def trainer_of(transformers, loader, folder, callbacks=(), **options):
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))
            self.seen = []

        def forward(self, x):
            self.seen.append(int(x))
            return {"loss": (self.weight * x).sum() * 0}

    class Training(transformers.Trainer):
        def get_train_dataloader(self):
            return loader

    arguments = transformers.TrainingArguments(
        str(folder), num_train_epochs=3, use_cpu=True, report_to=[], disable_tqdm=True, logging_strategy="no", **options
    )
    return Training(Model(), arguments, callbacks=list(callbacks))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_the_hugging_face_trainer_gives_every_epoch_its_hook(num_workers, tmp_path):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    from torchkutils.integrations.transformers import FinishEpochs

    for callbacks, hooks in (([], 2), ([FinishEpochs()], 3)):
        sequence = Named()
        loader = sequence.loader(num_workers=num_workers)
        trainer = trainer_of(transformers, loader, tmp_path, callbacks, save_strategy="no")
        trainer.train()
        assert trainer.model.seen == EPOCHS
        assert sequence.hooks == hooks
        loader.close()


class Steady(Named):
    """Its batches do not depend on the hook."""

    def __getitem__(self, index):
        return {"x": torch.tensor([[float(index)]])}


@pytest.mark.parametrize("stop_after", [6, 8])
def test_the_hugging_face_trainer_resumes_with_the_batches_that_it_had_not_seen(stop_after, tmp_path):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    from torchkutils.integrations.transformers import FinishEpochs

    def seen(folder, resume=None, **options):
        sequence = Steady()
        loader = sequence.loader(shuffle=True)
        trainer = trainer_of(transformers, loader, tmp_path / folder, [FinishEpochs()], **options)
        trainer.train(resume_from_checkpoint=resume)
        return trainer.model.seen, sequence.hooks

    whole, hooks = seen("whole", save_strategy="no")
    assert hooks == 3
    part, _ = seen("part", save_strategy="steps", save_steps=stop_after)
    assert part == whole
    rest, hooks = seen("rest", str(tmp_path / "part" / f"checkpoint-{stop_after}"), save_strategy="no")
    assert rest == whole[stop_after:]
    assert hooks == 3 - stop_after // 4


def test_accelerate_prepares_a_loader_and_skips_its_first_batches():
    accelerate = pytest.importorskip("accelerate")
    from torchkutils.integrations.accelerate import prepare, skip_first_batches

    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=3)
    sequence, layer = Counted(), torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(layer.parameters(), 0.1)
    loader, layer, optimizer = prepare(accelerator, sequence.loader(), layer, optimizer)
    seen, synced = [], []
    for _ in range(3):
        for batch in loader:
            with accelerator.accumulate(layer):
                accelerator.backward(layer(batch).sum())
                synced.append(accelerator.sync_gradients)
            seen.append(int(batch))
    assert seen == EPOCHS
    # The third batch of each epoch, and the last, as with a DataLoader.
    assert synced == [False, False, True, True] * 3
    accelerator.register_for_checkpointing(loader)
    rest = skip_first_batches(loader, 1)
    assert [int(batch) for _ in range(2) for batch in rest] == [31, 32, 33, 40, 41, 42, 43]


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("shuffle", [False, True])
def test_accelerate_s_own_functions_take_a_loader(num_workers, shuffle):
    accelerate = pytest.importorskip("accelerate")
    wanted = [int(batch) for batch in Counted().loader(shuffle=shuffle)]
    sequence = Counted()
    loader = sequence.loader(num_workers=num_workers, shuffle=shuffle)
    accelerate.Accelerator(cpu=True).prepare(loader)
    rest = accelerate.skip_first_batches(loader, 2)
    assert [int(batch) for batch in rest] == wanted[2:]
    # What the others made of it was the first epoch.
    assert sequence.hooks == 0
    iter(loader)
    assert (sequence.hooks, loader.epoch) == (1, 1)
    loader.close()


def test_ignite_gives_every_epoch_its_hook():
    engine = pytest.importorskip("ignite.engine")
    from torchkutils.integrations.ignite import finish_epochs

    for finishing, hooks in ((False, 2), (True, 3)):
        sequence, seen = Counted(), []
        trainer = engine.Engine(lambda engine, batch: seen.append(int(batch)))
        if finishing:
            finish_epochs(trainer)
        trainer.run(sequence.loader(), max_epochs=3)
        assert seen == EPOCHS
        assert sequence.hooks == hooks
