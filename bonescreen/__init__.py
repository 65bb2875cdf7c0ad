"""The front door: command line, one-machine stack, tables and exports."""
