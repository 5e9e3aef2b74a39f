"""One module for each API: requests in, responses out."""
