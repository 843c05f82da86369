import sys
from pathlib import Path

# Small tokenizers of known kinds are made there.
sys.path.insert(0, str(Path(__file__).parents[2] / "data"))
