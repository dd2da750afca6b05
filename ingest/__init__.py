"""Raw files in: find, read, check, harmonise, sort, commit."""
