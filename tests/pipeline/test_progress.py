import os
import pty
import subprocess
import sys

from ultralong_hf.pipeline.progress import last_line

SHOWS = """
import sys, time
from pathlib import Path
from ultralong_hf.output_files import printing_to
from ultralong_hf.pipeline import progress

progress._SECONDS = 0.05
log = Path(sys.argv[1])
with progress.showing_progress(log), printing_to(log):
    sys.stderr.write("  5%|#  | 1/20\\r 10%|## | 2/20")
    sys.stderr.flush()
    time.sleep(0.5)
print("after")
"""


def test_the_last_state_of_a_bar_is_the_last_line(tmp_path):
    log = tmp_path / "log"
    assert last_line(log) == ""
    log.write_text("begun\n\n 10%|█  | 1/10\r \x1b[32m20%|██ | 2/10 [00:01]\x1b[0m\n\n")
    assert last_line(log) == "20%|██ | 2/10 [00:01]"


def test_a_terminal_sees_it_and_the_log_has_all(tmp_path):
    log = tmp_path / "log"
    ours, theirs = pty.openpty()
    with subprocess.Popen([sys.executable, "-c", SHOWS, str(log)], stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        try:
            while block := os.read(ours, 1000):
                shown += block
        except OSError:  # the other end is closed
            pass
        assert process.wait() == 0
    os.close(ours)
    assert b"\r\x1b[K10%|## | 2/20" in shown
    assert shown.rstrip().endswith(b"\r\x1b[Kafter")
    assert log.read_bytes() == b"  5%|#  | 1/20\r 10%|## | 2/20"
