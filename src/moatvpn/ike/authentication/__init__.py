"""How the two sides prove who they are (RFC 7296, 2.15): one file a method, one contract."""
