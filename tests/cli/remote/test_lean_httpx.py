import subprocess
import sys


def test_commands_import_nothing_that_httpx_has_for_its_own() -> None:
    script = (
        "import sys; from torchrelay.cli.start import progress; from torchrelay.cli.remote import client;"
        " print(*sorted({'httpx', 'rich', 'pygments'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["httpx"]
