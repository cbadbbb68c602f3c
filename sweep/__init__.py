"""The program: from a command line to a finished study."""
