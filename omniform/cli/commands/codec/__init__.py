"""Teach a codec of media by itself, and see what its codes give back."""
