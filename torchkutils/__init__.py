"""keras.utils for PyTorch."""

from torchkutils.data.chunk_shuffle import ChunkShuffleSampler
from torchkutils.data.enqueuers import GeneratorEnqueuer, OrderedEnqueuer
from torchkutils.data.hdf5_matrix import HDF5Matrix
from torchkutils.data.sequence import Sequence
from torchkutils.data.sequence_loader import SequenceLoader
from torchkutils.errors import ArchiveError, DownloadError
from torchkutils.files.get_file import get_file
from torchkutils.files.hashing import validate_file
from torchkutils.models.dot import model_to_dot
from torchkutils.models.plot import ModelPlot, plot_model
from torchkutils.models.summary import ModelSummary, print_summary, summarize
from torchkutils.numerical import normalize, to_categorical
from torchkutils.parallel.multi_gpu_model import multi_gpu_model
from torchkutils.progress import Progbar

__version__ = "0.1.0"

__all__ = [
    "ArchiveError",
    "ChunkShuffleSampler",
    "DownloadError",
    "GeneratorEnqueuer",
    "HDF5Matrix",
    "ModelPlot",
    "ModelSummary",
    "OrderedEnqueuer",
    "Progbar",
    "Sequence",
    "SequenceLoader",
    "get_file",
    "model_to_dot",
    "multi_gpu_model",
    "normalize",
    "plot_model",
    "print_summary",
    "summarize",
    "to_categorical",
    "validate_file",
]
