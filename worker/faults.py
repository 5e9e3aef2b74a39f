"""What an exception of a model's own code says about itself; no I/O."""

#: Longer lines are cut: they end in JSON bodies and in `status`.
LINE_LIMIT = 500


def one_line(error: BaseException) -> str:
    """Return `ValueError: bad pixel`: the last line of a traceback, and of a longer message its first."""
    text = str(error).strip()
    line = f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__
    return line if len(line) <= LINE_LIMIT else f"{line[:LINE_LIMIT]}..."


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether memory ran out, on the host or on the device.

    TorchServe counts every exception whose text has `CUDA` in it, and clients know its 507.
    """
    return isinstance(error, MemoryError) or "CUDA" in str(error)
