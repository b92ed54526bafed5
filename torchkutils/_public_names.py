"""The one list of public names, each with the module of the package that it lives in.

`__init__.py` imports and lists them from here. Type checkers read `__init__.pyi`, which `stub()` writes:
`pytest tests/test_exports.py --regold` after a change of the list.
"""

from __future__ import annotations

PUBLIC_NAMES = {
    "ArchiveError": "errors",
    "ChunkShuffleSampler": "data.chunk_shuffle",
    "CustomObjectScope": "objects.scope",
    "DownloadError": "errors",
    "GeneratorEnqueuer": "data.enqueuers",
    "HDF5Matrix": "data.hdf5_matrix",
    "ModelPlot": "models.plot",
    "ModelSummary": "models.summary",
    "OrderedEnqueuer": "data.enqueuers",
    "ParallelModel": "parallel.parallel_model",
    "Progbar": "progress",
    "Sequence": "data.sequence",
    "SequenceLoader": "data.sequence_loader",
    "custom_object_scope": "objects.scope",
    "deserialize_keras_object": "objects.serialization",
    "gather_for_metrics": "parallel.ranks",
    "get_custom_objects": "objects.scope",
    "get_file": "files.get_file",
    "get_registered_name": "objects.registry",
    "get_registered_object": "objects.registry",
    "is_main_process": "parallel.ranks",
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


def stub() -> str:
    """The text of `__init__.pyi`: the same names, as imports that type checkers follow."""
    imports = [f"from torchkutils.{module} import {name} as {name}" for name, module in PUBLIC_NAMES.items()]
    listed = [f'    "{name}",' for name in PUBLIC_NAMES]
    return "\n".join([*sorted(imports), "", "__version__: str", "__all__ = [", *listed, "]", ""])
