"""Judges requests that scripts send: their routes, parameters and bodies. Pure."""

import re
from collections.abc import Iterator
from urllib.parse import parse_qsl

from torchrelay.cli.migrate import known_routes
from torchrelay.cli.migrate.curl_calls import FORM_TYPE, OLD_TLS, CurlCall
from torchrelay.cli.migrate.findings import SWITCH_WORKFLOWS_ON, WORKFLOWS_ARE_OFF, Finding
from torchrelay.cli.migrate.known_routes import UrlTarget

#: URLs in programs and texts, of which nothing else is known.
URL_IN_TEXT = re.compile(r"https?://[^\s\"'<>`\\)]{1,500}")
_PRIVATE = re.compile(r"https?://(localhost|127\.|10\.|192\.168\.|172\.(1[6-9]|2\d|3[01])\.|169\.254\.|\[)")
_STORE = re.compile(r"(s3|gs|az|abfs|hf)://")
_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")


def judge(call: CurlCall, line: int) -> Iterator[Finding]:
    """Say whether a request is answered as TorchServe answers it."""
    target = known_routes.target_of(call.url)
    if not target.is_servers:
        return
    shown = f"{call.method} {target.path}"
    problems = [
        *_route(call.method, target, line),
        *_parameters(target, shown, line),
        *_body(call, shown, line),
    ]
    if _BROKEN_ESCAPE.search(target.path):
        problems.append(
            Finding("differs", f"{shown}: a broken percent escape is 400 here, not 403", line=line)
        )
    if call.header("origin"):
        what = f"{shown}: with Origin it is 403 where no keys are asked for"
        problems.append(Finding("differs", what, "name the origin in cors_allowed_origin", line=line))
    if OLD_TLS & set(call.options):
        what = f"{shown}: TLS 1.2 is the oldest that is spoken"
        problems.append(Finding("fails", what, "leave --tlsv1.x out", line=line))
    yield from problems or [Finding("same", shown, line=line)]


def judge_text(text: str) -> Iterator[Finding]:
    """Say of URLs in a program whether their routes are there."""
    for number, row in enumerate(text.splitlines(), start=1):
        for url in URL_IN_TEXT.findall(row):
            target = known_routes.target_of(url)
            # Paths of other servers are many: only what a route or TorchServe's port tells is judged.
            if target.registers_workflow:
                yield _workflow(target.path, number)
            elif target.route is not None:
                yield Finding("same", target.path, line=number)


def _route(method: str, target: UrlTarget, line: int) -> Iterator[Finding]:
    shown = f"{method} {target.path}"
    if target.registers_workflow and method == "POST":
        yield _workflow(shown, line)
    elif target.route is None and target.path != "/":
        what = f"{shown}: no route of TorchServe's or of ours"
        yield Finding("fails", what, "routes of plugins, which are Java, have to move elsewhere", line)
    elif target.path.rstrip("/").endswith("/set-default") and method in ("GET", "DELETE"):
        yield Finding("differs", f"{shown} is 405 here", "name the version without set-default", line)


def _workflow(shown: str, line: int) -> Finding:
    return Finding("differs", f"{shown}: {WORKFLOWS_ARE_OFF}", SWITCH_WORKFLOWS_ON, line)


def _parameters(target: UrlTarget, shown: str, line: int) -> Iterator[Finding]:
    if target.path.rstrip("/") != "/models":
        return
    url = dict(parse_qsl(target.query)).get("url", "")
    if _PRIVATE.match(url):
        what = f"{shown}: {url} is a private address, which is fetched only if allowed_urls spells its host"
        yield Finding("differs", what, "allowed_urls in config.properties, or --allow-private-urls", line)
    elif _STORE.match(url):
        what = f"{shown}: {url.partition(':')[0]}:// is fetched once allowed_urls names it; 404 in TorchServe"
        yield Finding("differs", what, line=line)


def _body(call: CurlCall, shown: str, line: int) -> Iterator[Finding]:
    if call.header("content-type") != FORM_TYPE or len(call.data) != 1:
        return
    text = call.data[0].text.lstrip()
    if text.startswith(("{", "[")) and "=" not in text:
        what = f"{shown}: JSON sent as a form, of which TorchServe makes no input, is the input `body` here"
        yield Finding("differs", what, "say -H 'Content-Type: application/json' for both", line)
