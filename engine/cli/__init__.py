"""The command line: one file a command. Only click is imported at the top of a file; a command imports what it needs when it runs."""
