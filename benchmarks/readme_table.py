"""The README's table: what people use today, and our time over theirs, from benchmarks/results/*.json."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from benchmarks._stored import Comparison, Subject

BEGIN = "<!-- The table is written by `python -m benchmarks.make_page` from benchmarks/results/*.json. -->"
END = "<!-- end of the table -->"


class Row(NamedTuple):
    """A line: a task, what people use for it, what is better here, and the comparison that was measured."""

    task: str
    instead_of: str
    better: str
    subject: str
    question: str
    baseline: str


ROWS = [
    Row(
        "see a model's layers",
        "torchinfo",
        "the real connections; FLOPs marked exact or not; the model is put back bit for bit",
        "summary",
        "chain of 5,000 Linear",
        "torchinfo",
    ),
    Row(
        "draw a model",
        "torchview",
        "one interactive page; no `dot` program; nested modules and shortcuts as they ran",
        "plot",
        "building the graph, 48-layer encoder",
        "torchview",
    ),
    Row(
        "train from HDF5",
        "h5py, a row at a time",
        "whole batches by workers, shuffling by chunks, any URL",
        "hdf5",
        "an epoch of 205 MB, contiguous, through a DataLoader",
        "a row at a time",
    ),
    Row(
        "make batches yourself",
        "DataLoader",
        "hooks at the epoch's end reach the workers; resumes in mid-epoch",
        "sequence",
        "400 batches of 256 KB, 2 workers",
        "DataLoader",
    ),
    Row(
        "download and verify",
        "pooch",
        "resumes, mirrors, one request for many processes, hostile servers and archives",
        "get_file",
        "500 MB over loopback with sha256",
        "pooch",
    ),
    Row(
        "save and load a model",
        "torch.save, torch.load",
        "the architecture too, without pickle: a stranger's file can name nothing unsafe",
        "model_file",
        "load 500 MB in 100 tensors into a model, and read it",
        "torch.load",
    ),
    Row(
        "turn labels into rows",
        "F.one_hot",
        "Keras's arguments and shapes; what is out of range raises",
        "to_categorical",
        "to_categorical (1,000,000, 10), tensor",
        "F.one_hot",
    ),
]


def in_readme(readme: str, found: Sequence[Subject]) -> str:
    """The README with the table that the results give."""
    before, rest = readme.split(BEGIN)
    after = rest.split(END)[1]
    return f"{before}{BEGIN}\n\n{table(found)}\n\n{END}{after}"


def table(found: Sequence[Subject]) -> str:
    """The lines of the table."""
    lines = ["| You want to | People use | Better here | Our time / theirs |", "|---|---|---|---|"]
    for row in ROWS:
        measured = comparison(row, found)
        link = f"[{measured.ratio:.2g}][benchmarks.md#{row.subject}]"
        lines.append(f"| {row.task} | {row.instead_of} | {row.better} | {link} |")
    missing = "Below 1 we are faster: medians of paired runs on one machine. [Where we are slower][benchmarks.md] comes"
    return "\n".join(lines) + f"\n\n{missing}\nfirst on the page of all figures."


def comparison(row: Row, found: Sequence[Subject]) -> Comparison:
    """What was measured for a row."""
    for subject in found:
        for one in subject.comparisons:
            if (subject.name, one.question, one.baseline) == (row.subject, row.question, row.baseline):
                return one
    raise KeyError(f"no result of {row.subject!r} answers {row.question!r} against {row.baseline!r}: change ROWS here")
