"""keras.utils for PyTorch.

Each name brings the module that it lives in when it is first used, so that `import torchkutils` costs no more than
`import torch`: all modules at once would add more than a tenth to it.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
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
    from torchkutils.models.summary import (
        ModelSummary,
        print_summary,
        summarize,
    )
    from torchkutils.numerical.normalize import normalize
    from torchkutils.numerical.to_categorical import to_categorical
    from torchkutils.objects.model_file import (
        load_model,
        load_weights,
        read_metadata,
        save_model,
        save_weights,
    )
    from torchkutils.objects.optimizer_state import load_optimizer
    from torchkutils.objects.registry import (
        get_registered_name,
        get_registered_object,
        register_keras_serializable,
    )
    from torchkutils.objects.scope import (
        CustomObjectScope,
        custom_object_scope,
        get_custom_objects,
    )
    from torchkutils.objects.serialization import (
        deserialize_keras_object,
        serialize_keras_object,
    )
    from torchkutils.parallel.multi_gpu_model import multi_gpu_model
    from torchkutils.progress import Progbar
else:
    _MODULES = {
        "ArchiveError": "errors",
        "ChunkShuffleSampler": "data.chunk_shuffle",
        "CustomObjectScope": "objects.scope",
        "DownloadError": "errors",
        "GeneratorEnqueuer": "data.enqueuers",
        "HDF5Matrix": "data.hdf5_matrix",
        "ModelPlot": "models.plot",
        "ModelSummary": "models.summary",
        "OrderedEnqueuer": "data.enqueuers",
        "Progbar": "progress",
        "Sequence": "data.sequence",
        "SequenceLoader": "data.sequence_loader",
        "custom_object_scope": "objects.scope",
        "deserialize_keras_object": "objects.serialization",
        "get_custom_objects": "objects.scope",
        "get_file": "files.get_file",
        "get_registered_name": "objects.registry",
        "get_registered_object": "objects.registry",
        "load_model": "objects.model_file",
        "load_optimizer": "objects.optimizer_state",
        "load_weights": "objects.model_file",
        "model_to_dot": "models.dot",
        "multi_gpu_model": "parallel.multi_gpu_model",
        "normalize": "numerical.normalize",
        "plot_model": "models.plot",
        "print_summary": "models.summary",
        "read_metadata": "objects.model_file",
        "register_keras_serializable": "objects.registry",
        "save_model": "objects.model_file",
        "save_weights": "objects.model_file",
        "serialize_keras_object": "objects.serialization",
        "summarize": "models.summary",
        "to_categorical": "numerical.to_categorical",
        "validate_file": "files.hashing",
    }

    def __getattr__(name):
        """Import the module that a public name lives in, and keep the name here."""
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        import importlib

        value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
        globals()[name] = value
        return value

    def __dir__():
        """The public names too, before they are used."""
        return sorted({*globals(), *_MODULES})


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
