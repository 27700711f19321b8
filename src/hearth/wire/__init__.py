"""Sans-I/O protocol cores; fuzzed."""
