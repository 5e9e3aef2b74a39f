"""What a url says of an archive without being asked for. Pure, and takes any text."""

import re
from urllib.parse import unquote


def file_of(url: str) -> str:
    """Name the model store's file of an archive, "" if none; a query is no part of it.

    What comes without a scheme is a path, in which `?` and `#` mean nothing.
    """
    _, colon, rest = url.partition("://")
    path = re.split("[?#]", rest)[0].partition("/")[2] if colon else url
    return unquote(path).rstrip("/").rpartition("/")[2]


def without_query(url: str) -> str:
    """Return a url for the log: what is behind the question mark may be a signature."""
    return url.partition("?")[0]
