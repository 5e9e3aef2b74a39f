"""The fleet's one owner of registrations, queues and leases."""
