"""Tensors as numpy's arrays. numpy is imported when one is asked for; nothing else here needs it."""

from typing import TYPE_CHECKING, Any

from torchrelay.shared.open_inference.datatypes import BF16, BYTES, DATATYPES
from torchrelay.shared.open_inference.tensors import Tensor, TensorError, pack_bytes, widened

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]  # Any: of whatever shape and type


def array_of(tensor: Tensor) -> "Array":
    """Return an array of the tensor's shape, which is the caller's to change; of BYTES it holds bytes.

    BF16 becomes float32. Packed data that can be changed and lie as numpy wants them are not copied, others
    once. Raises TensorError.
    """
    import numpy as np

    kind, shape = tensor.kind, tuple(tensor.shape)
    if kind is BYTES:
        values = tensor.values()
        elements = np.empty(len(values), object)
        elements[:] = values
        return elements.reshape(shape)
    packed = tensor.packed()
    if kind is BF16:
        packed = widened(packed)
    found = np.frombuffer(packed, np.dtype(kind.numpy).newbyteorder("<")).reshape(shape)
    usable: Array = np.require(found, np.dtype(kind.numpy), ("ALIGNED", "WRITEABLE"))
    return usable


def tensor_of(name: str, given: Any, datatype: str = "") -> Tensor:  # Any: what numpy makes an array of
    """Return an array as a tensor, packed; an array that lies as the protocol has it is not copied.

    The datatype follows from the array's type, unless it is said: the array has to be of its type then, or
    of float32 for BF16. Raises TensorError.
    """
    import numpy as np

    array = np.asarray(given)
    kind = DATATYPES.get(datatype) if datatype else _datatype_of(array)
    if kind is None:
        raise TensorError(
            f"Tensor {name!r}: no datatype is called {datatype!r}."
            if datatype
            else f"Tensor {name!r}: the protocol has no datatype for arrays of {array.dtype}."
        )
    if kind is BYTES:
        values = array.ravel().tolist()
        try:
            return Tensor(name, "BYTES", array.shape, pack_bytes(values))
        except (TypeError, ValueError) as error:
            raise TensorError(f"Tensor {name!r}: its values are not of BYTES: {error}") from error
    if array.dtype.newbyteorder("=") != np.dtype(kind.numpy):
        raise TensorError(f"Tensor {name!r}: an array of {array.dtype} is said to be {kind.name}.")
    if kind is BF16:
        return Tensor(name, "BF16", array.shape, Tensor(name, "BF16", array.shape, array.tolist()).packed())
    lying = np.ascontiguousarray(array, np.dtype(kind.numpy).newbyteorder("<"))
    return Tensor(name, kind.name, array.shape, lying.reshape(-1).view(np.uint8).data)


def _datatype_of(array: "Array") -> Any:  # Any: a Datatype or None, which a dict's `get` doesn't say
    if array.dtype.kind in "OSU":
        return BYTES
    return DATATYPES.get(_NAMES.get(array.dtype.name, ""))


_NAMES = {one.numpy: one.name for one in DATATYPES.values() if one not in (BF16, BYTES)}
