"""The command line: one command a file; nothing below it prints or parses arguments."""
