"""What a client may do before its token is known: connections, headers and seconds."""
