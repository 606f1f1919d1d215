"""Tests of the runtime import their hand-written programs as ``programs``."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
