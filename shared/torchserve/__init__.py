"""TorchServe's own formats: config.properties, log lines, snapshot files."""
