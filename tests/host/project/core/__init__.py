"""A host's own package, which is called core too."""

import os
import sys

# A package that the machine is to lack: imports of it fail.
if "HOST_LACKS" in os.environ:
    sys.modules[os.environ["HOST_LACKS"]] = None
