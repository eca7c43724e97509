"""The six stamps of a system: row, build, layout, parity, train, generate; one check a file."""
