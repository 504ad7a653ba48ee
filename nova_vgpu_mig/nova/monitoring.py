# Licensed under the Apache License, Version 2.0 (the "License"); you may
# not use this file except in compliance with the License. You may obtain
# a copy of the License at
#
#      http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS, WITHOUT
# WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the
# License for the specific language governing permissions and limitations
# under the License.


"""Nova's monitor of a live migration, kept at its post.

When anything raises in the monitor, Nova asks libvirt to abort the job and
puts the VM in ERROR at the source, whatever becomes of the move. But an
abort may fail, as the VF can have been given up by then, or nobody answers
(and the abort after a time-out is itself what raises most): the VM would
then run at a destination that Nova knows nothing of. So a monitor that fails
is started again as long as the move goes on; it decides from libvirt's job,
each time afresh.

An error in what Nova does after the end of a move, successful or not, is
passed on: that must not be done twice.
"""

from collections.abc import Callable
import time
from typing import Any

from oslo_log import log as logging

LOG = logging.getLogger(__name__)

PAUSE = 2.0
"""Seconds between a monitor that failed and the next."""

TRIES_AFTERWARDS = 15
"""Of a monitor that fails although the move has ended, before it is passed
on: libvirt may have to come back first."""


class _Ending:
    """Nova's handler of an end; notes that it was called."""

    def __init__(self) -> None:
        self.begun = False

    def noting(self, handler: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*args: Any, **kwargs: Any) -> Any:
            self.begun = True
            return handler(*args, **kwargs)
        return noted


def watch(monitor: Callable[..., None], post_method: Callable[..., Any],
          recover_method: Callable[..., Any], future: Any, instance: Any,
          pause: float = PAUSE) -> None:
    """Run a monitor, again and again if need be, to the end of the move.

    :param monitor: takes the two handlers of Nova.
    :param future: of the operation that is monitored.
    :param pause: seconds before another try.
    :raises Exception: what a handler raised, or what the monitor still
        raises long after the operation has returned.
    """
    ending = _Ending()
    left = TRIES_AFTERWARDS
    while True:
        ended = future.done()
        try:
            monitor(ending.noting(post_method), ending.noting(recover_method))
            return
        except Exception as exc:
            left -= ended
            if ending.begun or not left:
                raise
            LOG.warning('The monitor of the live migration failed and '
                        'begins again: %s: %s', type(exc).__name__, exc,
                        instance=instance)
        time.sleep(pause)
