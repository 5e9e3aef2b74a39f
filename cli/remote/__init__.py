"""The client of a running server's REST API, and how its answers are shown."""
