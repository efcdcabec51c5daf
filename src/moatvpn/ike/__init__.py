"""The IKEv2 core (RFC 7296), sans-IO: datagrams and the time in, datagrams and events out."""
