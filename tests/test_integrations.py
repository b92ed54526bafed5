"""Reports in trainers and loggers, with the real libraries; and a model pinned in a test."""

from __future__ import annotations

import logging
import pathlib
import subprocess
import sys
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from torchkutils import Sequence, plot_model, summarize
from torchkutils.integrations import assert_summary_matches, log_picture, log_summary, write_report


def network(width: int = 3) -> nn.Module:
    return nn.Sequential(nn.Linear(2, width), nn.ReLU(), nn.Linear(width, 1))


class Batches(Sequence):
    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Any:
        return {"x": torch.ones(4, 2)}


# -- a model pinned in a test ------------------------------------------------------------------------------------------


def test_a_pinned_model_is_compared_and_can_be_written_anew(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    golden = tmp_path / "golden" / "net.json"
    with pytest.raises(AssertionError, match=r"there is no .*net\.json yet; TORCHKUTILS_UPDATE=1 writes it"):
        assert_summary_matches(network(), golden, input_size=(None, 2))
    monkeypatch.setenv("TORCHKUTILS_UPDATE", "1")
    assert_summary_matches(network(), golden, input_size=(None, 2))
    monkeypatch.setenv("TORCHKUTILS_UPDATE", "0")
    assert_summary_matches(network(), golden, input_size=(None, 2))
    assert_summary_matches(summarize(network(), input_size=(None, 2)), golden)
    with pytest.raises(AssertionError, match="TORCHKUTILS_UPDATE=1 accepts it") as caught:
        assert_summary_matches(network(4), golden, input_size=(None, 2))
    assert {"total_params: 13 there, 17 now", "0: output_shapes: (None, 3) there, (None, 4) now"} <= {
        line.strip() for line in str(caught.value).splitlines()
    }


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (nn.Sequential(nn.Linear(2, 3), nn.ReLU()), "2: gone"),
        (nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1), nn.Tanh()), "3: new"),
        (nn.Sequential(nn.Linear(2, 3), nn.GELU(), nn.Linear(3, 1)), "1: class: ReLU there, GELU now"),
        (
            nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1).requires_grad_(False)),
            "2: trainable: 4 there, 0 now",
        ),
    ],
)
def test_each_kind_of_difference_is_named(other: nn.Module, words: str, tmp_path: pathlib.Path) -> None:
    assert_summary_matches(network(), tmp_path / "net.json", update=True)
    with pytest.raises(AssertionError, match=words):
        assert_summary_matches(other, tmp_path / "net.json")


@pytest.mark.parametrize("text", ["no JSON", "[1]", "{}"])
def test_a_file_that_is_no_summary_is_named(text: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / "net.json").write_text(text)
    with pytest.raises(ValueError, match=r"net\.json holds no summary"):
        assert_summary_matches(network(), tmp_path / "net.json")


