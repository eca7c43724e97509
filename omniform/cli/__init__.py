"""The command `omniform`."""
