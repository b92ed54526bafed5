from torchkutils.data.chunk_shuffle import ChunkShuffleSampler as ChunkShuffleSampler
from torchkutils.data.enqueuers import GeneratorEnqueuer as GeneratorEnqueuer
from torchkutils.data.enqueuers import OrderedEnqueuer as OrderedEnqueuer
from torchkutils.data.from_directory import audio_dataset_from_directory as audio_dataset_from_directory
from torchkutils.data.from_directory import image_dataset_from_directory as image_dataset_from_directory
from torchkutils.data.from_directory import text_dataset_from_directory as text_dataset_from_directory
from torchkutils.data.hdf5_matrix import HDF5Matrix as HDF5Matrix
from torchkutils.data.images import array_to_img as array_to_img
from torchkutils.data.images import img_to_array as img_to_array
from torchkutils.data.images import load_img as load_img
from torchkutils.data.images import save_img as save_img
from torchkutils.data.sample_weights import pack_x_y_sample_weight as pack_x_y_sample_weight
from torchkutils.data.sample_weights import unpack_x_y_sample_weight as unpack_x_y_sample_weight
from torchkutils.data.sequence import PyDataset as PyDataset
from torchkutils.data.sequence import Sequence as Sequence
from torchkutils.data.sequence_loader import SequenceLoader as SequenceLoader
from torchkutils.data.split_dataset import split_dataset as split_dataset
from torchkutils.data.timeseries import timeseries_dataset_from_array as timeseries_dataset_from_array
from torchkutils.errors import ArchiveError as ArchiveError
from torchkutils.errors import DownloadError as DownloadError
from torchkutils.files.get_file import get_file as get_file
from torchkutils.files.hashing import hash_file as hash_file
from torchkutils.files.hashing import validate_file as validate_file
from torchkutils.files.registry import Registry as Registry
from torchkutils.models.compare import ModelComparison as ModelComparison
from torchkutils.models.compare import compare_models as compare_models
from torchkutils.models.dot import model_to_dot as model_to_dot
from torchkutils.models.plot import ModelPlot as ModelPlot
from torchkutils.models.plot import plot_model as plot_model
from torchkutils.models.summary import ModelSummary as ModelSummary
from torchkutils.models.summary import print_summary as print_summary
from torchkutils.models.summary import register_flop_formula as register_flop_formula
from torchkutils.models.summary import summarize as summarize
from torchkutils.numerical.count_params import count_params as count_params
from torchkutils.numerical.from_categorical import from_categorical as from_categorical
from torchkutils.numerical.normalize import normalize as normalize
from torchkutils.numerical.pad_sequences import pad_sequences as pad_sequences
from torchkutils.numerical.random_seed import set_random_seed as set_random_seed
from torchkutils.numerical.to_categorical import to_categorical as to_categorical
from torchkutils.objects.libraries import register_library as register_library
from torchkutils.objects.model_file import load_model as load_model
from torchkutils.objects.model_file import read_metadata as read_metadata
from torchkutils.objects.model_file import save_model as save_model
from torchkutils.objects.opened_file import open_model_file as open_model_file
from torchkutils.objects.optimizer_state import load_optimizer as load_optimizer
from torchkutils.objects.registry import get_registered_name as get_registered_name
from torchkutils.objects.registry import get_registered_object as get_registered_object
from torchkutils.objects.registry import register_keras_serializable as register_keras_serializable
from torchkutils.objects.scheduler_state import load_scheduler as load_scheduler
from torchkutils.objects.scope import CustomObjectScope as CustomObjectScope
from torchkutils.objects.scope import custom_object_scope as custom_object_scope
from torchkutils.objects.scope import get_custom_objects as get_custom_objects
from torchkutils.objects.serialization import deserialize_keras_object as deserialize_keras_object
from torchkutils.objects.serialization import serialize_keras_object as serialize_keras_object
from torchkutils.objects.weights_file import load_weights as load_weights
from torchkutils.objects.weights_file import save_weights as save_weights
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
    "ModelComparison",
    "ModelPlot",
    "ModelSummary",
    "OrderedEnqueuer",
    "ParallelModel",
    "Progbar",
    "PyDataset",
    "Registry",
    "Sequence",
    "SequenceLoader",
    "array_to_img",
    "audio_dataset_from_directory",
    "compare_models",
    "count_params",
    "custom_object_scope",
    "deserialize_keras_object",
    "from_categorical",
    "gather_for_metrics",
    "get_custom_objects",
    "get_file",
    "get_registered_name",
    "get_registered_object",
    "hash_file",
    "image_dataset_from_directory",
    "img_to_array",
    "is_main_process",
    "load_img",
    "load_model",
    "load_optimizer",
    "load_scheduler",
    "load_weights",
    "model_to_dot",
    "multi_gpu_model",
    "normalize",
    "open_model_file",
    "pack_x_y_sample_weight",
    "pad_sequences",
    "plot_model",
    "print_summary",
    "read_metadata",
    "register_flop_formula",
    "register_keras_serializable",
    "register_library",
    "save_img",
    "save_model",
    "save_weights",
    "serialize_keras_object",
    "set_random_seed",
    "split_dataset",
    "summarize",
    "text_dataset_from_directory",
    "timeseries_dataset_from_array",
    "to_categorical",
    "unpack_x_y_sample_weight",
    "validate_file",
]
