"""Entries of a zip are counted before anything is made of them, whatever the zip says of itself."""

import io
import struct
import zipfile

import pytest

from torchrelay.shared.archives import zip_directory


def zip_of(entries: int, comment: bytes = b"") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for number in range(entries):
            file.writestr(f"{number}.txt", b"")
        file.comment = comment
    return buffer.getvalue()


def test_more_than_the_limit_is_more_and_the_limit_is_not() -> None:
    content = zip_of(10)
    assert zip_directory.has_more_entries_than(9, io.BytesIO(content))
    assert not zip_directory.has_more_entries_than(10, io.BytesIO(content))


@pytest.mark.parametrize("comment", [b"hello", b"x" * 65_535, b"PK\5\6 is no end", b"\0\0"])
def test_a_comment_hides_no_entries(comment: bytes) -> None:
    content = zip_of(10, comment)
    try:
        zipfile.ZipFile(io.BytesIO(content)).close()
    except zipfile.BadZipFile:
        return  # nor does zipfile get at them
    assert zip_directory.has_more_entries_than(9, io.BytesIO(content))


def test_the_large_form_is_counted_too() -> None:
    content = zip_of(70_000)  # above 65535 zipfile writes it
    assert b"PK\6\6" in content
    assert zip_directory.has_more_entries_than(69_999, io.BytesIO(content))
    assert not zip_directory.has_more_entries_than(70_000, io.BytesIO(content))


def large_form(first: bytes, second: bytes) -> bytes:
    """One zip of two: the locator tells of the first, the second is where nobody has to look for it."""

    def part(of: bytes, gap: int) -> bytes:
        end = of.rfind(b"PK\5\6")
        (length,) = struct.unpack_from("<I", of, end + 12)
        record = struct.pack("<4sQ28xQQ", b"PK\6\6", 44 + gap, length, end - length)
        return of[:end] + record

    behind = part(second, 0)
    content = part(first, len(behind)) + behind
    told_at = first.rfind(b"PK\5\6")
    return content + struct.pack("<4sIQI", b"PK\6\7", 0, told_at, 1) + struct.pack("<4s8xI4x2x", b"PK\5\6", 0)


def test_the_large_form_is_counted_wherever_any_python_looks_for_it() -> None:
    for content in (large_form(zip_of(10), zip_of(1)), large_form(zip_of(1), zip_of(10))):
        assert zip_directory.has_more_entries_than(9, io.BytesIO(content))
        assert not zip_directory.has_more_entries_than(10, io.BytesIO(content))
    seen = {
        len(zipfile.ZipFile(io.BytesIO(large_form(zip_of(one), zip_of(other)))).namelist())
        for one, other in ((10, 1), (1, 10))
    }
    assert seen == {1, 10}  # whichever Python this is


def test_a_locator_that_leads_nowhere_is_passed_over() -> None:
    content = bytearray(zip_of(70_000))
    for told_at in (0, 1 << 40, (1 << 64) - 1):
        locator = content.rfind(b"PK\6\7")
        content[locator + 8 : locator + 16] = struct.pack("<Q", told_at)
        assert zip_directory.has_more_entries_than(69_999, io.BytesIO(bytes(content)))


def test_a_number_that_lies_is_not_believed() -> None:
    content = bytearray(zip_of(10))
    end = content.rfind(b"PK\5\6")
    content[end + 8 : end + 12] = struct.pack("<HH", 1, 1)
    assert zip_directory.has_more_entries_than(9, io.BytesIO(bytes(content)))


def test_what_goes_before_the_zip_moves_nothing() -> None:
    assert zip_directory.has_more_entries_than(9, io.BytesIO(b"#!/bin/sh\n" * 100 + zip_of(10)))


def test_a_directory_of_names_alone_is_too_large() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("x" * 2000, b"")
    assert zip_directory.has_more_entries_than(1, buffer)
    assert not zip_directory.has_more_entries_than(10, buffer)


@pytest.mark.parametrize(
    "content",
    [b"", b"PK", b"PK\5\6", b"PK\5\6" + b"\0" * 18, b"PK\5\6" + b"\xff" * 18, b"x" * 100, zip_of(3)[:-30]],
)
def test_what_is_no_zip_has_no_entries(content: bytes) -> None:
    assert not zip_directory.has_more_entries_than(1, io.BytesIO(content))
