"""Units of metrics: the short names that handlers give, the long ones that are reported."""

from typing import ClassVar


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
