"""Keras 3's data utilities: the same arguments and results as Keras where it does the same, in tensors and arrays."""

from __future__ import annotations

import io
import math
import os
import pathlib
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import IterableDataset, TensorDataset

import torchkutils as ku

os.environ.setdefault("KERAS_BACKEND", "torch")


def keras_utils():
    return pytest.importorskip("keras").utils


# -- padding -----------------------------------------------------------------------------------------------------------

lists = st.lists(st.lists(st.integers(-9, 9), max_size=6), max_size=6)


@given(
    lists, st.one_of(st.none(), st.integers(1, 8)), st.sampled_from(["pre", "post"]), st.sampled_from(["pre", "post"])
)
@settings(deadline=None, max_examples=60)
def test_padding_equals_kerass(sequences, maxlen, padding, truncating):
    how = {"maxlen": maxlen, "padding": padding, "truncating": truncating, "value": 7}
    ours = ku.pad_sequences(sequences, **how)
    if sequences:
        wanted = keras_utils().pad_sequences(sequences, **how)
        assert (ours.tolist(), ours.dtype, ours.shape) == (wanted.tolist(), wanted.dtype, wanted.shape)
        tensors = ku.pad_sequences([torch.tensor(one, dtype=torch.int64) for one in sequences], **how)
        assert (tensors.dtype, tensors.tolist()) == (torch.int32, wanted.tolist())
    else:
        assert ours.shape == (0, maxlen or 0)


def test_padding_keeps_inner_shapes_and_text():
    rows = ku.pad_sequences([np.ones((1, 2)), np.ones((3, 2))], dtype="float32", padding="post")
    assert (rows.shape, rows.sum()) == ((2, 3, 2), 8.0)
    assert ku.pad_sequences([["a"], ["b", "c"]], dtype=object, value="-").tolist() == [["-", "a"], ["b", "c"]]
    assert ku.pad_sequences([[1, 2]], maxlen=0).shape == (1, 0)


# NumPy 1 warns where NumPy 2 raises OverflowError.
@pytest.mark.filterwarnings("ignore:NumPy will stop allowing conversion of out-of-bound:DeprecationWarning")
@given(
    st.lists(st.lists(st.one_of(st.integers(-300, 300), st.booleans(), st.floats(-9, 9)), max_size=4), min_size=1),
    st.sampled_from(["int8", "uint8", "int32", ">i4", "int64", "float16", "float32", "float64", "bool", "object"]),
    st.sampled_from([list, tuple, np.array]),
)
@settings(deadline=None, max_examples=100)
def test_numbers_are_converted_as_numpy_converts_them(sequences, dtype, kind):
    sequences = [kind(one) for one in sequences]
    flat = [number for one in sequences for number in (one.tolist() if kind is np.array else one)]
    try:
        wanted = np.fromiter(flat, dtype=dtype)
    except (OverflowError, TypeError, ValueError) as error:
        with pytest.raises(type(error), match=re.escape(str(error))):
            ku.pad_sequences(sequences, dtype=dtype)
        return
    found = ku.pad_sequences(sequences, dtype=dtype, padding="post")
    filled = [found[row, : len(one)] for row, one in enumerate(sequences)]
    assert (found.dtype, np.concatenate(filled).tolist()) == (wanted.dtype, wanted.tolist())


def test_a_float32_that_overflows_warns_as_in_numpy():
    with pytest.warns(RuntimeWarning, match="overflow"):
        assert ku.pad_sequences([[1e300]], dtype="float32").tolist() == [[float("inf")]]


@pytest.mark.parametrize(
    ("sequences", "options", "message"),
    [
        ([[1], [2, [3]]], {}, "row 1"),
        ([[[1, 2]], [[1, 2, 3]]], {}, r"the elements of row 1 have shape \(3,\), those before it \(2,\)"),
        ([[1], 5], {}, "got 5 at row 1"),
        ([[1]], {"padding": "left"}, "padding must be 'pre' or 'post', got 'left'"),
        ([[1]], {"maxlen": -1}, "maxlen must not be negative, got -1"),
        ([[1]], {"value": "x"}, "which dtype int32 does not hold"),
        ([torch.ones(1, 2), torch.ones(1, 3)], {}, r"the elements of row 1 have shape \(3,\)"),
    ],
)
def test_padding_names_what_is_wrong(sequences, options, message):
    with pytest.raises(ValueError, match=message):
        ku.pad_sequences(sequences, **options)


