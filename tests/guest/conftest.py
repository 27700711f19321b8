"""The tests under `inside/` are for the guest; on the host only the harness itself is tested."""

import os

collect_ignore = ["test_run.py"] if "HEARTH_TEST_GUEST" in os.environ else ["inside"]
