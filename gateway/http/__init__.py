"""HTTP/1.1 on httptools and uvicorn: connections, requests, TLS. Knows no API."""
