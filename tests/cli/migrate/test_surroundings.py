"""Packages and the modules that they bring."""

import pytest

from torchrelay.cli.migrate import surroundings


def test_packages_bring_modules_of_other_names() -> None:
    text = "Pillow>=10\nopencv-python-headless==4.8 ; extra == 'x'\n# a comment\n-r other.txt\nMy_Package\n"
    assert surroundings.modules_of(text) == {"PIL", "cv2", "my_package"}


@pytest.mark.parametrize(
    ("module", "advice"),
    [
        ("torchvision", "torchrelay[handlers]"),
        ("torch", "torchrelay[worker]"),
        ("cv2", "opencv"),
        ("x", "install x"),
    ],
)
def test_the_advice_names_what_to_install(module: str, advice: str) -> None:
    assert advice in surroundings.advice_for(module)


def test_a_package_is_found_without_being_imported() -> None:
    assert surroundings.is_installed("msgspec")
    assert not surroundings.is_installed("a_package_that_is_nowhere")
