"""The command line: a file a command, and what it prints on a terminal."""