# -- loggers -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_tensorboard_gets_the_table_and_the_picture(tmp_path: pathlib.Path) -> None:
    tensorboard = pytest.importorskip("torch.utils.tensorboard")
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with tensorboard.SummaryWriter(tmp_path) as writer:
        log_summary(writer, network(), input_size=(None, 2))
        log_picture(writer, network(), name="net", step=3)
    seen = events.EventAccumulator(str(tmp_path), size_guidance={"tensors": 0, "images": 0})
    seen.Reload()
    text = seen.Tensors("model/summary/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "(None, 3)" in text
    assert "Total params: 13" in text
    assert (seen.Images("net/picture")[0].step, seen.Images("net/picture")[0].width > 50) == (3, True)


@pytest.mark.slow
def test_wandb_gets_the_table_the_totals_and_the_picture(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    with wandb.init(mode="offline", dir=tmp_path, project="test") as run:
        log_summary(run, network(), input_size=(1, 2))
        log_picture(run, network(), input_size=(1, 2))
        assert run.summary["model/parameters"] == 13
    media = {path.suffix for path in tmp_path.rglob("media/**/*") if path.is_file()}
    assert media == {".html", ".png"}


@pytest.mark.slow
def test_mlflow_gets_text_and_picture(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.chdir(tmp_path)
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri((tmp_path / "runs").as_uri())
    try:
        with mlflow.start_run() as run:
            log_summary(mlflow, network(), input_size=(1, 2))
            log_picture(mlflow, network())
        with pytest.raises(TypeError, match="logger must know its run"):
            log_summary(mlflow.MlflowClient(), network())
    finally:
        mlflow.set_tracking_uri(before)
    names = {path.name for path in tmp_path.rglob(f"*{run.info.run_id}/artifacts/model/*")}
    assert names == {"summary.txt", "summary.json", "model.svg"}


@pytest.mark.parametrize("logger", [None, 3, logging.getLogger("x"), print])
def test_what_is_no_logger_is_refused(logger: Any) -> None:
    with pytest.raises(TypeError, match="logger must be a TensorBoard SummaryWriter, a run of wandb, mlflow"):
        log_summary(logger, network())


# -- reports -----------------------------------------------------------------------------------------------------------


class Fragile(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no forward today")


def test_a_report_never_ends_what_it_reports_on(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.warns(UserWarning, match="forward failed, the report shows its structure alone: no forward today"):
        summary = write_report(Fragile(), tmp_path / "new" / "run", loggers=[object()], input_size=(1, 2))
    assert summary.total_params == 6
    assert {path.name for path in (tmp_path / "new" / "run").iterdir()} == {"model_summary.txt", "model.html"}


def test_the_package_of_integrations_imports_no_trainer() -> None:
    program = (
        "import sys, torchkutils.integrations as i; i.log_summary, i.assert_summary_matches\n"
        "print([name for name in ('lightning', 'transformers', 'wandb', 'mlflow', 'h5py') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
def test_lightning_reports_when_a_fit_begins(tmp_path: pathlib.Path) -> None:
    lightning = pytest.importorskip("lightning")
    pytest.importorskip("tensorboard")
    from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

    from torchkutils.integrations.lightning import LogModel

    class Module(lightning.LightningModule):
        example_input_array = torch.ones(1, 2)

        def __init__(self) -> None:
            super().__init__()
            self.network = network()

        def forward(self, x: torch.Tensor) -> Any:
            return self.network(x)

        def training_step(self, batch: Any, index: int) -> Any:
            return self.network(batch["x"]).sum()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 0.1)

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    loggers = [TensorBoardLogger(tmp_path, name="tb"), CSVLogger(tmp_path, name="csv")]
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = lightning.Trainer(
            max_epochs=1, accelerator="cpu", logger=loggers, callbacks=[LogModel("net")], log_every_n_steps=1, **quiet
        )
        trainer.fit(Module(), Batches().loader())
    folder = pathlib.Path(trainer.log_dir)
    assert "(1, 3)" in (folder / "net_summary.txt").read_text()
    assert (folder / "net.html").read_text().startswith("<!")
    assert list(tmp_path.rglob("events.out.tfevents*"))


@pytest.mark.slow
def test_the_hugging_face_trainer_reports_when_a_training_begins(tmp_path: pathlib.Path) -> None:
    transformers = pytest.importorskip("transformers")
    # The Trainer itself needs it.
    pytest.importorskip("accelerate")
    from torchkutils.integrations.transformers import LogModel

    class Loss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network()

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"loss": self.network(x).sum()}

    class Training(transformers.Trainer):
        def get_train_dataloader(self) -> Any:
            return Batches().loader()

    arguments = transformers.TrainingArguments(
        tmp_path, max_steps=1, use_cpu=True, report_to=[], save_strategy="no", disable_tqdm=True
    )
    Training(Loss(), arguments, callbacks=[LogModel(input_size={"x": (1, 2)})]).train()
    assert "(1, 3)" in (tmp_path / "model_summary.txt").read_text()
    assert (tmp_path / "model.html").exists()


def test_a_plot_that_was_made_is_logged_as_it_is() -> None:
    class Writer:
        pictures: list[Any] = []

        def add_text(self, *given: Any) -> None: ...

        def add_image(self, tag: str, image: Any, step: int, dataformats: str) -> None:
            self.pictures.append((tag, np.shape(image)[2], step, dataformats))

    plot = plot_model(network(), None)
    assert log_picture(Writer(), plot, name="n", step=2) is plot
    assert Writer.pictures == [("n/picture", 3, 2, "HWC")]
