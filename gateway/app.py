"""Composition root of the HTTP side: every route of every port, on one screen."""

import re
from urllib.parse import urlsplit

import msgspec
from falcon.asgi import Response

from torchrelay.gateway.api import inference, management, member_resources, metadata, metrics, workflows
from torchrelay.gateway.api.base_app import App, bare_app
from torchrelay.gateway.api.gateway_request import GatewayRequest
from torchrelay.gateway.api.open_inference import KserveV2Resource, OpenInferenceResource
from torchrelay.gateway.http import addresses
from torchrelay.gateway.http.browsers import BrowserCheck
from torchrelay.gateway.http.exchange import AsgiApp
from torchrelay.gateway.link import Link
from torchrelay.gateway.listener_app import ListenerApp
from torchrelay.gateway.openapi import documents
from torchrelay.shared.settings import GatewaySettings, is_reachable_from_outside
from torchrelay.shared.wire.fields import MemberRole

#: The only path whose case doesn't count; routes that fit as well, such as `/{model}/predict`, go first.
_WORKFLOW = re.compile(r"/wfpredict/(?P<workflow>[^/]+)", re.IGNORECASE)


def create_app(link: Link, config: GatewaySettings) -> ListenerApp:
    """Make all APIs twice, with a check of keys and without: the broker may ask for keys later."""
    apps = guarded = _apps(link, config)
    if not config.token_authorization:
        guarded = _apps(link, msgspec.structs.replace(config, token_authorization=True))
    return ListenerApp(link, apps, guarded, browser_checks(config), config)


def _apps(link: Link, config: GatewaySettings) -> dict[addresses.Key, AsgiApp]:
    """Make an API for each listener; equal addresses share one."""
    apps: dict[addresses.Key, AsgiApp] = {}
    if config.enable_metrics_api:
        apps[addresses.key(config.metrics_address, "metrics_address")] = metrics_app(link, config)
    inference_key = addresses.key(config.inference_address, "inference_address")
    management_key = addresses.key(config.management_address, "management_address")
    if inference_key == management_key:
        apps[inference_key] = shared_app(link, config)
    else:
        apps[inference_key] = inference_app(link, config)
        apps[management_key] = management_app(link, config)
    return apps


def browser_checks(config: GatewaySettings) -> dict[addresses.Key, BrowserCheck]:
    """Make the check for requests of other sites' pages, for each listener."""
    made: dict[addresses.Key, BrowserCheck] = {}
    for setting, address in addresses.all_of(config).items():
        is_outside = is_reachable_from_outside(address)
        # Names don't lead to a unix socket; a proxy in front of one may use any.
        takes_any = address.startswith("unix:") or (is_outside and config.any_host_outside)
        key = addresses.key(address, setting)
        made[key] = BrowserCheck(
            (urlsplit(address).hostname or "",),
            ("*",) if takes_any else config.allowed_hosts,
            config.cors_allowed_origin,
            # Any method predicts; a shared port counts as that of inference.
            is_read_only=key != addresses.key(config.inference_address, "inference_address"),
        )
    return made


def inference_app(link: Link, config: GatewaySettings) -> App:
    """Make the inference API."""
    app = bare_app(documents.inference(config), link, config, "inference")
    add_inference(app, link, config)
    return app


def add_inference(app: App, link: Link, config: GatewaySettings) -> None:
    """Add the routes of inference."""
    predictions = inference.PredictionsResource(link, config)
    explanations = inference.PredictionsResource(link, config, explain=True)
    for prefix, resource in (("/predictions", predictions), ("/explanations", explanations)):
        app.add_route(prefix + "/{model}", resource)
        app.add_route(prefix + "/{model}/{version}", resource)
        app.add_route(prefix + "/{model}/{version}/{rest:path}", resource)
    app.add_route("/ping", inference.PingResource(link, config))
    app.add_route("/ping/{rest:path}", inference.PingResource(link, config))
    app.add_route("/invocations", inference.InvocationsResource(link, config))
    app.add_route("/models/{model}/invoke", inference.InvokeResource(link, config))
    app.add_route("/{model}/predict", inference.OldPredictionsResource(link, config))
    app.add_route("/{model}/{version}/predict", inference.OldPredictionsResource(link, config))
    app.add_route("/v1/models/{target}", inference.KserveV1Resource(link, config))
    app.add_sink(workflows.WorkflowPredictions(link, config).on_request, _WORKFLOW)
    if config.open_inference_protocol:
        add_open_inference(app, link, config)
    else:
        app.add_route("/v2/models/{model}/infer", KserveV2Resource(link, config))
        app.add_route("/v2/models/{model}/explain", KserveV2Resource(link, config, explain=True))


