"""keras.utils for PyTorch."""

from torchkutils.data.chunk_shuffle import ChunkShuffleSampler
from torchkutils.data.hdf5_matrix import HDF5Matrix
from torchkutils.data.sequence import Sequence
from torchkutils.data.sequence_loader import SequenceLoader

__version__ = "0.1.0"

__all__ = [
    "ChunkShuffleSampler",
    "HDF5Matrix",
    "Sequence",
    "SequenceLoader",
]
