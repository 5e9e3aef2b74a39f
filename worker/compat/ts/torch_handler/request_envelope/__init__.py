"""Request envelopes: what a request looks like outside, and rows for a handler inside."""
