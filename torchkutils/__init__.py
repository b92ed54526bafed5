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
from torchkutils.objects.model_file import load_model, load_weights, read_metadata, save_model, save_weights
from torchkutils.objects.optimizer_state import load_optimizer
from torchkutils.objects.registry import get_registered_name, get_registered_object, register_keras_serializable
from torchkutils.objects.scope import CustomObjectScope, custom_object_scope, get_custom_objects
from torchkutils.objects.serialization import deserialize_keras_object, serialize_keras_object
from torchkutils.parallel.multi_gpu_model import multi_gpu_model
from torchkutils.progress import Progbar

__version__ = "0.1.0"

__all__ = [
    "ArchiveError",
    "ChunkShuffleSampler",
    "CustomObjectScope",
    "DownloadError",
    "GeneratorEnqueuer",
    "HDF5Matrix",
    "ModelPlot",
    "ModelSummary",
    "OrderedEnqueuer",
    "Progbar",
    "Sequence",
    "SequenceLoader",
    "custom_object_scope",
    "deserialize_keras_object",
    "get_custom_objects",
    "get_file",
    "get_registered_name",
    "get_registered_object",
    "load_model",
    "load_optimizer",
    "load_weights",
    "model_to_dot",
    "multi_gpu_model",
    "normalize",
    "plot_model",
    "print_summary",
    "read_metadata",
    "register_keras_serializable",
    "save_model",
    "save_weights",
    "serialize_keras_object",
    "summarize",
    "to_categorical",
    "validate_file",
]
