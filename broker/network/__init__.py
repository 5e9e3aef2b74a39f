"""What the broker's sockets need beside zmq: addresses, connections, memory, credit."""
