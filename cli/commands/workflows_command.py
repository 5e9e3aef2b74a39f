"""`torchrelay workflows ...`: the management of workflows, and a call of one."""

from typing import Annotated

import typer

from torchrelay.cli.commands import options
from torchrelay.cli.commands.predict import ContentType, File, opened, show
from torchrelay.cli.faults import FaultReportingGroup

app = typer.Typer(
    cls=FaultReportingGroup,
    help="List, register, ask and remove workflows: models and functions that follow one another.",
    no_args_is_help=True,
)

Name = Annotated[str, typer.Argument(metavar="WORKFLOW")]


@app.command("list")
def list_workflows(
    management: options.Management = options.DEFAULT_MANAGEMENT, as_json: options.Json = False
) -> None:
    """List the registered workflows."""
    from torchrelay.cli.remote import rendering
    from torchrelay.cli.remote.connected import connected

    with connected("management", management) as client:
        listed = list(client.workflows())
    rendering.show(listed, as_json, rendering.workflow_list)


@app.command()
def describe(
    workflow: Name,
    management: options.Management = options.DEFAULT_MANAGEMENT,
    as_json: options.Json = False,
) -> None:
    """Show which steps a workflow has, and which follow which."""
    from torchrelay.cli.remote import rendering
    from torchrelay.cli.remote.connected import connected

    with connected("management", management) as client:
        (described,) = client.describe_workflow(workflow)
    rendering.show(described, as_json, rendering.workflow)


@app.command()
def register(
    url: Annotated[
        str, typer.Argument(metavar="ARCHIVE", help="A file of the server's workflow store, or a url.")
    ],
    name: Annotated[str | None, typer.Option(help="Instead of the archive's own name.")] = None,
    response_timeout: Annotated[
        int | None, typer.Option(help="Seconds that a worker may take to answer.")
    ] = None,
    startup_timeout: Annotated[
        int | None, typer.Option(help="Seconds that a worker may take to load.")
    ] = None,
    management: options.Management = options.DEFAULT_MANAGEMENT,
    as_json: options.Json = False,
) -> None:
    """Register an archive, with the models that it names, and wait for the workers of all steps.

    A .war is code, and runs with the rights of its workers: register only what you would run.
    """
    from torchrelay.cli.remote import connected, rendering
    from torchrelay.shared.api_bodies import StatusBody

    with connected.connected(
        "management", management, advice=connected.WORKFLOW_REGISTRATION_ADVICE
    ) as client:

        def change() -> StatusBody:
            return client.register_workflow(
                url,
                workflow_name=name,
                response_timeout=response_timeout,
                startup_timeout=startup_timeout,
            )

        answer = rendering.while_watching(change, client)
    rendering.show(answer, as_json, lambda status: status.status)


@app.command()
def unregister(
    workflow: Name,
    management: options.Management = options.DEFAULT_MANAGEMENT,
    as_json: options.Json = False,
) -> None:
    """Remove a workflow, with the models that are its steps."""
    from torchrelay.cli.remote import rendering
    from torchrelay.cli.remote.connected import connected

    with connected("management", management) as client:
        answer = client.unregister_workflow(workflow)
    rendering.show(answer, as_json, lambda status: status.status)


@app.command()
def predict(
    workflow: Name,
    file: File = None,
    content_type: ContentType = None,
    inference: options.Inference = options.DEFAULT_INFERENCE,
) -> None:
    """Send a request to a workflow and print its answer, as `torchrelay predict` does."""
    from torchrelay.cli.remote.connected import connected

    with connected("inference", inference) as client, opened(file) as data:
        answer = client.predict_workflow(workflow, data, content_type=content_type)
    show([answer.content], answer.content_type)
