"""cellplm: single-cell and spatial files in, a corpus out, a trained CellPLM model at the end."""
