"""Makes the versions importable from the tests (`import v0_bigram`), wherever pytest is started."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