# -- splitting ---------------------------------------------------------------------------------------------------------


@given(st.integers(2, 40), st.one_of(st.integers(1, 39), st.floats(0.1, 0.9)), st.booleans(), st.integers(0, 5))
@settings(deadline=None, max_examples=60)
def test_a_split_loses_nothing_and_doubles_nothing(total, left_size, shuffle, seed):
    if isinstance(left_size, int):
        left_size = min(left_size, total - 1)
    elif not 0 < round(left_size * total) < total:
        return
    left, right = ku.split_dataset(torch.arange(total), left_size, shuffle=shuffle, seed=seed)
    parts = [[int(part[i]) for i in range(len(part))] for part in (left, right)]
    assert sorted([*parts[0], *parts[1]]) == list(range(total))
    assert len(left) == (left_size if isinstance(left_size, int) else round(left_size * total))
    assert shuffle or parts == [list(range(len(left))), list(range(len(left), total))]


def test_a_split_keeps_containers_and_datasets():
    x, y = np.arange(6).reshape(3, 2), torch.arange(3)
    left, _ = ku.split_dataset({"x": x, "pair": (x, y)}, right_size=1)
    assert (left[1]["x"].tolist(), int(left[1]["pair"][1])) == ([2, 3], 1)
    left, right = ku.split_dataset(TensorDataset(torch.arange(4)), right_size=0.25)
    assert (len(left), right[0][0].item()) == (3, 3)
    assert ku.split_dataset(["a", "b"], 1)[1][0] == "b"


class Endless(IterableDataset):
    def __iter__(self):
        return iter(())


@pytest.mark.parametrize(
    ("dataset", "sizes", "error", "message"),
    [
        (np.arange(4), {}, ValueError, "left_size or right_size must be given"),
        (
            np.arange(4),
            {"left_size": 1.5},
            ValueError,
            r"left_size must lie in \(0, 1\) when it is a fraction, got 1.5",
        ),
        (np.arange(4), {"left_size": 3, "right_size": 2}, ValueError, r"ask for 3 \+ 2 samples, dataset holds 4"),
        (np.arange(4), {"left_size": 4}, ValueError, "right part would be empty"),
        (np.arange(4), {"left_size": "half"}, TypeError, "must be a fraction or a number"),
        ((np.arange(4), np.arange(3)), {"left_size": 1}, ValueError, "must have one length"),
        (Endless(), {"left_size": 1}, TypeError, "got an iterable Endless"),
        (5, {"left_size": 1}, TypeError, "got int"),
    ],
)
def test_a_split_names_what_is_wrong(dataset, sizes, error, message):
    with pytest.raises(error, match=message):
        ku.split_dataset(dataset, **sizes)


# -- windows over time -------------------------------------------------------------------------------------------------


def windows_by_hand(data, targets, length, stride, rate, start, end):
    span = (length - 1) * rate + 1
    starts = [s for s in range(start, end - span + 1) if (s - start) % stride == 0 and s < len(targets)]
    return [[data[s + rate * k] for k in range(length)] for s in starts], [targets[s] for s in starts]


@given(
    st.integers(8, 30),
    *[st.integers(1, 4)] * 4,
    st.integers(0, 3),
    st.sampled_from([np.asarray, torch.tensor, "other"]),
)
@settings(deadline=None, max_examples=80)
def test_windows_are_those_of_the_definition(steps, length, stride, rate, batch, start, kind):
    data, targets = np.arange(steps * 2).reshape(steps, 2), np.arange(steps - 2) * 10
    if (length - 1) * rate >= steps - start - 1:
        return
    wanted = windows_by_hand(data.tolist(), targets.tolist(), length, stride, rate, start, steps - 1)
    make = (lambda x: HasSlices(x)) if kind == "other" else kind
    series = ku.timeseries_dataset_from_array(
        make(data), make(targets) if kind != "other" else targets, length, stride, rate, batch, start_index=start,
        end_index=steps - 1,
    )  # fmt: skip
    batches = list(series)
    assert [row.tolist() for x, _ in batches for row in x] == wanted[0]
    assert [int(one) for _, y in batches for one in y] == wanted[1]
    assert all(isinstance(x, torch.Tensor) is (kind is torch.tensor) for x, _ in batches)
    assert len(series) == math.ceil(len(wanted[0]) / batch)


