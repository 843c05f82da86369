"""No test reaches the network: the hub's client is told before any library reads it.

Nor does one find the answers of another run: each has a cache folder of its own.
"""

import os
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["ULTRALONG_CACHE"] = tempfile.mkdtemp(prefix="ultralong-tests-")
