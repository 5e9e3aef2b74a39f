"""Reads curl's command line: the request that it sends. Pure; files that it names are read elsewhere."""

import argparse
import base64
import re
from collections.abc import Sequence
from functools import cache, partial
from pathlib import PurePosixPath
from typing import NoReturn

import msgspec

#: curl's options that take a value and mean nothing for the request.
_WITH_VALUE = """
    -o --output -m --max-time --connect-timeout --retry --retry-delay --retry-max-time -w
    --write-out -x --proxy -c --cookie-jar --cacert --cert -E --key --key-type --cert-type --pass
    --capath --ciphers --tls-max --limit-rate -D --dump-header -Y --speed-limit -y --speed-time -z
    --time-cond --resolve --connect-to --interface --unix-socket --keepalive-time -K --config
    --noproxy --output-dir --range -r -C --continue-at
"""
_FLAGS = """
    -s --silent -S --show-error -v --verbose -k --insecure -L --location -f --fail --fail-with-body
    -N --no-buffer -g --globoff -O --remote-name -J --remote-header-name -q -Z --parallel
    --progress-bar --http1.0 --http1.1 --http2 --http2-prior-knowledge --http3 --compressed --raw
    --retry-connrefused --tcp-nodelay --no-keepalive -i --include --tlsv1 --tlsv1.0 --tlsv1.1
    --tlsv1.2 --tlsv1.3 --anyauth --basic -a --append -n
"""
_DATA = ("-d", "--data", "--data-ascii", "--data-raw", "--data-binary", "--data-urlencode", "--json")
FORM_TYPE = "application/x-www-form-urlencoded"
OLD_TLS = frozenset({"--tlsv1.0", "--tlsv1.1"})


class CurlData(msgspec.Struct, frozen=True):
    """One of `-d`, `--data-raw`, `--data-binary`, `--data-urlencode` and `--json`."""

    option: str
    text: str

    @property
    def file(self) -> str | None:
        """The file that it names, if it does."""
        names_one = self.text.startswith("@") and self.option not in ("--data-raw", "--data-urlencode")
        return self.text[1:] if names_one else None


class CurlCall(msgspec.Struct, frozen=True, kw_only=True):
    """One request of a curl command."""

    method: str
    url: str
    headers: tuple[tuple[str, str], ...] = ()
    data: tuple[CurlData, ...] = ()
    #: `NAME=VALUE`, `NAME=@FILE;type=TYPE`: parts of a form.
    form: tuple[str, ...] = ()
    upload: str = ""
    options: tuple[str, ...] = ()

    def header(self, name: str) -> str | None:
        """Return the last header of a name."""
        return next((value for key, value in reversed(self.headers) if key.lower() == name), None)


class _Reader(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def is_curl(word: str) -> bool:
    """Tell whether a word calls curl."""
    return PurePosixPath(word).name in ("curl", "curl.exe")


def read(words: Sequence[str]) -> list[CurlCall]:
    """Return the requests of a command; one for each url. Raises ValueError for what curl wouldn't take."""
    given, _ = _reader().parse_known_intermixed_args(list(words))
    urls = [url for url in (*given.url, *given.urls) if _looks_like_url(url)]
    data: tuple[CurlData, ...] = tuple(given.data or ())
    headers = [tuple(part.strip() for part in line.split(":", 1)) for line in given.header if ":" in line]
    headers += [("User-Agent", given.user_agent)] if given.user_agent else []
    headers += [("Cookie", given.cookie)] if given.cookie else []
    headers += [("Referer", given.referer)] if given.referer else []
    names = {name.lower() for name, _ in headers}
    if given.user and "authorization" not in names:
        headers.append(("Authorization", f"Basic {base64.b64encode(given.user.encode()).decode()}"))
    is_json = any(item.option == "--json" for item in data)
    if data and not given.get and "content-type" not in names:
        headers.append(("Content-Type", "application/json" if is_json else FORM_TYPE))
    body_method = "POST" if (data or given.form) and not given.get else "GET"
    method = given.request or ("HEAD" if given.head else "PUT" if given.upload_file else body_method)
    return [
        CurlCall(
            method=method.upper(),
            url=_with_query(url, data if given.get else ()),
            headers=tuple((name, value) for name, value in headers),
            data=() if given.get else data,
            form=tuple(given.form),
            upload=given.upload_file or "",
            options=tuple(word for word in words if word.startswith("-")),
        )
        for url in urls
    ]


@cache
def _reader() -> argparse.ArgumentParser:
    made = _Reader(add_help=False, allow_abbrev=False)
    for options in (("-X", "--request"), ("-A", "--user-agent"), ("-b", "--cookie"), ("-e", "--referer"),
                    ("-u", "--user"), ("-T", "--upload-file")):  # fmt: skip
        made.add_argument(*options)
    made.add_argument("-H", "--header", action="append", default=[])
    made.add_argument("-F", "--form", "--form-string", action="append", default=[])
    made.add_argument("--url", action="append", default=[])
    made.add_argument("-G", "--get", action="store_true")
    made.add_argument("-I", "--head", action="store_true")
    for option in _DATA:
        made.add_argument(option, dest="data", action="append", type=partial(CurlData, option))
    for option in _WITH_VALUE.split():
        made.add_argument(option, dest="with_value", action="append")
    for option in _FLAGS.split():
        made.add_argument(option, dest="flags", action="store_true")
    made.add_argument("urls", nargs="*")
    return made


def _looks_like_url(text: str) -> bool:
    return bool(re.match(r"(https?://|\$|localhost|127\.|[\w.-]+(:\d+|:\$\{?\w+\}?)?/|[\w.-]+:\d+$)", text))


def _with_query(url: str, data: Sequence[CurlData]) -> str:
    if not data:
        return url
    query = "&".join(item.text for item in data)
    return f"{url}{'&' if '?' in url else '?'}{query}"
