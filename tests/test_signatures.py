"""What a caller may write: every argument that users rely on, with its kind and its default.

More arguments with defaults may follow; an argument that goes, moves or gets another default breaks programs.
"""

from __future__ import annotations

import inspect
from functools import reduce

import pytest

import torchkutils

SIGNATURES = {
    "to_categorical": "y, num_classes=None, dtype='float32'",
    "normalize": "x, axis=-1, order=2",
    "register_keras_serializable": "package='Custom', name=None",
    "get_registered_name": "obj",
    "get_registered_object": "name, custom_objects=None, module_objects=None",
    "serialize_keras_object": "obj",
    "deserialize_keras_object": "identifier, module_objects=None, custom_objects=None, printable_module_name='object'",
    "save_model": "model, path, *, optimizer=None, scheduler=None, metadata=None",
    "load_model": "path, *, custom_objects=None, device='cpu', dtype=None, mmap=False",
    "load_optimizer": "path, optimizer, name=None",
    "load_scheduler": "path, scheduler, name=None",
    "read_metadata": "path",
    "save_weights": "model_or_tensors, path",
    "load_weights": "model, path, *, strict=True, skip_mismatch=False",
    "open_model_file": "path",
    "HDF5Matrix": (
        "datapath, dataset, start=0, end=None, normalizer=None, *, as_tensor=True, field=None, threads=None, "
        "cache_bytes=32 * 2**20, storage_options=None, swmr=False, locking=None"
    ),
    "ChunkShuffleSampler": "data, *, buffer_chunks=16, seed=0, rank=None, world_size=None, shard='pad'",
    "Sequence.loader": (
        "self, *, num_workers=None, shuffle=False, seed=0, pin_memory=False, prefetch_factor=None, timeout=0, "
        "multiprocessing_context=None, worker_init_fn=None, rank=None, world_size=None, shard='pad', "
        "collate_fn=None, workers=None, reuse=False, on_error='raise'"
    ),
    "OrderedEnqueuer": "sequence, use_multiprocessing=False, shuffle=False",
    "GeneratorEnqueuer": "sequence, use_multiprocessing=False, wait_time=None, random_seed=None",
    "OrderedEnqueuer.start": "self, workers=1, max_queue_size=10",
    "GeneratorEnqueuer.start": "self, workers=1, max_queue_size=10",
    "OrderedEnqueuer.stop": "self, timeout=None",
    "get_file": (
        "fname=None, origin=None, untar=False, md5_hash=None, file_hash=None, cache_subdir='datasets', "
        "hash_algorithm='auto', extract=False, archive_format='auto', cache_dir=None, *, force=False, "
        "mirrors=(), headers=None, verify=True, timeout=(10, 30), retries=3, offline=False, progress=True, "
        "allow_links=True, overwrite=False, extract_dir=None, members=None, remove_archive=False"
    ),
    "hash_file": "path, algorithm='sha256'",
    "validate_file": "fpath, file_hash, algorithm='auto', chunk_size=65535",
    "Progbar": "target, width=30, verbose=1, interval=0.05, stateful_metrics=None",
    "summarize": (
        "model, *, input_size=None, input_data=None, input_kwargs=None, dtypes=None, depth='auto', "
        "columns=None, mode='eval', engine='auto', grad=False, style='keras', fold=True, weights=False"
    ),
    "print_summary": (
        "model, line_length=None, positions=None, print_fn=None, *, input_size=None, input_data=None, "
        "input_kwargs=None, dtypes=None, depth='auto', columns=None, mode='eval', engine='auto', grad=False, "
        "style='keras', fold=True, weights=False"
    ),
    "model_to_dot": (
        "model, show_shapes=False, show_layer_names=True, rankdir='TB', expand_nested=False, dpi=96, subgraph=False"
    ),
    "plot_model": (
        "model, to_file='model.png', show_shapes=False, show_layer_names=True, rankdir='TB', "
        "expand_nested=False, dpi=96, *, input_size=None, input_data=None, dtypes=None, depth=None, "
        "mode='eval', engine='auto', show_dtype=False, show_params=False, show_trainable=False, "
        "show_ops=False, drawer='layers', rolled=None, fold=False, style='keras'"
    ),
    "multi_gpu_model": (
        "model, gpus=None, cpu_merge=True, cpu_relocation=False, *, devices=None, strategy='auto', "
        "outputs='merged', split='even', buffers='merged', launch='auto', shared=(), batch_axes=None, "
        "options=None"
    ),
    "ParallelModel.sharded_loss": "self, fn, inputs, targets, *, reduction='mean', weights=None",
    "set_random_seed": "seed",
    "pad_sequences": "sequences, maxlen=None, dtype='int32', padding='pre', truncating='pre', value=0.0",
    "split_dataset": "dataset, left_size=None, right_size=None, shuffle=False, seed=None",
    "timeseries_dataset_from_array": (
        "data, targets, sequence_length, sequence_stride=1, sampling_rate=1, batch_size=128, shuffle=False, "
        "seed=None, start_index=None, end_index=None"
    ),
    "image_dataset_from_directory": (
        "directory, labels='inferred', label_mode='int', class_names=None, color_mode='rgb', batch_size=32, "
        "image_size=(256, 256), shuffle=True, seed=None, validation_split=None, subset=None, interpolation='bilinear'"
    ),
    "pack_x_y_sample_weight": "x, y=None, sample_weight=None",
    "unpack_x_y_sample_weight": "data",
}


def promised(name: str) -> dict[str, inspect.Parameter]:
    """The parameters of a function that is written like this."""
    made: dict[str, object] = {}
    exec(f"def function({SIGNATURES[name]}): ...", made)
    return dict(inspect.signature(made["function"]).parameters)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", SIGNATURES)
def test_arguments_kinds_and_defaults_are_those_that_users_rely_on(name: str) -> None:
    found = inspect.signature(reduce(getattr, name.split("."), torchkutils)).parameters
    wanted = promised(name)
    assert [(one, found[one].kind, found[one].default) for one in wanted] == [
        (one, wanted[one].kind, wanted[one].default) for one in wanted
    ]
    places = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    positional = [one for one in wanted if wanted[one].kind in places]
    assert [one for one in found if found[one].kind in places][: len(positional)] == positional
