"""The `hearth` command: one verb, one file; talks HTTP except for verbs about this host."""