class HasSlices:
    """Like HDF5Matrix: a length, and slices that are arrays."""

    def __init__(self, array):
        self._array = array

    def __len__(self):
        return len(self._array)

    def __getitem__(self, key):
        assert isinstance(key, slice)
        return self._array[key]


def test_windows_are_copies_and_shuffle_as_in_keras():
    data = np.arange(10)
    series = ku.timeseries_dataset_from_array(data, None, 3, batch_size=None, shuffle=True, seed=4)
    starts = np.arange(8)
    np.random.RandomState(4).shuffle(starts)
    assert [window[0] for window in series] == starts.tolist()
    series[0][:] = -1
    assert data.tolist() == list(range(10))
    ku.timeseries_dataset_from_array(data, None, 3)[0][:] = -1
    assert data.tolist() == list(range(10))
    assert len(list(ku.timeseries_dataset_from_array(data, data, 3, batch_size=2).loader(shuffle=True))) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sequence_length": 0}, "sequence_length must be 1 or more, got 0"),
        ({"sequence_length": 11}, "no window fits: sequence_length=11"),
        ({"start_index": 10}, r"start_index must lie in \[0, 10\), got 10"),
        ({"end_index": 11}, r"end_index must lie in \(0, 10\], got 11"),
        ({"batch_size": 0}, "batch_size must be 1 or more, got 0"),
    ],
)
def test_windows_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ku.timeseries_dataset_from_array(np.arange(10), None, **{"sequence_length": 3, **options})


# -- folders -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def pictures(tmp_path):
    for label, name in enumerate(["cats", "dogs"]):
        for number in range(4):
            path = tmp_path / name / f"{number}.png"
            path.parent.mkdir(exist_ok=True)
            ku.save_img(path, np.full((4 + number, 6, 3), 100 * label + number, np.uint8), scale=False)
    (tmp_path / "cats" / "notes.txt").write_text("no image")
    return tmp_path


def test_images_come_with_their_classes(pictures, capsys):
    batches = ku.image_dataset_from_directory(pictures, image_size=(8, 5), batch_size=3, shuffle=False)
    assert capsys.readouterr().out == "Found 8 files belonging to 2 classes.\n"
    images, labels = zip(*batches, strict=True)
    assert [tuple(one.shape) for one in images] == [(3, 3, 8, 5), (3, 3, 8, 5), (2, 3, 8, 5)]
    assert torch.cat(labels).tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert (images[0].dtype, labels[0].dtype, batches.class_names) == (torch.float32, torch.int64, ["cats", "dogs"])
    assert torch.cat(images).amax((1, 2, 3)).round().tolist() == [0, 1, 2, 3, 100, 101, 102, 103]


@pytest.mark.parametrize(
    ("options", "shape", "label"),
    [
        ({"label_mode": "categorical", "color_mode": "grayscale"}, (1, 8, 8), [1.0, 0.0]),
        ({"label_mode": "binary", "color_mode": "rgba"}, (4, 8, 8), [0.0]),
        ({"class_names": ["dogs", "cats"]}, (3, 8, 8), 0),
        ({"labels": [2, 1, 0, 0, 0, 0, 0, 0]}, (3, 8, 8), 2),
        ({"labels": None}, (3, 8, 8), None),
        ({"crop_to_aspect_ratio": True, "interpolation": "area"}, (3, 8, 8), 0),
        ({"pad_to_aspect_ratio": True, "interpolation": "nearest"}, (3, 8, 8), 0),
    ],
)
def test_images_are_given_as_asked(pictures, options, shape, label):
    item = ku.image_dataset_from_directory(
        pictures, image_size=8, batch_size=None, shuffle=False, verbose=False, **options
    )[0]
    image, got = item if label is not None else (item, None)
    assert (tuple(image.shape), None if got is None else got.tolist()) == (shape, label)


def test_the_division_is_kerass_and_loses_nothing(pictures):
    both = ku.image_dataset_from_directory(pictures, validation_split=0.25, subset="both", seed=3, verbose=False)
    assert [len(part.file_paths) for part in both] == [6, 2]
    assert len({*both[0].file_paths, *both[1].file_paths}) == 8
    order = np.arange(8)
    np.random.RandomState(3).shuffle(order)
    every = ku.image_dataset_from_directory(pictures, shuffle=False, verbose=False).file_paths
    assert both[1].file_paths == [every[place] for place in order[-2:]]
    alone = ku.image_dataset_from_directory(pictures, validation_split=0.25, subset="validation", seed=3, verbose=False)
    assert alone.file_paths == both[1].file_paths


