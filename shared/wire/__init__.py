"""The fleet's wire: messages, their codec, and the sockets that carry them."""
