"""The one way out when the streams worker cannot go on: say why, and end the process at once.

No cleanup runs: the last checkpoint is the truth, and whatever was under way is done again after the restart.
"""

import logging
import os
import sys
from typing import Final, NoReturn

from pulsestream.core.log import logger

EXIT_CODE: Final = 1
_log = logger(__name__)


def end_process(error: BaseException) -> NoReturn:
    """Log `error` and end this process without unwinding it."""
    _log.critical("worker ends", reason=str(error), kind=type(error).__name__, exc_info=error)
    for handler in logging.getLogger().handlers:
        handler.flush()
    sys.stderr.flush()
    os._exit(EXIT_CODE)
