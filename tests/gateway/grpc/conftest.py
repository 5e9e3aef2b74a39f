"""Has a test run with each server of gRPC."""

import pytest

from tests.gateway.grpc import serving


@pytest.fixture(params=["grpcio", "pygrpc-native"])
def each_server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Have `served` take one of them where a test doesn't say which."""
    monkeypatch.setattr(serving, "usual_server", request.param)
    return str(request.param)
