"""Train a codec of media by itself."""
