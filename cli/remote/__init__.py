"""What a running server says, as commands show it."""
