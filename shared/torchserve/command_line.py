"""TorchServe's command line: the flags of `torchserve`, which programs of others parse as well."""

import argparse

#: Options that have no effect here, by what they are called in the parsed arguments, and why.
WITHOUT_EFFECT = {
    "log_config": "there is no Log4j here; LOG_LOCATION and METRICS_LOCATION say where logs go",
    "cpp_log_config": "there is no C++ backend here",
    "plugins_path": "plugins are Java; theirs are TorchServe's own extension points",
}


def parser() -> argparse.ArgumentParser:
    """Make the parser of the `torchserve` command, with TorchServe's flags."""
    made = argparse.ArgumentParser(prog="torchserve", description="Torchserve")
    what = made.add_mutually_exclusive_group()
    what.add_argument("-v", "--version", action="store_true", help="Return TorchServe Version")
    what.add_argument("--start", action="store_true", help="Start the model-server")
    what.add_argument("--stop", action="store_true", help="Stop the model-server")
    made.add_argument("--ts-config", help="Configuration file for model server")
    made.add_argument("--model-store", help="Folder of archives")
    made.add_argument("--workflow-store", help="Folder of archives of workflows")
    made.add_argument(
        "--models",
        nargs="+",
        metavar="M",
        help="Models to load: `all`, or archives and NAME=ARCHIVE, each a file of the model store or a url",
    )
    made.add_argument("--log-config", help=_taken("log_config"))
    made.add_argument("--cpp-log-config", help=_taken("cpp_log_config"))
    made.add_argument("--foreground", action="store_true", help="Run in the foreground, until Ctrl-C")
    made.add_argument(
        "--no-config-snapshots", "--ncs", action="store_true", help="Neither write nor look for snapshots"
    )
    made.add_argument("--plugins-path", "--ppath", help=_taken("plugins_path"))
    made.add_argument(
        "--disable-token-auth",
        "--dt",
        dest="token_auth",
        action="store_true",
        help="Let callers in without keys",
    )
    made.add_argument(
        "--enable-model-api", dest="model_mode", action="store_true", help="Allow register and unregister"
    )
    return made


def _taken(option: str) -> str:
    return f"Taken, and without effect: {WITHOUT_EFFECT[option]}"