def test_each_epoch_of_a_loader_has_an_order_of_its_own_and_resumes(pictures):
    data = ku.image_dataset_from_directory(pictures, image_size=4, batch_size=8, seed=1, verbose=False)
    loader = data.loader(num_workers=1)
    first, second = [next(iter_all)[1].tolist() for iter_all in (iter(list(loader)), iter(list(loader)))]
    assert sorted(first) == sorted(second)
    again = ku.image_dataset_from_directory(pictures, image_size=4, batch_size=8, seed=1, verbose=False)
    again.load_state_dict({"epoch": 1})
    assert again[0][1].tolist() == second


def test_a_broken_file_is_named_and_the_rest_is_read(pictures):
    (pictures / "cats" / "0.png").write_bytes(b"no picture")
    (pictures / "dogs" / "0.png").write_bytes((pictures / "dogs" / "1.png").read_bytes()[:45])
    data = ku.image_dataset_from_directory(pictures, batch_size=1, shuffle=False, verbose=False)
    with pytest.raises(ValueError, match=r"cats.0\.png is no image"):
        data[0]
    with pytest.raises(ValueError, match=r"dogs.0\.png is a damaged image|dogs.0\.png is no image"):
        data[4]
    assert data[1][0].shape == (1, 3, 256, 256)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"directory": "nowhere"}, FileNotFoundError, "directory 'nowhere' does not exist"),
        ({"labels": "guessed"}, ValueError, "labels must be 'inferred', None or a list of integers, got 'guessed'"),
        ({"labels": [1]}, ValueError, "one entry a file, got 1 for 8"),
        ({"label_mode": "multi"}, ValueError, "label_mode must be .* got 'multi'"),
        ({"label_mode": "binary", "class_names": ["cats"]}, ValueError, "needs two classes"),
        ({"class_names": ["birds"]}, ValueError, r"got \['birds'\]; it has \['cats', 'dogs'\]"),
        ({"color_mode": "hsv"}, ValueError, "color_mode must be"),
        ({"interpolation": "lanczos5"}, ValueError, "interpolation must be one of .* got 'lanczos5'"),
        ({"image_size": (0, 4)}, ValueError, r"image_size must be \(height, width\)"),
        ({"validation_split": 0.5}, ValueError, "subset must be"),
        ({"validation_split": 0.5, "subset": "training"}, ValueError, "needs a seed"),
        ({"validation_split": 0.01, "subset": "both"}, ValueError, "leaves a part of 8 files empty"),
        ({"batch_size": 0}, ValueError, "batch_size must be 1 or more"),
    ],
)
def test_a_wrong_argument_is_named(pictures, options, error, message):
    with pytest.raises(error, match=message):
        ku.image_dataset_from_directory(**{"directory": pictures, "verbose": False, **options})


def test_texts_are_strings(tmp_path):
    for name, content in [("a/1", b"gr\xc3\xbc\xc3\x9fe"), ("b/1", b"caf\xe9")]:
        (tmp_path / name).parent.mkdir()
        (tmp_path / f"{name}.txt").write_bytes(content)
    data = ku.text_dataset_from_directory(tmp_path, batch_size=1, shuffle=False, max_length=3, verbose=False)
    assert data[0] == (["grü"], torch.tensor([0]))
    with pytest.raises(ValueError, match=r"b.1\.txt is no UTF-8 text: .* at byte 3"):
        data[1]
    with pytest.raises(ValueError, match=r"no file below .* ends in \.txt"):
        ku.text_dataset_from_directory(pathlib.Path(__file__).parent, labels=None, verbose=False)


