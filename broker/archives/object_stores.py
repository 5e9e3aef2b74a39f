"""Archives in object stores: S3 by boto3; Google's, Azure's and Hugging Face's by fsspec. Blocking.

boto3 for S3, because it is made for threads (s3fs runs an event loop of its own), resumes by range and
ETag, and names what is wrong. Credentials, region and endpoint (AWS_ENDPOINT_URL for MinIO) are found as
every AWS tool finds them: environment, files, the host's IAM role. The libraries are extras, imported
where they are used.

Nothing here is fetched unless allowed_urls names such urls. Who names them trusts the store: its
addresses are the operator's configuration, not a caller's.
"""

import importlib
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from torchrelay.broker.archives.writing import CHUNK_BYTES, TooSlow, failed, pace_of, paced, write_bounded
from torchrelay.broker.models.origins import Http, ObjectStore, parse_http, without_query
from torchrelay.shared.errors import DownloadFailed
from torchrelay.shared.settings import BrokerSettings

logger = logging.getLogger(__name__)

#: How often a broken download is taken up again, also if each time a little more has come.
RESUMES_LIMIT = 5
#: Tries of a request that S3 refuses for the moment or that finds no connection, the first one included.
ATTEMPTS_LIMIT = 3
BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]")
#: Amazon's own hosts of S3, such as bucket.s3.eu-west-1.amazonaws.com. Under amazonaws.com are also hosts
#: that anybody can have, as for load balancers and API gateways: every part behind the bucket counts.
AMAZONS = re.compile(
    r"(?:[a-z0-9._-]+\.)?"
    r"s3(?:-accesspoint)?(?:-fips)?(?:-external-1|[.-](?:dualstack\.)?(?P<region>[a-z]{2}(?:-[a-z]+)+-\d))?"
    r"\.(?:vpce\.)?amazonaws\.com(?:\.cn)?"
)
_NOT_S3 = "s3_sse_kms signs for https of Amazon's S3, and for the endpoint that AWS_ENDPOINT_URL_S3 names"


#: What reads urls of a scheme: an extra of ours, and the module and name of what it raises beside OSError.
LIBRARIES = {
    "s3": ("s3", "botocore.exceptions", "BotoCoreError"),
    "gs": ("gs", "gcsfs.retry", "HttpError"),
    "az": ("az", "azure.core.exceptions", "AzureError"),
    "abfs": ("az", "azure.core.exceptions", "AzureError"),
    "abfss": ("az", "azure.core.exceptions", "AzureError"),
    "hf": ("hf", "huggingface_hub.errors", "HfHubHTTPError"),
}


def fetch(
    origin: ObjectStore, target: Path, settings: BrokerSettings, is_cancelled: Callable[[], bool]
) -> None:
    """Fetch an archive into the file `target`. Raises DownloadFailed, which says what the store said."""
    url = origin.url
    if "::" in url:  # fsspec would open one store through another, such as a file of this host
        raise failed(url, "urls of object stores are not chained")
    extra, module, error_name = LIBRARIES[origin.scheme]
    try:
        errors = getattr(importlib.import_module(module), error_name)
        chunks = _s3_chunks(origin, settings, is_cancelled) if extra == "s3" else fsspec_chunks(url)
        write_bounded(paced(chunks, pace_of(settings)), target, url, settings, is_cancelled)
    except ImportError as error:
        raise _failed(url, f"it needs a library: pip install 'torchrelay[{extra}]'") from error
    except (errors, TooSlow, OSError, ValueError) as error:
        raise _failed(url, _one_line(error)) from error


def signed_headers(asked: Http) -> list[tuple[bytes, bytes]]:
    """Sign a GET of a url of S3, as it demands for objects that KMS has encrypted; return [] for other hosts.

    A signature, and the token that may come with it, is for https at Amazon's hosts, and for the operator's
    own endpoint as it is configured (AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL). Raises DownloadFailed without
    boto3, credentials or a region.
    """
    url = str(asked)
    amazons = AMAZONS.fullmatch(asked.host) if (asked.scheme, asked.port) == ("https", 443) else None
    try:
        import boto3
        from botocore.auth import S3SigV4Auth
        from botocore.awsrequest import AWSRequest
        from botocore.exceptions import BotoCoreError
    except ImportError as error:
        raise failed(url, "it needs a library: pip install 'torchrelay[s3]'") from error
    try:
        session = boto3.Session()
        if not amazons and not _is_own_endpoint(asked, session):
            logger.warning("download.not_signed", extra={"url": without_query(url), "reason": _NOT_S3})
            return []
        credentials = session.get_credentials()
        region = (amazons and amazons["region"]) or session.region_name
        if credentials is None or not region:
            raise failed(url, "set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_DEFAULT_REGION")
        request = AWSRequest("GET", url)
        S3SigV4Auth(credentials.get_frozen_credentials(), "s3", region).add_auth(request)
    except (BotoCoreError, ValueError) as error:
        raise failed(url, _one_line(error)) from error
    return [(name.encode(), value.encode()) for name, value in request.headers.items()]


