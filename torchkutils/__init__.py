"""keras.utils for PyTorch."""

from torchkutils.data.chunk_shuffle import ChunkShuffleSampler
from torchkutils.data.enqueuers import GeneratorEnqueuer, OrderedEnqueuer
from torchkutils.data.hdf5_matrix import HDF5Matrix
from torchkutils.data.sequence import Sequence
from torchkutils.data.sequence_loader import SequenceLoader

__version__ = "0.1.0"

__all__ = [
    "ChunkShuffleSampler",
    "GeneratorEnqueuer",
    "HDF5Matrix",
    "OrderedEnqueuer",
    "Sequence",
    "SequenceLoader",
]
