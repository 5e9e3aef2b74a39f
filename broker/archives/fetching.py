"""Brings an archive from elsewhere into the model store, under the name that its url gives it. Blocking."""

import contextlib
import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from torchrelay.broker.archives import allowed_urls, download, local_file, object_stores
from torchrelay.broker.archives.writing import failed, write_bounded
from torchrelay.broker.models import origins
from torchrelay.shared import errors, locks
from torchrelay.shared.quoting import quoted
from torchrelay.shared.settings import BrokerSettings

logger = logging.getLogger(__name__)

#: What a broker that was killed leaves in the model store is known by its name.
PART_PREFIX, PART_SUFFIX = ".torchrelay-", ".part"


def is_remote(origin: origins.Origin, settings: BrokerSettings) -> bool:
    """Tell whether an archive is fetched, and not looked for in the model store.

    As in TorchServe, a url that is none of its three kinds is fetched only if allowed_urls says so.
    """
    match origin:
        case origins.InStore():
            return False
        case origins.ObjectStore():
            is_known = origin.scheme in object_stores.LIBRARIES
            with contextlib.suppress(origins.BadUrl):
                return is_known and allowed_urls.is_allowed(origin, settings.allowed_urls)
            return False
        case origins.UnreadableUrl():
            return origin.scheme in ("http", "https", "file")
        case origins.File() | origins.Http():
            return True


def fetch(
    origin: origins.Origin,
    folder: Path,
    settings: BrokerSettings,
    is_cancelled: Callable[[], bool],
    *,
    s3_sse_kms: bool,
) -> Path:
    """Fetch an archive into `folder` and return its file. Raises a CallerFault or StoreFailed."""
    allowed = download.require_allowed(origin, settings)
    url, name = origin.url, origin.name
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
        match allowed:
            case origins.File():
                chunks = local_file.chunks_of(Path(allowed.path), settings.download_limit_bytes)
                write_bounded(chunks, part, url, settings, is_cancelled)
            case origins.ObjectStore():
                object_stores.fetch(allowed, part, settings, is_cancelled)
            case origins.Http():
                sign = object_stores.signed_headers if s3_sse_kms else None
                download.download(allowed, part, settings, is_cancelled, sign=sign)
            case origins.InStore():
                raise AssertionError(f"it is not fetched: {allowed}")
        os.link(part, target)  # never over a file that came meanwhile
    except FileExistsError as error:
        raise errors.StoreFailed(f"Model file already exists {quoted(name)}") from error
    except (OSError, ValueError) as error:
        raise failed(url, str(error)) from error
    finally:
        part.unlink()
        os.close(number)
    return target
