"""A process that holds keys can't be read by others of its user."""

import subprocess
import sys

#: As another process of the same user, which root isn't kept from being: it first becomes an ordinary one.
READER = """
import ctypes, os, sys
from torchrelay.shared.processes import private_memory

def become_ordinary():
    if os.geteuid() == 0:
        os.setgroups([]); os.setgid(54321); os.setuid(54321)
    ctypes.CDLL(None).prctl(4, 1)  # a change of user has taken it away

become_ordinary()
if sys.argv[1] == "private":
    private_memory.keep_memory_private()
assert ctypes.CDLL(None).prctl(3) == (sys.argv[1] != "private")  # PR_GET_DUMPABLE
holder = os.getpid()
if os.fork() == 0:
    ctypes.CDLL(None).prctl(4, 1)
    for name in ("environ", "mem"):
        try:
            open(f"/proc/{holder}/{name}", "rb").close()
            print(name, "read")
        except PermissionError:
            print(name, "refused")
    print("command", open(f"/proc/{holder}/cmdline", "rb").read().count(b"\\0") > 1)
    sys.stdout.flush()
    os._exit(0)
os.wait()
"""


def read(how: str) -> list[str]:
    words = [sys.executable, "-c", READER, how]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_its_environment_and_memory_are_closed_to_others_of_its_user_and_its_command_is_not() -> None:
    assert read("private") == ["environ refused", "mem refused", "command True"]


def test_any_other_process_is_open_to_them() -> None:
    assert read("open")[0] == "environ read"
