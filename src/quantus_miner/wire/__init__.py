"""Wire formats and state machines, without I/O: bytes and times in, decisions out."""
