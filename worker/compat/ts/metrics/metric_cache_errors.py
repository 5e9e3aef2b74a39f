"""Errors of the metrics cache, each also the built-in error that it is a case of."""

import yaml


class GeneralMetricsCacheError(Exception):
    """Something else is wrong with the metrics cache."""


class MetricsCacheIOError(IOError):
    """The configuration can't be read."""


class MetricsCachePyYamlError(yaml.YAMLError):
    """The configuration is no YAML."""


class MetricsCacheTypeError(TypeError):
    """An argument has the wrong type."""


class MetricsCacheValueError(ValueError):
    """An argument, or the configuration, has a value that can't be."""


class MetricsCacheKeyError(KeyError):
    """No metric of this name and type was added, or the configuration lacks a key."""
