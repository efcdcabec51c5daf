"""The ESP engine (RFC 4303): bytes in, bytes out, no sockets and no clocks."""
