"""Records of plain values and arrays: they come back as they were, and other bytes are refused."""

import io
from typing import NamedTuple

import numpy as np
import pytest

from parsample.internal.records import from_bytes, packed, to_bytes, unpacked


class Pair(NamedTuple):
    one: object
    other: object


def test_values_and_arrays_come_back_with_their_types():
    header = {"name": "run", "number": 3, "share": 0.1, "nothing": None, "list": [1, 2], "large": 2**60}
    arrays = {"a": np.arange(3, dtype=np.uint32), "b": np.float32(0.1).reshape(()), "c": np.zeros((2, 0))}
    found, read = from_bytes(to_bytes(header, arrays))
    assert found == header
    assert {name: (values.dtype, values.shape) for name, values in read.items()} == {
        name: (values.dtype, values.shape) for name, values in arrays.items()
    }
    for name, values in arrays.items():
        np.testing.assert_array_equal(read[name], values)


def test_infinities_and_nan_come_back():
    found, _ = from_bytes(to_bytes({"inf": np.inf, "nan": np.nan}, {}))
    assert found["inf"] == np.inf
    assert np.isnan(found["nan"])


def test_trees_come_back_in_their_structure():
    tree = Pair({"x": np.arange(12.0), "y": 1.5}, (np.ones(2, bool), None))
    arrays = {**packed("tree", tree), **packed("tree2", (np.zeros(1),))}
    found = unpacked("tree", from_bytes(to_bytes({}, arrays))[1], Pair({"x": 0, "y": 0}, (0, None)))
    assert isinstance(found, Pair)
    np.testing.assert_array_equal(found.one["x"], np.arange(12.0))
    assert (found.one["y"], found.other[0].tolist(), found.other[1]) == (1.5, [True, True], None)


def test_more_leaves_than_ten_keep_their_order():
    leaves = [np.array(number) for number in range(12)]
    assert unpacked("x", packed("x", leaves), [0] * 12) == leaves


def saved(save: object, *arrays: object, **named: object) -> bytes:
    buffer = io.BytesIO()
    save(buffer, *arrays, **named)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"text",
        to_bytes({"a": 1}, {"x": np.zeros(100)})[:200],
        saved(np.save, np.zeros(3)),
        saved(np.savez, x=np.zeros(3)),
        saved(np.savez, header=np.zeros(3)),
        saved(np.savez, header=np.array([print], object)),
    ],
    ids=["empty", "text", "cut off", "one array", "no header", "no text", "a pickle"],
)
def test_other_bytes_are_refused(content):
    with pytest.raises(ValueError, match="these bytes are no record"):
        from_bytes(content)
