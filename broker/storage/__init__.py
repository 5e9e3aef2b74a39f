"""What lies on disk: the registry, key files, snapshots, logs of metrics. Blocking; runs in threads."""
