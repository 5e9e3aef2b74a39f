"""What tests of handlers outside a server use."""
