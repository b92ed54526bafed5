"""keras.utils for PyTorch."""

from torchkutils.data.chunk_shuffle import ChunkShuffleSampler
from torchkutils.data.enqueuers import GeneratorEnqueuer, OrderedEnqueuer
from torchkutils.data.hdf5_matrix import HDF5Matrix
from torchkutils.data.sequence import Sequence
from torchkutils.data.sequence_loader import SequenceLoader
from torchkutils.errors import ArchiveError, DownloadError
from torchkutils.files.get_file import get_file
from torchkutils.files.hashing import validate_file
from torchkutils.progress import Progbar

__version__ = "0.1.0"

__all__ = [
    "ArchiveError",
    "ChunkShuffleSampler",
    "DownloadError",
    "GeneratorEnqueuer",
    "HDF5Matrix",
    "OrderedEnqueuer",
    "Progbar",
    "Sequence",
    "SequenceLoader",
    "get_file",
    "validate_file",
]
