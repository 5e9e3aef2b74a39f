"""Stand-ins for what a server gives a handler."""
