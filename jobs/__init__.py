"""The arq jobs, one a file."""
