"""Brings an archive from elsewhere into the model store, under the name that its url gives it. Blocking."""

import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from torchrelay.broker.archives import download, local_file, object_stores
from torchrelay.broker.archives.writing import failed, write_bounded
from torchrelay.broker.models import origins
from torchrelay.shared import errors, locks
from torchrelay.shared.quoting import quoted
from torchrelay.shared.settings import BrokerSettings

logger = logging.getLogger(__name__)

#: What a broker that was killed leaves in the model store is known by its name.
PART_PREFIX, PART_SUFFIX = ".torchrelay-", ".part"


def fetch(
    url: str,
    folder: Path,
    settings: BrokerSettings,
    is_cancelled: Callable[[], bool],
    *,
    s3_sse_kms: bool,
) -> Path:
    """Fetch an archive into `folder` and return its file. Raises a CallerFault or StoreFailed."""
    download.check_allowed(url, settings)
    name = origins.file_of(url)
    # A name of its own: the same url may be on its way for somebody else too.
    number, part_name = tempfile.mkstemp(prefix=PART_PREFIX, suffix=PART_SUFFIX, dir=folder)
    part = Path(part_name)
    try:
        locks.wait_for_flock(number)  # see `store.remove_leftovers`
        target = folder / name
        if target == folder or origins.has_control_characters(name):
            raise failed(url, "it names no file")
        if target.exists():
            raise FileExistsError
        _fetch_into(part, url, settings, is_cancelled, s3_sse_kms=s3_sse_kms)
        os.link(part, target)  # never over a file that came meanwhile
    except FileExistsError as error:
        raise errors.StoreFailed(f"Model file already exists {quoted(name)}") from error
    except (OSError, ValueError) as error:
        raise failed(url, str(error)) from error
    finally:
        part.unlink()
        os.close(number)
    return target


def _fetch_into(
    part: Path, url: str, settings: BrokerSettings, is_cancelled: Callable[[], bool], *, s3_sse_kms: bool
) -> None:
    if origins.scheme_of(url) == "file":
        chunks = local_file.chunks_of(Path(origins.path_of_file(url)), settings.download_limit_bytes)
        write_bounded(chunks, part, url, settings, is_cancelled)
    elif object_stores.is_in_object_store(url):
        object_stores.fetch(url, part, settings, is_cancelled)
    elif s3_sse_kms:
        download.download(url, part, settings, is_cancelled, sign=object_stores.signed_headers)
    else:
        download.download(url, part, settings, is_cancelled)
