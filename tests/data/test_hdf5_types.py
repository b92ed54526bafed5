"""Shapes and dtypes that a file's types give: arrays in a type, records, rows of their own length, netCDF's packing."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import torch

from torchkutils import HDF5Matrix

TABLE = np.zeros(6, dtype=[("flag", "u1"), ("value", ">f8"), ("pair", "f4", (2,)), ("ok", "?"), ("name", "S3")])
TABLE["flag"] = [0, 1, 0, 1, 1, 0]
TABLE["value"] = np.arange(6) / 2
TABLE["pair"] = np.arange(12).reshape(6, 2)
TABLE["ok"] = [True, False, True, True, False, False]
TABLE["name"] = [b"a", b"bb", b"ccc", b"", b"e", b"f"]

STORAGES = {"contiguous": {}, "chunked": {"chunks": (4,)}, "gzip": {"chunks": (4,), "compression": "gzip"}}

KEYS = [0, -1, slice(None), slice(5, 1, -2), [5, 1, 1], np.array([True, False, True, False, False, True])]


def stored(folder, array, storage="contiguous", dtype=None):
    with h5py.File(folder / "a.h5", "w") as file:
        dataset = file.create_dataset(
            "x", array.shape if dtype is None else (len(array),), dtype or array.dtype, **STORAGES[storage]
        )
        dataset[...] = array
    return folder / "a.h5"


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("dtype", ["(3,)f4", "(3,)>i2", "(2,3)f8"])
@pytest.mark.parametrize("as_tensor", [True, False])
def test_axes_of_an_array_type_are_axes_of_the_rows(storage, dtype, as_tensor, tmp_path):
    base, shape = np.dtype(dtype).subdtype
    array = np.arange(6 * np.prod(shape)).reshape(6, *shape).astype(base)
    rows = HDF5Matrix(stored(tmp_path, array, storage, dtype), "x", as_tensor=as_tensor)
    assert (rows.shape, rows.ndim, rows.size) == (array.shape, array.ndim, array.size)
    for key in KEYS:
        np.testing.assert_array_equal(np.asarray(rows[key]), array[key])
    assert HDF5Matrix(tmp_path / "a.h5", "x", 2, 2).shape == (0, *shape)


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("field", ["flag", "value", "pair", "ok"])
def test_a_field_of_a_table_is_rows(storage, field, tmp_path):
    path = stored(tmp_path, TABLE, storage)
    expected = TABLE[field]
    matrices = [
        HDF5Matrix(path, "x", field=field),
        HDF5Matrix(path, "x", normalizer=lambda piece: piece[field]),
    ]
    for rows in matrices:
        assert rows.shape == expected.shape
        assert isinstance(rows.dtype, torch.dtype)
        for key in KEYS:
            np.testing.assert_array_equal(rows[key].numpy(), expected[key])
    plain = HDF5Matrix(path, "x", 1, field=field, as_tensor=False)
    assert plain.dtype == expected.dtype.base
    np.testing.assert_array_equal(plain[:], expected[1:])


def test_a_field_beside_text_of_varying_length_is_read_alone(tmp_path):
    dtype = np.dtype([("text", h5py.string_dtype()), ("value", "f8")])
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", data=np.array([("a", 1.5), ("b", 2.5), ("c", 3.5)], dtype), chunks=(2,))
    assert HDF5Matrix(tmp_path / "a.h5", "x", field="value")[[2, 0]].tolist() == [3.5, 1.5]
    with pytest.raises(TypeError, match="text or objects of varying length"):
        HDF5Matrix(tmp_path / "a.h5", "x", field="text")


@pytest.mark.parametrize("dtype", ["f4", ">i2"])
def test_rows_of_varying_length_are_lists_of_tensors(dtype, tmp_path):
    arrays = [np.arange(length).astype(dtype) for length in (3, 0, 1, 5)]
    with h5py.File(tmp_path / "a.h5", "w") as file:
        dataset = file.create_dataset("x", (4,), h5py.vlen_dtype(np.dtype(dtype)))
        for number, array in enumerate(arrays):
            dataset[number] = array
    rows = HDF5Matrix(tmp_path / "a.h5", "x", 1)
    assert (rows.shape, rows.dtype, len(rows)) == ((3,), torch.float32 if dtype == "f4" else torch.int16, 3)
    assert rows[-1].tolist() == [0, 1, 2, 3, 4]
    assert [row.tolist() for row in rows[:]] == [[], [0], [0, 1, 2, 3, 4]]
    assert [row.tolist() for row in rows[[2, 0, 1]]] == [[0, 1, 2, 3, 4], [], [0]]
    assert [row.tolist() for row in rows.__getitems__([1, 1])] == [[0], [0]]
    assert all(isinstance(row, torch.Tensor) for row in rows)
    plain = HDF5Matrix(tmp_path / "a.h5", "x", as_tensor=False)
    np.testing.assert_array_equal(plain[3], arrays[3])
    assert np.asarray(plain).dtype == object
    # Rows that happen to be equally long are ragged all the same.
    assert [len(row) for row in HDF5Matrix(tmp_path / "a.h5", "x", 2, 3)] == [1]
    assert HDF5Matrix(tmp_path / "a.h5", "x", 2, 2)[:] == []


def test_attributes_can_be_read(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = np.arange(3.0)
        file["x"].attrs.update({"unit": "K", "levels": [1, 2], "names": ["a", "b"]})
        file["x"].attrs["made by"] = file["x"].ref
        file["group/1"], file["group/2"] = 1.0, 2.0
        file["group"].attrs["of"] = "group"
    found = HDF5Matrix(tmp_path / "a.h5", "x").attrs
    assert {name: np.asarray(value).tolist() for name, value in found.items()} == {
        "unit": "K", "levels": [1, 2], "names": ["a", "b"]
    }  # fmt: skip
    assert HDF5Matrix(tmp_path / "a.h5", "group").attrs == {"of": "group"}


@pytest.mark.parametrize(
    ("packed", "attributes", "values"),
    [
        (np.array([0, 1, -999], "i2"), {"scale_factor": 0.01, "add_offset": 273.15, "_FillValue": np.int16(-999)},
         [273.15, 273.16, np.nan]),
        (np.array([0, -56], "i1"), {"_Unsigned": "true", "scale_factor": np.float32(0.5)}, [0, 100]),
        (np.array([1, 2, 9, 8], "u1"), {"missing_value": np.array([9, 8], "u1")}, [1, 2, np.nan, np.nan]),
        (np.array([1.5, 1e20], ">f4"), {"_FillValue": np.float32(1e20)}, [1.5, np.nan]),
        (np.array([1, 2], "i4"), {}, [1, 2]),
        (np.array([1, 2], "i4"), {"add_offset": np.array([10.0])}, [11, 12]),
    ],
)  # fmt: skip
def test_packed_values_are_decoded_on_request(packed, attributes, values, tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = packed
        file["x"].attrs.update(attributes)
    rows = HDF5Matrix(tmp_path / "a.h5", "x", normalizer="netcdf")
    np.testing.assert_allclose(rows[:].numpy(), values, rtol=1e-6)
    np.testing.assert_allclose(rows[0].item(), values[0], rtol=1e-6)
    assert rows.normalizer == "netcdf"
    assert rows.dtype == rows[:].dtype
    raw = HDF5Matrix(tmp_path / "a.h5", "x", as_tensor=False)
    np.testing.assert_array_equal(raw[:], packed)


def test_a_file_of_netcdf4_is_read(tmp_path):
    netcdf = pytest.importorskip("netCDF4")
    with netcdf.Dataset(tmp_path / "a.nc", "w") as file:
        file.createDimension("t", 5)
        variable = file.createVariable("v", "i2", ("t",), fill_value=-999, zlib=True)
        variable.scale_factor, variable.add_offset = 0.01, 273.15
        variable[:] = np.ma.array(273.15 + np.arange(5) * 0.01, mask=[0, 0, 0, 1, 0])
    assert HDF5Matrix(tmp_path / "a.nc", "v")[:].tolist() == [0, 1, 2, -999, 4]
    decoded = HDF5Matrix(tmp_path / "a.nc", "v", normalizer="netcdf")[:]
    np.testing.assert_allclose(decoded.numpy(), [273.15, 273.16, 273.17, np.nan, 273.19])
    assert HDF5Matrix(tmp_path / "a.nc", "v").attrs["scale_factor"] == 0.01


def test_tables_of_pandas_and_pytables_are_read(tmp_path):
    pandas, tables = pytest.importorskip("pandas"), pytest.importorskip("tables")
    frame = pandas.DataFrame({"a": np.arange(6.0), "b": np.arange(6.0) * 2, "c": np.arange(6)})
    frame.to_hdf(tmp_path / "p.h5", key="frame", format="table")
    floats = HDF5Matrix(tmp_path / "p.h5", "frame/table", field="values_block_0")
    np.testing.assert_array_equal(floats[[4, 1]].numpy(), frame[["a", "b"]].to_numpy()[[4, 1]])
    assert HDF5Matrix(tmp_path / "p.h5", "frame/table", field="index")[2:4].tolist() == [2, 3]
    with tables.open_file(str(tmp_path / "t.h5"), "w") as file:
        for name in ("zlib", "blosc", "lzo"):
            if not tables.which_lib_version(name):
                continue
            kept = file.create_carray("/", name, tables.Float32Atom(shape=(3,)), (50,), filters=tables.Filters(5, name))
            kept[:] = np.arange(150).reshape(50, 3)
    for name in ("zlib", "blosc"):
        rows = HDF5Matrix(tmp_path / "t.h5", name)
        np.testing.assert_array_equal(rows[10:30].numpy(), np.arange(150).reshape(50, 3)[10:30])


def test_it_is_an_array_for_torch_pandas_and_scikit_learn(tmp_path):
    array = np.arange(40.0).reshape(10, 4)
    rows = HDF5Matrix(stored(tmp_path, array), "x")
    assert torch.as_tensor(rows).tolist() == torch.from_dlpack(rows).tolist() == array.tolist()
    assert torch.as_tensor(rows, dtype=torch.int64).dtype == torch.int64
    np.testing.assert_array_equal(np.from_dlpack(rows), array)
    assert rows[[np.int64(3), np.int32(1)]].tolist() == array[[3, 1]].tolist()
    pandas = pytest.importorskip("pandas")
    for key in (pandas.Index([1, 2]), pandas.Series([9, -1]), pandas.Series(np.arange(10) > 7), pandas.RangeIndex(3)):
        np.testing.assert_array_equal(rows[key].numpy(), array[key.to_numpy()])
    with pytest.raises(TypeError, match="not by float64 values"):
        rows[pandas.Series([0.5])]
    selection = pytest.importorskip("sklearn.model_selection")
    for shuffle in (False, True):
        parts = selection.train_test_split(rows, array, shuffle=shuffle, random_state=0)
        np.testing.assert_array_equal(parts[0].numpy(), parts[2])
        np.testing.assert_array_equal(parts[1].numpy(), parts[3])
    for train, test in selection.KFold(5).split(rows):
        np.testing.assert_array_equal(rows[train].numpy(), array[train])
        np.testing.assert_array_equal(rows[test].numpy(), array[test])
    assert rows[[2, 1], ...].tolist() == array[[2, 1]].tolist()
