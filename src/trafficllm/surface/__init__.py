"""Where people meet it: command line, Python, server."""
