"""Makes this folder's modules: `python -m torchrelay.gateway.grpc.protos.compile_protos`.

They hold what protoc read, and no code of its own: that works with one version of protobuf alone, and a host
may need another one for its models. The types beside them are protoc's.
"""

import sys
import tempfile
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

from google.protobuf import descriptor_pb2
from grpc_tools import protoc

from torchrelay.shared.private_files import make_folder

FOLDER = Path(__file__).parent
#: As they are imported, which is also how their files are called in protobuf's registry.
PACKAGE = "torchrelay/gateway/grpc/protos"
#: What declares the messages of others that ours have.
_MODULES = {
    "google/protobuf/empty.proto": "from google.protobuf import empty_pb2",
    "google/rpc/status.proto": "from google.rpc import status_pb2",
    f"{PACKAGE}/open_inference.proto": f"from {PACKAGE.replace('/', '.')} import open_inference_pb2",
}


def main() -> None:
    """Write the modules."""
    for name, text in compiled():
        (FOLDER / name).write_text(text, encoding="utf-8")


def compiled() -> Iterator[tuple[str, str]]:
    """Yield the name and the text of each file to be written."""
    with tempfile.TemporaryDirectory() as scratch:
        # protoc takes a file's name from where it lies.
        root = Path(scratch, "src", PACKAGE)
        make_folder(root.parent)
        root.symlink_to(FOLDER, target_is_directory=True)
        for source in sorted(FOLDER.glob("*.proto")):
            made = _run_protoc(Path(scratch), source.name)
            yield f"{source.stem}_pb2.py", _module(source.name, made)
            yield (
                f"{source.stem}_pb2.pyi",
                Path(scratch, PACKAGE, f"{source.stem}_pb2.pyi").read_text("utf-8"),
            )


def _run_protoc(scratch: Path, name: str) -> descriptor_pb2.FileDescriptorProto:
    said = scratch / "descriptors"
    included = [scratch / "src", resources.files("grpc_tools") / "_proto", *map(Path, sys.path)]
    options = [f"-I{folder}" for folder in included if Path(str(folder)).is_dir()]
    options += [f"--pyi_out={scratch}", f"--descriptor_set_out={said}", f"{PACKAGE}/{name}"]
    if protoc.main(["protoc", *options]):
        raise SystemExit(f"protoc can't compile {name}")
    (made,) = descriptor_pb2.FileDescriptorSet.FromString(said.read_bytes()).file
    return made


def _module(source: str, made: descriptor_pb2.FileDescriptorProto) -> str:
    packed = made.SerializeToString(deterministic=True)
    return _TEMPLATE.format(
        source=source,
        name=made.name,
        imports="".join(f"{_MODULES[used]}  # noqa: F401\n" for used in made.dependency),
        data="\n".join(f"    {packed[at : at + 60]!r}" for at in range(0, len(packed), 60)),
        messages="\n".join(
            f"{one.name} = message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name[{one.name!r}])"
            for one in made.message_type
        ),
    )


_TEMPLATE = '''"""The messages of {source}; compile_protos.py has made this module."""

from google.protobuf import descriptor_pool, message_factory
{imports}
# AddSerializedFile returns nothing where protobuf is not written in C.
descriptor_pool.Default().AddSerializedFile(
{data}
)
DESCRIPTOR = descriptor_pool.Default().FindFileByName("{name}")

{messages}
'''


if __name__ == "__main__":
    main()
