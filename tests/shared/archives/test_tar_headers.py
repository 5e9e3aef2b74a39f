"""Headers that Python's reader would believe, at the cost of memory or minutes."""

import gzip
import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchrelay.shared.archives import model_archive
from torchrelay.shared.archives.tar_headers import (
    EXTENSION_LIMIT_BYTES,
    EXTENSIONS_LIMIT,
    GLOBALS_LIMIT,
    HeaderCheck,
)
from torchrelay.shared.errors import InvalidModel

END = b"\0" * 1024


def header(kind: bytes, size: int = 0, name: str = "m/a") -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


def padded(content: bytes) -> bytes:
    return content + b"\0" * (-len(content) % tarfile.BLOCKSIZE)


def record(key: bytes, value: bytes) -> bytes:
    length = len(key) + len(value) + 3
    while len(str(length)) + len(key) + len(value) + 3 != length:
        length = len(str(length)) + len(key) + len(value) + 3
    return b"%d %s=%s\n" % (length, key, value)


def extension(kind: bytes, content: bytes) -> bytes:
    return header(kind, len(content)) + padded(content)


def with_size_field(field: bytes) -> bytes:
    block = bytearray(header(tarfile.REGTYPE))
    block[124:136] = field
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


SPARSE = record(b"GNU.sparse.major", b"1") + record(b"GNU.sparse.map", b"1" * 100)
ATTACKS = {
    "a name without end": header(tarfile.GNUTYPE_LONGNAME, 300 << 20),
    "a link's name without end": header(tarfile.GNUTYPE_LONGLINK, EXTENSION_LIMIT_BYTES + 1),
    "records without end": header(tarfile.XHDTYPE, 300 << 20),
    "records without end for all": header(tarfile.XGLTYPE, EXTENSION_LIMIT_BYTES + 1),
    "sparse records": extension(tarfile.XHDTYPE, SPARSE),
    "sparse records for all": extension(tarfile.XGLTYPE, SPARSE),
    "a sparse file": header(tarfile.GNUTYPE_SPARSE, 10),
    "a number that is searched for numbers": extension(tarfile.XHDTYPE, record(b"comment", b"1" * 60_000)),
    "records of one number": extension(tarfile.XHDTYPE, b"1" * 60_000),
    "names before names": header(tarfile.GNUTYPE_LONGNAME, 2) + padded(b"a\0") + b"",
    "a size below zero": with_size_field(b"\xff" * 12),
    "a size that no disk has": with_size_field(b"\x80" + b"\x7f" * 11),
    "a size by record that no disk has": extension(tarfile.XHDTYPE, record(b"size", b"9" * 13)),
    "a size by record that is no number": extension(tarfile.XHDTYPE, record(b"size", b"-5")),
    "a size for all": extension(tarfile.XGLTYPE, record(b"size", b"5")),
    "a link": header(tarfile.SYMTYPE),
    "a hard link": header(tarfile.LNKTYPE),
    "a device": header(tarfile.CHRTYPE),
    "a volume": header(b"V"),
}
ATTACKS["names before names"] *= EXTENSIONS_LIMIT + 1
ATTACKS["records for all over and over"] = (
    extension(tarfile.XGLTYPE, record(b"comment", b"x")) + header(tarfile.REGTYPE)
) * (GLOBALS_LIMIT + 1)


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_a_reader_should_not_believe_is_refused_by_its_header(tmp_path: Path, attack: str) -> None:
    with pytest.raises(InvalidModel):
        HeaderCheck(1 << 40).feed(ATTACKS[attack])
    path = tmp_path / "m.tar.gz"
    path.write_bytes(gzip.compress(ATTACKS[attack] + header(tarfile.REGTYPE) + END))
    with pytest.raises(InvalidModel) as caught:
        model_archive.inspect(path)
    assert len(caught.value.message) < 400


@pytest.mark.parametrize("step", [1, 100, 512, 10_240])
@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_honest_tars_pass_however_they_come(form: int, step: int) -> None:
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=form, pax_headers={"comment": "of git"}) as tar:
        for name, size in {
            "m/" + "n" * 90: 1000,
            "m/" + "a/" * 60 + "x": 513,
            "m/empty": 0,
            "m/b": 512,
        }.items():
            info = tarfile.TarInfo(name)
            info.size = size
            if form == tarfile.PAX_FORMAT:
                info.pax_headers = {"LIBARCHIVE.xattr.user.x": "eA==" * 100, "mtime": "1.5"}
            # Content that looks like a header must not be taken for one.
            tar.addfile(info, io.BytesIO((header(tarfile.SYMTYPE) * 3)[:size]))
        tar.addfile(tarfile.TarInfo("m/after"))
    check, data = HeaderCheck(1 << 40), plain.getvalue()
    for at in range(0, len(data), step):
        check.feed(data[at : at + step])
    check.feed(header(tarfile.SYMTYPE))  # behind the end


def test_the_size_that_a_record_gives_counts() -> None:
    large = extension(tarfile.XHDTYPE, record(b"size", b"512")) + header(tarfile.REGTYPE, 0)
    check = HeaderCheck(1 << 40)
    check.feed(large + header(tarfile.SYMTYPE))  # its content
    with pytest.raises(InvalidModel):
        check.feed(header(tarfile.SYMTYPE))


BLOCKS = [*ATTACKS.values(), header(tarfile.REGTYPE), END, b"\xff" * 512]


@given(st.lists(st.sampled_from(BLOCKS), max_size=5), st.binary(max_size=700))
def test_any_bytes_are_passed_or_refused(blocks: list[bytes], rest: bytes) -> None:
    outcome = "passed"
    try:
        HeaderCheck(1 << 20).feed(b"".join(blocks) + rest)
    except (InvalidModel, tarfile.TarError) as error:
        outcome = type(error).__name__
    assert outcome in ("passed", "InvalidModel", "ReadError")
