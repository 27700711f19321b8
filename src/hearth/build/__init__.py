"""From what a user sends to what can run: bundles, runtimes, dependencies."""
