"""Units of metrics: the short names that handlers give, the long ones that are reported."""

from typing import ClassVar

#: What durations and sizes may be given in.
TIME_UNITS = ("ms", "s")
SIZE_UNITS = ("MB", "kB", "GB", "B")


class Units:
    """Short name -> long name; any other unit is reported as it was given."""

    units: ClassVar[dict[str | None, str]] = {
        "ms": "Milliseconds",
        "s": "Seconds",
        "percent": "Percent",
        "count": "Count",
        "MB": "Megabytes",
        "GB": "Gigabytes",
        "kB": "Kilobytes",
        "B": "Bytes",
        None: "unit",
        "": "unit",
    }
