"""What hostile user code tries. Runs inside the sandbox: the standard library only."""