def test_sounds_are_cut_padded_and_resampled(tmp_path):
    soundfile = pytest.importorskip("soundfile")
    pytest.importorskip("soxr")
    for name, length, rate in [("a/1", 100, 8000), ("b/1", 300, 16000)]:
        (tmp_path / name).parent.mkdir()
        soundfile.write(tmp_path / f"{name}.wav", np.full(length, 0.5), rate)
    data = ku.audio_dataset_from_directory(tmp_path, shuffle=False, sampling_rate=8000, verbose=False)
    sounds, labels = data[0]
    assert (tuple(sounds.shape), labels.tolist()) == ((2, 1, 150), [0, 1])
    assert float(sounds[0, 0, 50]) == pytest.approx(0.5, abs=1e-4)
    assert float(sounds[0, 0, 120]) == 0
    cut = ku.audio_dataset_from_directory(tmp_path, shuffle=False, output_sequence_length=20, verbose=False)
    assert cut[0][0].shape == (2, 1, 20)
    (tmp_path / "a" / "0.wav").write_bytes(b"silence")
    with pytest.raises(ValueError, match=r"a.0\.wav is no sound"):
        ku.audio_dataset_from_directory(tmp_path, batch_size=1, shuffle=False, verbose=False)[0]


# -- images by themselves ----------------------------------------------------------------------------------------------


def test_an_image_goes_to_a_file_and_back(tmp_path):
    x = np.random.default_rng(0).integers(0, 255, (5, 4, 3)).astype(np.uint8)
    ku.save_img(tmp_path / "x.png", torch.from_numpy(x).permute(2, 0, 1), "channels_first", scale=False)
    image = ku.load_img(tmp_path / "x.png")
    assert np.array_equal(ku.img_to_array(image, dtype="uint8"), x)
    assert ku.img_to_array(image, "channels_first").shape == (3, 5, 4)
    assert ku.load_img(io.BytesIO((tmp_path / "x.png").read_bytes()), "grayscale", (2, 3), "bilinear", True).size == (
        3,
        2,
    )
    with pytest.raises(ValueError, match=r"no image format for '\.doc'"):
        ku.save_img(tmp_path / "x.doc", x)
    assert [path.name for path in tmp_path.iterdir()] == ["x.png"]


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9), st.integers(1, 9))
@settings(deadline=None, max_examples=30)
def test_reading_and_scaling_are_kerass(height, width, to_height, to_width):
    pixels = np.random.default_rng(height).integers(0, 255, (height, width, 3)).astype(np.uint8)
    file = io.BytesIO()
    ku.array_to_img(pixels, scale=False).save(file, "png")
    how = {"target_size": (to_height, to_width), "interpolation": "bilinear", "keep_aspect_ratio": True}
    keras = keras_utils()
    assert np.array_equal(ku.load_img(file, **how), keras.load_img(io.BytesIO(file.getvalue()), **how))
    assert np.array_equal(ku.array_to_img(pixels), keras.array_to_img(pixels))
    assert np.array_equal(ku.img_to_array(ku.array_to_img(pixels)), keras.img_to_array(keras.array_to_img(pixels)))


# -- small ones --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [(1,), (1, 2), (1, 2, 3), ((1, 2),), ([1],)])
def test_packing_and_unpacking_are_inverse(packed):
    data = ku.pack_x_y_sample_weight(*packed)
    assert [one for one in ku.unpack_x_y_sample_weight(data) if one is not None] == list(packed)
    assert ku.unpack_x_y_sample_weight(list(packed)) == (*packed, None, None)[:3]
    with pytest.raises(ValueError, match="got a tuple of 4"):
        ku.unpack_x_y_sample_weight((1, 2, 3, 4))


def test_one_seed_fixes_all_generators():
    import random

    def draws():
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    assert ku.set_random_seed(5) is None
    first = draws()
    ku.set_random_seed(5)
    assert draws() == first
    for seed, error, message in [
        (-1, ValueError, r"lie in \[0, 2\*\*32\), got -1"),
        (2**32, ValueError, "got 4294967296"),
    ]:
        with pytest.raises(error, match=message):
            ku.set_random_seed(seed)
    with pytest.raises(TypeError, match=r"seed must be an integer, got 1\.5"):
        ku.set_random_seed(1.5)


def test_parameters_are_counted_once():
    layer = torch.nn.Linear(3, 2)
    assert ku.count_params(torch.nn.Sequential(layer, layer, torch.nn.LazyLinear(4))) == 8
    assert ku.count_params([layer.weight, layer.weight]) == 6
    with pytest.raises(TypeError, match="must hold tensors, got str"):
        ku.count_params(["weight"])
    with pytest.raises(TypeError, match="must be a module or an iterable of tensors, got int"):
        ku.count_params(3)
