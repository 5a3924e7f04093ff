"""Dynamic sparse attention in Hugging Face decoders: layer plans, `port`, `unport` and a report.

The package is not named `port`: importing `tuili.port` would put a module where the function `tuili.port` is.
"""

from tuili.runtime import import_torch

import_torch()  # without torch: an error that says what to install
