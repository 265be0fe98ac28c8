"""``python -m ckpt_tools`` is ``ckpt``."""

import os
import sys

# Python puts the current folder first in the path for `-m`: a json.py beside a checkpoint is not to be imported.
try:
    HERE = os.getcwd()
except OSError:  # it was removed
    HERE = ""
if not getattr(sys.flags, "safe_path", False) and sys.path[0] in ("", HERE):
    del sys.path[0]

from ckpt_tools.cli import main

if __name__ == "__main__":
    main()
