"""The shell: all input and output. Each file is one outside thing and takes no decision."""
