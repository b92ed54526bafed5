from torchkutils.data.chunk_shuffle import ChunkShuffleSampler as ChunkShuffleSampler
from torchkutils.data.enqueuers import GeneratorEnqueuer as GeneratorEnqueuer
from torchkutils.data.enqueuers import OrderedEnqueuer as OrderedEnqueuer
from torchkutils.data.hdf5_matrix import HDF5Matrix as HDF5Matrix
from torchkutils.data.sequence import Sequence as Sequence
from torchkutils.data.sequence_loader import SequenceLoader as SequenceLoader
from torchkutils.errors import ArchiveError as ArchiveError
from torchkutils.errors import DownloadError as DownloadError
from torchkutils.files.get_file import get_file as get_file
from torchkutils.files.hashing import validate_file as validate_file
from torchkutils.models.dot import model_to_dot as model_to_dot
from torchkutils.models.plot import ModelPlot as ModelPlot
from torchkutils.models.plot import plot_model as plot_model
from torchkutils.models.summary import ModelSummary as ModelSummary
from torchkutils.models.summary import print_summary as print_summary
from torchkutils.models.summary import summarize as summarize
from torchkutils.numerical.normalize import normalize as normalize
from torchkutils.numerical.to_categorical import to_categorical as to_categorical
from torchkutils.objects.model_file import load_model as load_model
from torchkutils.objects.model_file import load_weights as load_weights
from torchkutils.objects.model_file import read_metadata as read_metadata
from torchkutils.objects.model_file import save_model as save_model
from torchkutils.objects.model_file import save_weights as save_weights
from torchkutils.objects.optimizer_state import load_optimizer as load_optimizer
from torchkutils.objects.registry import get_registered_name as get_registered_name
from torchkutils.objects.registry import get_registered_object as get_registered_object
from torchkutils.objects.registry import register_keras_serializable as register_keras_serializable
from torchkutils.objects.scope import CustomObjectScope as CustomObjectScope
from torchkutils.objects.scope import custom_object_scope as custom_object_scope
from torchkutils.objects.scope import get_custom_objects as get_custom_objects
from torchkutils.objects.serialization import deserialize_keras_object as deserialize_keras_object
from torchkutils.objects.serialization import serialize_keras_object as serialize_keras_object
from torchkutils.parallel.multi_gpu_model import multi_gpu_model as multi_gpu_model
from torchkutils.parallel.parallel_model import ParallelModel as ParallelModel
from torchkutils.parallel.ranks import gather_for_metrics as gather_for_metrics
from torchkutils.parallel.ranks import is_main_process as is_main_process
from torchkutils.progress import Progbar as Progbar

__version__: str
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
    "ParallelModel",
    "Progbar",
    "Sequence",
    "SequenceLoader",
    "custom_object_scope",
    "deserialize_keras_object",
    "gather_for_metrics",
    "get_custom_objects",
    "get_file",
    "get_registered_name",
    "get_registered_object",
    "is_main_process",
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
