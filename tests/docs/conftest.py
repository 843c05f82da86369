import sys
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
sys.path.insert(0, str(DOCS))  # where docs/reference.py is, which mkdocs imports from there too