def add_open_inference(app: App, link: Link, config: GatewaySettings) -> None:
    """Add the routes of the open inference protocol."""
    app.add_route("/v2", metadata.ServerMetadataResource())
    app.add_route("/v2/health/live", metadata.HealthResource(link, config), suffix="live")
    app.add_route("/v2/health/ready", metadata.HealthResource(link, config), suffix="ready")
    for path in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
        app.add_route(path, metadata.ModelMetadataResource(link, config))
        app.add_route(path + "/ready", metadata.ModelReadyOnInferenceResource(link, config))
        app.add_route(path + "/infer", OpenInferenceResource(link, config))
        app.add_route(path + "/explain", OpenInferenceResource(link, config, explain=True))


def management_app(link: Link, config: GatewaySettings) -> App:
    """Make the management API."""
    app = bare_app(documents.management(config), link, config, "management")
    add_management(app, link, config)
    app.add_route("/v1/models/{target}", management.ReadinessResource(link, config))
    ready = metadata.ModelReadyResource(link, config)
    app.add_route("/v2/models/{model}/ready", ready)
    app.add_route("/v2/models/{model}/versions/{version}/ready", ready)
    return app


def add_management(app: App, link: Link, config: GatewaySettings) -> None:
    """Add the routes of management."""
    app.add_route("/models", management.ModelsResource(link, config))
    app.add_route("/models/{model}", management.ModelResource(link, config))
    app.add_route("/models/{model}/{version}", management.ModelResource(link, config))
    app.add_route("/models/{model}/{version}/set-default", management.DefaultVersionResource(link, config))
    app.add_route("/workflows", workflows.WorkflowsResource(link, config))
    app.add_route("/workflows/{workflow}", workflows.WorkflowResource(link, config))
    app.add_route("/fleet", management.FleetResource(link, config))
    app.add_route("/livez", management.ProbesResource(link, config), suffix="live")
    app.add_route("/readyz", management.ProbesResource(link, config), suffix="ready")
    add_members(app, link, config, "node")
    app.add_route("/nodes/{name}/drain", member_resources.MemberChangeResource(link, config, "node", "drain"))
    app.add_route(
        "/nodes/{name}/resume", member_resources.MemberChangeResource(link, config, "node", "resume")
    )
    add_members(app, link, config, "gateway")
    app.add_route("/broker/key/rotate", member_resources.BrokerKeyResource(link, config))
    app.add_route("/readyz/{model}", management.ModelProbesResource(link, config))
    app.add_route("/readyz/{model}/{version}", management.ModelProbesResource(link, config))
    if config.token_authorization:
        app.add_route("/token", management.TokenResource(link, config))


def add_members(app: App, link: Link, config: GatewaySettings, role: MemberRole) -> None:
    """Add the routes of the members of a role."""
    path = f"/{role}s"
    app.add_route(path, member_resources.MemberListResource(link, config, role))
    app.add_route(path + "/invitations", member_resources.InvitationListResource(link, config, role))
    app.add_route(path + "/invitations/{invitation}", member_resources.InvitationResource(link, config, role))
    app.add_route(path + "/{name}", member_resources.MemberResource(link, config, role))
    app.add_route(
        path + "/{name}/revoke", member_resources.MemberChangeResource(link, config, role, "revoke")
    )


def metrics_app(link: Link, config: GatewaySettings) -> App:
    """Make the metrics API."""
    app = bare_app(documents.metrics(config), link, config, None)
    add_metrics(app, link, config)
    return app


def add_metrics(app: App, link: Link, config: GatewaySettings) -> None:
    """Add the route of metrics."""
    app.add_route("/metrics", metrics.MetricsResource(link, config))
    app.add_route("/metrics/{rest:path}", metrics.MetricsResource(link, config))


def shared_app(link: Link, config: GatewaySettings) -> App:
    """Make one app of all APIs, for a port that they share."""
    app = bare_app(documents.shared(config), link, config, "inference")
    add_inference(app, link, config)
    add_management(app, link, config)
    app.add_route("/v1/models/{target}", SharedKserveV1Resource(link, config))
    if config.enable_metrics_api:
        add_metrics(app, link, config)
    return app


class SharedKserveV1Resource(inference.KserveV1Resource):
    """`/v1/models/{target}` on a shared port: without a verb it asks whether the model is ready."""

    async def on_get(self, req: GatewayRequest, resp: Response, target: str) -> None:
        """Predict, explain, or tell whether the model is ready."""
        if inference.kserve_verb(target) is None:
            await management.ReadinessResource(self._link, self._config).on_get(req, resp, target)
        else:
            await self.on_request(req, resp, target)
