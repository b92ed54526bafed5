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
    "ModelComparison": "models.compare",
    "ModelPlot": "models.plot",
    "ModelSummary": "models.summary",
    "OrderedEnqueuer": "data.enqueuers",
    "ParallelModel": "parallel.parallel_model",
    "Progbar": "progress",
    "PyDataset": "data.sequence",
    "Registry": "files.registry",
    "Sequence": "data.sequence",
    "SequenceLoader": "data.sequence_loader",
    "array_to_img": "data.images",
    "audio_dataset_from_directory": "data.from_directory",
    "compare_models": "models.compare",
    "count_params": "numerical.count_params",
    "custom_object_scope": "objects.scope",
    "deserialize_keras_object": "objects.serialization",
    "from_categorical": "numerical.from_categorical",
    "gather_for_metrics": "parallel.ranks",
    "get_custom_objects": "objects.scope",
    "get_file": "files.get_file",
    "get_registered_name": "objects.registry",
    "get_registered_object": "objects.registry",
    "hash_file": "files.hashing",
    "image_dataset_from_directory": "data.from_directory",
    "img_to_array": "data.images",
    "is_main_process": "parallel.ranks",
    "load_img": "data.images",
    "load_model": "objects.model_file",
    "load_optimizer": "objects.optimizer_state",
    "load_scheduler": "objects.scheduler_state",
    "load_weights": "objects.weights_file",
    "model_to_dot": "models.dot",
    "multi_gpu_model": "parallel.multi_gpu_model",
    "normalize": "numerical.normalize",
    "open_model_file": "objects.opened_file",
    "pack_x_y_sample_weight": "data.sample_weights",
    "pad_sequences": "numerical.pad_sequences",
    "plot_model": "models.plot",
    "print_summary": "models.summary",
    "read_metadata": "objects.model_file",
    "register_flop_formula": "models.summary",
    "register_keras_serializable": "objects.registry",
    "register_library": "objects.libraries",
    "save_img": "data.images",
    "save_model": "objects.model_file",
    "save_weights": "objects.weights_file",
    "serialize_keras_object": "objects.serialization",
    "set_random_seed": "numerical.random_seed",
    "split_dataset": "data.split_dataset",
    "summarize": "models.summary",
    "text_dataset_from_directory": "data.from_directory",
    "timeseries_dataset_from_array": "data.timeseries",
    "to_categorical": "numerical.to_categorical",
    "unpack_x_y_sample_weight": "data.sample_weights",
    "validate_file": "files.hashing",
}


def stub() -> str:
    """The text of `__init__.pyi`: the same names, as imports that type checkers follow."""
    imports = [f"from torchkutils.{module} import {name} as {name}" for name, module in PUBLIC_NAMES.items()]
    listed = [f'    "{name}",' for name in PUBLIC_NAMES]
    return "\n".join([*sorted(imports), "", "__version__: str", "__all__ = [", *listed, "]", ""])
