"""One command a file: its function `command`, whose docstring is the help. Heavy imports stay inside the function."""