def _is_own_endpoint(asked: Http, session: Any) -> bool:  # Any: boto3 makes its classes at run time
    """Tell whether a url is of the endpoint that the operator has configured."""
    client = session.client("s3", region_name=session.region_name or "us-east-1")
    endpoint = parse_http(client.meta.endpoint_url)
    client.close()
    return (asked.scheme, asked.host, asked.port) == (endpoint.scheme, endpoint.host, endpoint.port)


def _s3_chunks(
    origin: ObjectStore, settings: BrokerSettings, is_cancelled: Callable[[], bool]
) -> Iterator[bytes]:
    """Read an object, taking it up again where a connection breaks, as long as it is the same object.

    A silence is no break: with the first one of download_timeout_s the download has failed.
    """
    from botocore import exceptions

    if not BUCKET.fullmatch(origin.bucket) or not origin.key:
        raise ValueError("an S3 url is s3://BUCKET/KEY")
    client = _s3_client(settings, is_cancelled)
    where = {"Bucket": origin.bucket, "Key": origin.key}
    done = breaks = 0
    try:
        answer = client.get_object(**where)
        same = {"IfMatch": answer["ETag"]}
        while True:
            try:
                for chunk in answer["Body"].iter_chunks(CHUNK_BYTES):
                    done += len(chunk)
                    yield chunk
                return
            except exceptions.ReadTimeoutError:
                raise
            except (exceptions.HTTPClientError, exceptions.IncompleteReadError) as error:
                breaks += 1
                if breaks > RESUMES_LIMIT:
                    raise ValueError(f"it broke off {breaks} times, at last after {done} bytes") from error
                facts = {"url": without_query(origin.url), "done": done, "reason": str(error)}
                logger.warning("download.broken", extra=facts)
            finally:
                answer["Body"].close()
            answer = client.get_object(**where, **same, Range=f"bytes={done}-")
            if answer["ResponseMetadata"]["HTTPStatusCode"] != 206:
                raise ValueError("the store can't take up a broken download")
    except exceptions.ClientError as error:
        raise ValueError(_s3_reason(error.response, done)) from error
    finally:
        client.close()


# Any: boto3 makes its classes at run time
def _s3_client(settings: BrokerSettings, is_cancelled: Callable[[], bool]) -> Any:
    import boto3
    from botocore.config import Config
    from botocore.exceptions import ConnectTimeoutError, ReadTimeoutError

    # Asked after each try, also of a download that is taken up again. Any: what botocore says besides.
    def check_try(caught_exception: Exception | None = None, **_: Any) -> None:
        if isinstance(caught_exception, ConnectTimeoutError | ReadTimeoutError):
            raise caught_exception
        if is_cancelled():
            raise ValueError("the broker stops")

    session = boto3.Session()
    config = Config(
        connect_timeout=settings.download_timeout_s,
        read_timeout=settings.download_timeout_s,
        retries={"total_max_attempts": ATTEMPTS_LIMIT, "mode": "standard"},
    )
    client = session.client("s3", config=config)
    if "amazonaws.com" not in (urlsplit(client.meta.endpoint_url).hostname or ""):
        # A store of the operator's own rarely has a name in the DNS for each bucket.
        client.close()
        client = session.client("s3", config=config.merge(Config(s3={"addressing_style": "path"})))
    client.meta.events.register("needs-retry.s3", check_try)
    return client


def _s3_reason(response: dict[str, Any], done: int) -> str:  # Any: a JSON answer
    error = response.get("Error", {})
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    if status == 412 and done:
        return "the object was changed while it was read; try again"
    return f"S3 answered {status} {error.get('Code', '')}: {error.get('Message', '')}"


def fsspec_chunks(url: str) -> Iterator[bytes]:
    """Read whatever fsspec can open. Raises ValueError where it has changed by the end."""
    import fsspec

    filesystem, path = fsspec.core.url_to_fs(url)
    before = filesystem.ukey(path)
    with filesystem.open(path, "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk
    filesystem.invalidate_cache()
    if filesystem.ukey(path) != before:
        raise ValueError("the object was changed while it was read; try again")


def _failed(url: str, why: str) -> DownloadFailed:
    """Unlike TorchServe's, which knows none of these urls, the message says why."""
    return DownloadFailed(f"Failed to download archive from: {url} ({why})", why)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
