"""Writes metrics as JSON."""

import json

from ts.metrics.dimension import Dimension
from ts.metrics.metric import Metric


class MetricEncoder(json.JSONEncoder):
    """A JSON encoder that knows metrics and dimensions."""

    def default(self, o: object) -> object:
        """Return what JSON shows of an object."""
        return o.to_dict() if isinstance(o, Metric | Dimension) else super().default(o)
