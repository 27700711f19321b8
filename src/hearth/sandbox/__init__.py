"""Where functions run: one written contract (base), and the backends that keep it."""
